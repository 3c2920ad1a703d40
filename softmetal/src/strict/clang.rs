//! clang as preprocessor and as compiler, with the declarations of `<metal_stdlib>` compiled once and kept.

use super::translate::Translation;
use super::{METAL_VERSION, Options, Problem};
use crate::config::CONFIG;
use crate::msl::CompileError;
use crate::msl::toolchain::{find_clang, hash, write_atomically};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// What clang calls its input.
pub(super) const STDIN: &str = "<stdin>";

/// The headers of this checker, by name.
const HEADERS: [(&str, &str); 6] = [
    ("macros.h", include_str!("../../strict/macros.h")),
    ("metal.h", include_str!("../../strict/metal.h")),
    ("types.h", include_str!("../../strict/types.h")),
    ("math.h", include_str!("../../strict/math.h")),
    ("simd.h", include_str!("../../strict/simd.h")),
    ("atomic.h", include_str!("../../strict/atomic.h")),
];

/// Metal's own headers that a text may include.
const METAL_HEADERS: [&str; 18] = [
    "metal_stdlib",
    "metal_atomic",
    "metal_common",
    "metal_compute",
    "metal_config",
    "metal_extended_vector",
    "metal_geometric",
    "metal_integer",
    "metal_limits",
    "metal_math",
    "metal_matrix",
    "metal_pack",
    "metal_relational",
    "metal_simdgroup",
    "metal_simdgroup_matrix",
    "metal_type_traits",
    "metal_types",
    "simd/simd.h",
];

/// C++ for OpenCL on a 64-bit machine: with all of OpenCL's optional parts but those that Metal has not.
const LANGUAGE: &str = "-x clcpp -cl-std=clc++2021 --target=x86_64-linux-gnu -cl-single-precision-constant \
    -Xclang -cl-ext=+all,-__cl_clang_variadic_functions -cl-no-stdinc -nostdinc -w \
    -fno-caret-diagnostics -fno-color-diagnostics -fmessage-length=0 -ferror-limit=0";

/// Errors of OpenCL's own: in Metal a vector times a scalar of more bits converts the scalar, and elements that a
/// vector's braces leave out are zero, and a reference to const thread memory binds to a value.
const OF_OPENCL: [&str; 3] = [
    "scalar operand type has greater rank than the type of the vector element",
    "too few elements in vector initialization",
    "reference of type 'const __private ",
];

/// A compiler, and where its headers are.
pub(super) struct Clang {
    program: PathBuf,
    /// Names of Metal's headers, for the preprocessor.
    include: PathBuf,
    precompiled: PathBuf,
}

static CLANG: LazyLock<Result<Clang, String>> = LazyLock::new(|| Clang::new().map_err(|e| e.to_string()));

impl Clang {
    /// The compiler of this process.
    pub fn get() -> Result<&'static Self, &'static String> {
        CLANG.as_ref()
    }

    fn new() -> Result<Self, CompileError> {
        let program = find_clang()?;
        let version = Command::new(&program).arg("--version").output().map_err(failed)?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let headers = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
        let identity = hash([version.as_str(), LANGUAGE].into_iter().chain(headers));
        let directory = CONFIG.cache.join(format!("strict-{identity}"));
        let include = directory.join("metal");
        let precompiled = directory.join("metal.pch");
        if !precompiled.exists() {
            for (name, text) in HEADERS {
                write(&directory.join(name), text)?;
            }
            for name in METAL_HEADERS {
                let up = "../".repeat(1 + name.matches('/').count());
                write(&include.join(name), &format!("#include \"{up}macros.h\"\n"))?;
            }
            write_atomically(&precompiled, |new| {
                let mut command = Command::new(&program);
                command.args(LANGUAGE.split_whitespace()).args(["-c", "-Xclang", "-emit-pch", "-o"]);
                command.arg(new).arg(directory.join("metal.h"));
                run(&mut command, "").map(drop).map_err(failed)
            })?;
        }
        Ok(Self { program, include, precompiled })
    }

    /// A text with its macros expanded, or what keeps it from that.
    pub fn preprocess(&self, source: &str, options: &Options) -> Result<String, Vec<Problem>> {
        let mut command = Command::new(&self.program);
        command
            .args(
                "-E -x c++ -std=c++17 -nostdinc -undef -w -fno-caret-diagnostics -fno-color-diagnostics"
                    .split(' '),
            )
            .args(["-D__METAL__=1", "-D__METAL_MACOS__=1", "-D__HAVE_BFLOAT__=1"])
            .arg(format!("-D__METAL_VERSION__={METAL_VERSION}"))
            .arg("-I")
            .arg(&self.include);
        for directory in &options.include {
            command.arg("-iquote").arg(directory);
        }
        command.args(options.macros.iter().map(|(name, value)| format!("-D{name}={value}"))).arg("-");
        let problem = |file: &str, line, column, rule, text: String| Problem {
            file: file.to_owned(),
            line,
            column,
            rule,
            text,
        };
        let (output, said) =
            run(&mut command, source).map_err(|e| vec![problem("", 1, 1, "compiler", e.to_string())])?;
        let mut problems = Vec::new();
        for line in said.lines() {
            let Some(Diagnostic { file, line, column, text, .. }) =
                Diagnostic::read(line).filter(|d| d.is_error)
            else {
                continue;
            };
            let missing = text.strip_suffix(" file not found").map(|name| name.trim_matches('\''));
            problems.push(match missing {
                Some(name) => {
                    let text = format!("wants headers of Metal's or of the program's, got {name}");
                    problem(file, line as u32, column as u32, "include", text)
                }
                None => problem(file, line as u32, column as u32, "preprocessor", text.to_owned()),
            });
        }
        if problems.is_empty() { Ok(output) } else { Err(problems) }
    }

    /// The tree of a translated text as JSON, and clang's errors.
    pub fn compile(&self, translation: &Translation) -> Result<(String, Vec<Problem>), String> {
        let mut command = Command::new(&self.program);
        // The headers' directory has their hash: a cache that was copied has other times, and is good.
        command
            .args(LANGUAGE.split_whitespace())
            .args(["-Xclang", "-fno-validate-pch", "-include-pch"])
            .arg(&self.precompiled);
        command.args(["-fsyntax-only", "-Xclang", "-ast-dump=json", "-"]);
        let (output, said) = run(&mut command, &translation.text).map_err(|e| e.to_string())?;
        let mut problems: Vec<Problem> = Vec::new();
        // An error inside of a header stands where a note behind it says that the text wanted it.
        let mut elsewhere = None;
        for line in said.lines() {
            let Some(Diagnostic { file, line, column, text, is_error }) = Diagnostic::read(line) else {
                continue;
            };
            if is_error && !OF_OPENCL.iter().any(|only| text.starts_with(only)) {
                elsewhere = Some(metal_words(text));
            }
            if file == STDIN
                && let Some(text) = elsewhere.take()
            {
                let place = translation.place_at(line, column);
                problems.push(Problem::new(&translation.source, place, "language", text));
            }
        }
        if let Some(text) = elsewhere {
            problems.push(Problem::new(&translation.source, Default::default(), "language", text));
        }
        Ok((output, problems))
    }
}

fn write(path: &Path, text: &str) -> Result<(), CompileError> {
    write_atomically(path, |new| std::fs::write(new, text).map_err(failed))
}

fn failed(error: std::io::Error) -> CompileError {
    CompileError(error.to_string())
}

/// Runs a command on a text; its output, and what it says on standard error.
fn run(command: &mut Command, input: &str) -> std::io::Result<(String, String)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().expect("a pipe");
    let output = std::thread::scope(|scope| {
        // A compiler that stops early leaves the pipe: its errors say why.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    })?;
    let text = |bytes| String::from_utf8(bytes).map_err(std::io::Error::other);
    let said = text(output.stderr)?;
    if !output.status.success() && !said.contains("error:") {
        return Err(std::io::Error::other(format!("clang: {}: {said}", output.status)));
    }
    Ok((text(output.stdout)?, said))
}

/// A line of clang's that has a place.
struct Diagnostic<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    text: &'a str,
    is_error: bool,
}

impl<'a> Diagnostic<'a> {
    fn read(said: &'a str) -> Option<Self> {
        let kinds = [": error: ", ": fatal error: ", ": note: "];
        let (at, kind) = kinds.iter().filter_map(|kind| Some((said.find(kind)?, kind))).min()?;
        let mut place = said[..at].rsplitn(3, ':');
        let column = place.next()?.parse().ok()?;
        let line = place.next()?.parse().ok()?;
        let is_error = !kind.contains("note");
        Some(Self { file: place.next()?, line, column, text: &said[at + kind.len()..], is_error })
    }
}

/// clang's words for address spaces, in Metal's.
pub(super) fn metal_words(text: &str) -> String {
    let words = [
        ("__attribute__((opencl_global_device))", "device"),
        ("__global_device", "device"),
        ("const __global", "constant"),
        ("__global const", "constant"),
        ("__global", "constant"),
        ("__local", "threadgroup"),
        ("__private", "thread"),
        ("__generic ", ""),
        ("softmetal::", ""),
        ("__bf16", "bfloat"),
    ];
    words.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
