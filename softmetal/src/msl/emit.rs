//! A kernel's C++: the library's text, the values of its function constants, and the entry that the executor calls.

use super::kernels::{Binding, Export};
use super::program::{FunctionConstant, Program, Segment};
use super::token::{Kind, Place, Token, show};
use super::{CompileError, Constants};
use std::collections::HashMap;
use std::fmt::Write as _;

/// Text for clang, and how its columns go back to the shader's.
#[derive(Default)]
pub struct Emitted {
    pub text: String,
    /// By file and line: pairs of a column here and one there.
    columns: HashMap<(String, u32), Vec<(u32, u32)>>,
}

impl Emitted {
    /// The column of the shader's text that a column of this one is.
    pub fn column(&self, file: &str, line: u32, column: u32) -> u32 {
        let Some(pairs) = self.columns.get(&(file.to_owned(), line)) else { return column };
        pairs.iter().take_while(|(here, _)| *here <= column).last().map_or(column, |(_, there)| *there)
    }
}

/// What an undefined symbol is called that stands for a function constant without a value.
pub const NO_VALUE: &str = "softmetal_no_value_of_";

/// The file that the entry's lines are said to be of.
pub const ENTRY: &str = "<softmetal>";

struct Writer<'a> {
    files: &'a [String],
    emitted: Emitted,
    /// The file and line that the text has reached.
    file: Option<u32>,
    line: u32,
    column: u32,
}

impl Writer<'_> {
    fn go_to(&mut self, place: Place) {
        let forward = place.line.wrapping_sub(self.line);
        if self.file == Some(place.file) && forward <= 8 {
            for _ in 0..forward {
                self.emitted.text.push('\n');
            }
            if forward > 0 {
                self.column = 1;
            }
        } else {
            let file = self.files.get(place.file as usize).map_or("program_source", String::as_str);
            let _ = write!(self.emitted.text, "\n# {} \"{file}\"\n", place.line);
            self.column = 1;
        }
        self.file = Some(place.file);
        self.line = place.line;
    }

    fn token(&mut self, token: &Token) {
        if token.kind == Kind::Directive {
            self.file = None;
            self.go_to(token.place);
            let _ = writeln!(self.emitted.text, "{}", token.text);
            self.line += 1;
            return;
        }
        self.go_to(token.place);
        if self.column == 1 {
            // Lines begin where they did, so that columns of untouched lines are theirs.
            for _ in 1..token.place.column {
                self.emitted.text.push(' ');
            }
            self.column = token.place.column;
        } else if token.spaced {
            self.emitted.text.push(' ');
            self.column += 1;
        }
        let file = self.files.get(token.place.file as usize).cloned().unwrap_or_default();
        let pairs = self.emitted.columns.entry((file, token.place.line)).or_default();
        pairs.push((self.column, token.place.column));
        self.emitted.text.push_str(&token.text);
        self.column += token.text.len() as u32;
    }
}

impl Program {
    /// The C++ of one kernel.
    pub fn emit(&self, export: &Export, constants: &Constants) -> Result<Emitted, CompileError> {
        // Other kernels are of no use to this one, unless something names them.
        let mut emitted =
            self.emit_text(|kernel| kernel == export.function || self.used[kernel], constants)?;
        self.entry(export, &mut emitted.text);
        Ok(emitted)
    }

    /// The C++ of all kernels, to be read by clang and not to be run.
    pub fn emit_all(&self) -> Result<Emitted, CompileError> {
        let mut emitted = self.emit_text(|_| true, &Constants::default())?;
        let _ = write!(emitted.text, "\n# 1 \"{ENTRY}\"\nconst void* const softmetal_all[] = {{\n");
        for export in &self.exports {
            let path = &self.functions[export.function].path;
            let _ = writeln!(emitted.text, "    (const void*)&{path}{},", export.arguments);
        }
        emitted.text.push_str("    nullptr,\n};\n");
        Ok(emitted)
    }

    fn emit_text(
        &self,
        wanted: impl Fn(usize) -> bool,
        constants: &Constants,
    ) -> Result<Emitted, CompileError> {
        let mut writer =
            Writer { files: &self.files, emitted: Emitted::default(), file: None, line: 0, column: 1 };
        for segment in &self.segments {
            match segment {
                Segment::Text(tokens) => tokens.iter().for_each(|token| writer.token(token)),
                Segment::Kernel(index, tokens) if wanted(*index) => {
                    tokens.iter().for_each(|token| writer.token(token));
                    let function = &self.functions[*index];
                    if let Some(threads) = &function.max_threads {
                        let list = function.template.as_ref();
                        let template = list.map_or(String::new(), |list| format!("template <{list}> "));
                        let name = &function.name;
                        let text =
                            format!("{template}constexpr unsigned softmetal_max_threads_{name} = {threads};");
                        let made = super::token::tokens(&text, function.place);
                        made.iter().for_each(|token| writer.token(token));
                    }
                }
                Segment::Kernel(..) => {}
                Segment::Constant(index) => {
                    let constant = &self.constants[*index];
                    let text = self.constant(constant, constants)?;
                    let made = super::token::tokens(&text, constant.place);
                    made.iter().for_each(|token| writer.token(token));
                }
            }
        }
        Ok(writer.emitted)
    }

    /// The declaration of a function constant.
    fn constant(&self, constant: &FunctionConstant, values: &Constants) -> Result<String, CompileError> {
        let FunctionConstant { name, index, kind, place } = constant;
        let value = values.by_name.get(name).or_else(|| values.by_index.get(index));
        let Some((data_type, bytes)) = value else {
            let defined = format!("static constexpr bool softmetal_is_defined_{name} = false;");
            return Ok(format!("{defined} extern const {kind} {name} __asm__(\"{NO_VALUE}{name}\");"));
        };
        if let Some(wanted) = data_type_of(kind).filter(|wanted| wanted != data_type) {
            let what = format!(
                "function constant `{name}`: wants {kind} (MTLDataType {wanted}), got MTLDataType {data_type}"
            );
            return Err(CompileError(format!("{}: error: {what}", show(&self.files, *place))));
        }
        let length = bytes.len();
        let bytes = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let value = format!("__builtin_bit_cast({kind}, softmetal::Bytes<{length}>{{{{{bytes}}}}})");
        let defined = format!("static constexpr bool softmetal_is_defined_{name} = true;");
        Ok(format!("{defined} static const {kind} {name} = {value};"))
    }

    /// What the executor reads of the image.
    fn entry(&self, export: &Export, text: &mut String) {
        let function = &self.functions[export.function];
        let (path, arguments) = (&function.path, &export.arguments);
        let (mut parameters, mut values) = (Vec::new(), Vec::new());
        for (at, parameter) in function.parameters.iter().enumerate() {
            let (kind, index, value) = match &parameter.binding {
                Binding::Buffer(index) => {
                    ("BUFFER", index.as_str(), format!("bind<F, {at}>(buffers[{index}])"))
                }
                Binding::Threadgroup(index) => {
                    ("THREADGROUP", index.as_str(), format!("bind<F, {at}>(threadgroup_memory[{index}])"))
                }
                Binding::BuiltIn(name) => {
                    ("BUILTIN", "0", format!("built_in<ParameterType<F, {at}>>({name})"))
                }
            };
            let constant = if parameter.constant { "PARAM_CONSTANT" } else { "0" };
            let unused = parameter
                .condition
                .as_ref()
                .map_or(String::new(), |condition| format!(" | (({condition}) ? 0 : PARAM_UNUSED)"));
            let name = &parameter.name;
            parameters.push(format!(
                "    parameter<F, {at}>(\"{name}\", PARAM_{kind}, {index}, {constant}{unused}),\n"
            ));
            values.push(value);
        }
        let count = parameters.len();
        let (parameters, values) = (parameters.concat(), values.join(", "));
        let namespaces = path.strip_suffix(&function.name).unwrap_or("::");
        let threads = match function.max_threads {
            Some(_) => format!("{namespaces}softmetal_max_threads_{}{arguments}", function.name),
            None => "0".to_owned(),
        };
        let _ = write!(
            text,
            "
# 1 \"{ENTRY}\"
namespace softmetal {{
namespace {{
typedef decltype(&{path}{arguments}) F;
const Param parameters[] = {{
{parameters}    {{}},
}};
void run(void* const* buffers, void* const* threadgroup_memory) {{ {path}{arguments}({values}); }}
}}  // namespace
}}  // namespace softmetal
__attribute__((visibility(\"default\"))) const softmetal::Runtime* softmetal_runtime;
__attribute__((visibility(\"default\"))) extern const softmetal::Kernel softmetal_kernels[] = {{
    {{\"{name}\", softmetal::parameters, {count}, {threads}, softmetal::run}},
    {{}},
}};
",
            name = export.name,
        );
    }
}

/// The `MTLDataType` of a scalar or vector type, by its name.
fn data_type_of(kind: &str) -> Option<u32> {
    let (scalar, count) = match kind.strip_suffix(['2', '3', '4']) {
        Some(scalar) => (scalar, kind[scalar.len()..].parse::<u32>().ok()?),
        None => (kind, 1),
    };
    let first = match scalar {
        "float" => 3,
        "half" => 16,
        "int" | "int32_t" => 29,
        "uint" | "uint32_t" => 33,
        "short" | "int16_t" => 37,
        "ushort" | "uint16_t" => 41,
        "char" | "int8_t" => 45,
        "uchar" | "uint8_t" => 49,
        "bool" => 53,
        "long" | "int64_t" => 81,
        "ulong" | "uint64_t" | "size_t" => 85,
        "bfloat" => 121,
        _ => return None,
    };
    Some(first + count - 1)
}
