//! `MTLLibrary`, `MTLFunction`, and what they are made with.

use super::device::{Device, device, too_many_threads};
use super::invalid;
use crate::foundation::{Label, NSArray, NSDictionary, NSError, NSObject, NSString};
use crate::msl::{self, Constants, Options};
use crate::objc::{Allocated, ErrorOut, Instance, Range, Strong, class};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};

/// `MTLMathModeFast`.
const MATH_FAST: isize = 2;
/// `MTLMathModeSafe`.
const MATH_SAFE: isize = 0;
/// The newest `MTLLanguageVersion` there is: 3.2.
const NEWEST_LANGUAGE: usize = (3 << 16) + 2;

/// A library.
pub struct Library {
    library: Arc<msl::Library>,
    /// Threads of a threadgroup that its kernels are compiled for, if the options say.
    max_threads: usize,
    label: Label,
}

class! {
    Library: class "SoftmetalLibrary", superclass NSObject, protocols ["MTLLibrary"], Long;
    - "device" => Library::device;
    - "label" => Library::label;
    - "setLabel:" => Library::set_label;
    - "functionNames" => Library::function_names;
    - "type" => Library::kind;
    - "newFunctionWithName:" => Library::new_function;
    - "newFunctionWithName:constantValues:error:" => Library::new_function_with;
}

impl Library {
    /// The library of a text; otherwise what is wrong with it. The whole text is read, as Metal's compiler does: each
    /// kernel is compiled when a pipeline asks for it.
    pub(super) fn new(
        source: &str,
        options: Option<&Instance<CompileOptions>>,
    ) -> Result<Strong<Library>, String> {
        let max_threads = options.map_or(0, |options| options.max_threads());
        let options = options.map_or_else(CompileOptions::default_options, |options| options.options());
        let library = msl::Library::new(source, &options).map_err(|error| error.to_string())?;
        library.check().map_err(|error| error.to_string())?;
        Ok(Strong::new(Library { library: Arc::new(library), max_threads, label: Label::default() }))
    }

    fn function(&self, name: &str, constants: Constants) -> Option<Strong<Function>> {
        let there = self.library.kernels().any(|kernel| kernel == name);
        there.then(|| {
            let (library, name, max_threads) = (self.library.clone(), name.to_owned(), self.max_threads);
            Strong::new(Function { library, name, constants, max_threads, label: Label::default() })
        })
    }

    fn new_function(&self, name: &Instance<NSString>) -> Option<Strong<Function>> {
        self.function(name.text(), Constants::default())
    }

    fn new_function_with(
        &self,
        name: &Instance<NSString>,
        constants: &Instance<FunctionConstantValues>,
        error: ErrorOut,
    ) -> Option<Strong<Function>> {
        let function = self.function(name.text(), constants.constants().clone());
        // MTLLibraryErrorFunctionNotFound.
        let missing =
            || NSError::new("MTLLibraryErrorDomain", 5, format!("Function {} does not exist", name.text()));
        function.or_else(|| error.fail(missing()))
    }

    fn function_names(&self) -> Strong<NSArray> {
        NSArray::new(self.library.kernels().map(|name| NSString::new(name).into()).collect())
    }

    /// `MTLLibraryTypeExecutable`.
    fn kind(&self) -> isize {
        0
    }

    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.label.set(label);
    }
}

/// A kernel by name, with the values of its constants.
pub struct Function {
    library: Arc<msl::Library>,
    name: String,
    constants: Constants,
    max_threads: usize,
    label: Label,
}

class! {
    Function: class "SoftmetalFunction", superclass NSObject, protocols ["MTLFunction"], Short;
    - "device" => Function::device;
    - "label" => Function::label;
    - "setLabel:" => Function::set_label;
    - "name" => Function::name;
    - "functionType" => Function::function_type;
}

impl Function {
    /// Its kernel, compiled.
    pub(super) fn kernel(&self) -> Result<Arc<msl::Kernel>, String> {
        self.library.kernel(&self.name, &self.constants).map_err(|error| error.to_string())
    }

    /// Threads of a threadgroup that its library is compiled for, if the options say.
    pub(super) fn max_threads(&self) -> Option<usize> {
        Some(self.max_threads).filter(|&threads| threads != 0)
    }

    /// Its name.
    pub(super) fn text(&self) -> &str {
        &self.name
    }

    fn name(&self) -> Strong<NSString> {
        NSString::new(&self.name)
    }

    /// `MTLFunctionTypeKernel`.
    fn function_type(&self) -> usize {
        3
    }

    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.label.set(label);
    }
}

#[derive(Clone)]
struct Settings {
    fast_math: bool,
    math_mode: isize,
    functions: isize,
    language: usize,
    optimization: isize,
    preserve_invariance: bool,
    macros: Option<Strong<NSDictionary>>,
    max_threads: usize,
}

/// `MTLCompileOptions`.
pub struct CompileOptions {
    settings: Mutex<Settings>,
}

class! {
    CompileOptions: linked "._OBJC_CLASS_MTLCompileOptions" "MTLCompileOptions", superclass NSObject, protocols ["NSCopying"], Short;
    - "init" => CompileOptions::init;
    - "fastMathEnabled" => CompileOptions::fast_math;
    - "setFastMathEnabled:" => CompileOptions::set_fast_math;
    - "mathMode" => CompileOptions::math_mode;
    - "setMathMode:" => CompileOptions::set_math_mode;
    - "mathFloatingPointFunctions" => CompileOptions::functions;
    - "setMathFloatingPointFunctions:" => CompileOptions::set_functions;
    - "languageVersion" => CompileOptions::language;
    - "setLanguageVersion:" => CompileOptions::set_language;
    - "optimizationLevel" => CompileOptions::optimization;
    - "setOptimizationLevel:" => CompileOptions::set_optimization;
    - "preserveInvariance" => CompileOptions::preserve_invariance;
    - "setPreserveInvariance:" => CompileOptions::set_preserve_invariance;
    - "preprocessorMacros" => CompileOptions::macros;
    - "setPreprocessorMacros:" => CompileOptions::set_macros;
    - "maxTotalThreadsPerThreadgroup" => CompileOptions::max_threads;
    - "setMaxTotalThreadsPerThreadgroup:" => CompileOptions::set_max_threads;
}

impl CompileOptions {
    fn init(_: Allocated) -> Strong<CompileOptions> {
        let settings = Settings {
            fast_math: true,
            math_mode: MATH_FAST,
            functions: 0,
            language: NEWEST_LANGUAGE,
            optimization: 0,
            preserve_invariance: false,
            macros: None,
            max_threads: 0,
        };
        Strong::new(CompileOptions { settings: Mutex::new(settings) })
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What a library is compiled with when it has no options: Metal's default is fast math.
    fn default_options() -> Options {
        Options { fast_math: true, ..Options::default() }
    }

    fn options(&self) -> Options {
        let settings = self.settings();
        let macros = settings.macros.as_ref().map(|macros| macros.texts().collect()).unwrap_or_default();
        let fast_math = settings.math_mode != MATH_SAFE && settings.functions == 0;
        Options { fast_math, macros, language_version: Some(settings.language as u32) }
    }

    fn fast_math(&self) -> bool {
        self.settings().fast_math
    }

    fn set_fast_math(&self, fast: bool) {
        let mut settings = self.settings();
        settings.fast_math = fast;
        settings.math_mode = if fast { MATH_FAST } else { MATH_SAFE };
        settings.functions = isize::from(!fast);
    }

    fn math_mode(&self) -> isize {
        self.settings().math_mode
    }

    fn set_math_mode(&self, mode: isize) {
        if !(0..=2).contains(&mode) {
            invalid(
                "-[MTLCompileOptions setMathMode:]",
                format!("wants safe 0, relaxed 1 or fast 2, got {mode}"),
            );
        }
        self.settings().math_mode = mode;
    }

    /// `MTLMathFloatingPointFunctions`: fast 0, precise 1.
    fn functions(&self) -> isize {
        self.settings().functions
    }

    fn set_functions(&self, functions: isize) {
        self.settings().functions = functions;
    }

    fn language(&self) -> usize {
        self.settings().language
    }

    fn set_language(&self, version: usize) {
        let (major, minor) = (version >> 16, version & 0xffff);
        if !(1..=4).contains(&major) || version > NEWEST_LANGUAGE {
            invalid(
                "-[MTLCompileOptions setLanguageVersion:]",
                format!("wants at most 3.2, got {major}.{minor}"),
            );
        }
        self.settings().language = version;
    }

    fn optimization(&self) -> isize {
        self.settings().optimization
    }

    fn set_optimization(&self, level: isize) {
        self.settings().optimization = level;
    }

    fn preserve_invariance(&self) -> bool {
        self.settings().preserve_invariance
    }

    fn set_preserve_invariance(&self, preserve: bool) {
        self.settings().preserve_invariance = preserve;
    }

    fn macros(&self) -> Option<Strong<NSDictionary>> {
        self.settings().macros.clone()
    }

    fn set_macros(&self, macros: Option<&Instance<NSDictionary>>) {
        self.settings().macros = macros.map(Instance::retain);
    }

    fn max_threads(&self) -> usize {
        self.settings().max_threads
    }

    fn set_max_threads(&self, threads: usize) {
        too_many_threads("-[MTLCompileOptions setMaxTotalThreadsPerThreadgroup:]", threads);
        self.settings().max_threads = threads;
    }
}

/// `MTLFunctionConstantValues`.
#[derive(Default)]
pub struct FunctionConstantValues {
    constants: Mutex<Constants>,
}

class! {
    FunctionConstantValues: linked "._OBJC_CLASS_MTLFunctionConstantValues" "MTLFunctionConstantValues", superclass NSObject, protocols ["NSCopying"], Short;
    - "init" => FunctionConstantValues::init;
    - "setConstantValue:type:atIndex:" => FunctionConstantValues::set;
    - "setConstantValues:type:withRange:" => FunctionConstantValues::set_range;
    - "setConstantValue:type:withName:" => FunctionConstantValues::set_named;
    - "reset" => FunctionConstantValues::reset;
}

/// Bytes of a value of an `MTLDataType` that a function constant can have: scalars, and vectors of 2, 3 and 4.
fn constant_size(data_type: usize) -> Option<usize> {
    let (scalar, size) = match data_type {
        3..=6 => (3, 4),
        16..=19 => (16, 2),
        29..=32 => (29, 4),
        33..=36 => (33, 4),
        37..=40 => (37, 2),
        41..=44 => (41, 2),
        45..=48 => (45, 1),
        49..=52 => (49, 1),
        53..=56 => (53, 1),
        81..=84 => (81, 8),
        85..=88 => (85, 8),
        121..=124 => (121, 2),
        _ => return None,
    };
    // A vector of three has the room of four.
    Some(size * [1, 2, 4, 4][data_type - scalar])
}

impl FunctionConstantValues {
    fn init(_: Allocated) -> Strong<FunctionConstantValues> {
        Strong::new(FunctionConstantValues::default())
    }

    fn constants(&self) -> MutexGuard<'_, Constants> {
        self.constants.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The bytes of values of a type; the call is reported if it is no constant's.
    fn bytes(selector: &str, values: *const c_void, data_type: usize, count: usize) -> Option<Vec<Vec<u8>>> {
        let Some(size) = constant_size(data_type) else {
            let place = format!("-[MTLFunctionConstantValues {selector}]");
            invalid(&place, format!("wants a scalar's or vector's MTLDataType, got {data_type}"));
            return None;
        };
        // SAFETY: the caller's values, of that type.
        let bytes = unsafe { std::slice::from_raw_parts(values.cast::<u8>(), size * count) };
        Some(bytes.chunks_exact(size).map(<[u8]>::to_vec).collect())
    }

    fn set(&self, value: *const c_void, data_type: usize, index: usize) {
        self.set_values(
            "setConstantValue:type:atIndex:",
            value,
            data_type,
            Range { location: index, length: 1 },
        );
    }

    fn set_range(&self, values: *const c_void, data_type: usize, range: Range) {
        self.set_values("setConstantValues:type:withRange:", values, data_type, range);
    }

    fn set_values(&self, selector: &str, values: *const c_void, data_type: usize, range: Range) {
        let values = Self::bytes(selector, values, data_type, range.length).into_iter().flatten();
        for (nth, value) in values.enumerate() {
            let index = range.location + nth;
            self.constants().by_index.insert(index as u32, (data_type as u32, value));
        }
    }

    fn set_named(&self, value: *const c_void, data_type: usize, name: &Instance<NSString>) {
        let values =
            Self::bytes("setConstantValue:type:withName:", value, data_type, 1).into_iter().flatten();
        for value in values {
            self.constants().by_name.insert(name.text().to_owned(), (data_type as u32, value));
        }
    }

    fn reset(&self) {
        *self.constants() = Constants::default();
    }
}
