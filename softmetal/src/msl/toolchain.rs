//! clang: where it is, how it is called, what it says.

use super::emit::{Emitted, NO_VALUE};
use super::{CompileError, shim};
use crate::config::CONFIG;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

/// How kernels are compiled. A function's operations round one by one, as each is written; memory is used as written.
const FLAGS: &[&str] = &[
    "-x",
    "c++",
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-w",
    "-Werror=unknown-attributes",
    "-nostdinc++",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",
    "-fno-stack-protector",
    "-fno-omit-frame-pointer",
    // A vector that lies at its elements' alignment works on a GPU: it is reported, and is no crash.
    "-fmax-type-align=8",
    "-fno-strict-aliasing",
    "-fno-delete-null-pointer-checks",
    "-fwrapv",
    "-fno-strict-float-cast-overflow",
    "-fsigned-char",
    "-fno-lax-vector-conversions",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-gline-tables-only",
    "-Xclang",
    "-cl-single-precision-constant",
    "-Xclang",
    "-ffloat16-excess-precision=none",
    "-Xclang",
    "-fbfloat16-excess-precision=none",
    "-fno-color-diagnostics",
    "-fno-caret-diagnostics",
    "-ferror-limit=20",
];

/// Each use of memory calls a function of `taps.h`.
const CHECKED: &[&str] = &["-fsanitize=thread", "-mllvm", "-tsan-instrument-func-entry-exit=0"];

const LINK: &[&str] = &["-shared", "--rtlib=compiler-rt", "-Wl,-z,defs", "-Wl,-Bsymbolic", "-lm"];

/// How a kernel's code differs beside its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    pub fast_math: bool,
    pub check: bool,
}

impl Mode {
    fn flags(self) -> Vec<&'static str> {
        let mut flags = FLAGS.to_vec();
        if self.check {
            flags.extend(CHECKED);
        }
        if self.fast_math {
            flags.push("-DSOFTMETAL_FAST_MATH=1");
        }
        flags
    }
}

/// The compiler, and the directory of its inputs and outputs.
pub struct Toolchain {
    clang: PathBuf,
    /// The shim's headers.
    headers: PathBuf,
    /// Headers of macros alone, which is what a text is preprocessed with.
    macros: PathBuf,
    /// Changes with the compiler and with the shim.
    identity: String,
}

/// The toolchain of this process.
pub fn toolchain() -> Result<&'static Toolchain, CompileError> {
    static TOOLCHAIN: LazyLock<Result<Toolchain, String>> =
        LazyLock::new(|| Toolchain::new().map_err(|error| error.to_string()));
    TOOLCHAIN.as_ref().map_err(|error| CompileError(error.clone()))
}

/// A name for what was made from these parts.
pub fn hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file under a name of its own and gives it `path` when it is whole.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), CompileError>,
) -> Result<(), CompileError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let new = path.with_extension(unique);
    fs::create_dir_all(path.parent().expect("a file in a directory"))
        .map_err(|error| failed(path, &error))?;
    let written = write(&new).and_then(|()| fs::rename(&new, path).map_err(|error| failed(path, &error)));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn failed(path: &Path, error: &io::Error) -> CompileError {
    CompileError(format!("{}: {error}", path.display()))
}

impl Toolchain {
    fn new() -> Result<Self, CompileError> {
        let clang = find_clang()?;
        // Another compiler is another file: asking each process's clang for its version would take longer.
        let file = fs::metadata(&clang).map_err(|error| failed(&clang, &error))?;
        let modified = format!("{:?} {}", file.modified().ok(), file.len());
        let path = clang.to_string_lossy().into_owned();
        let headers = shim::HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
        let identity =
            hash([path.as_str(), modified.as_str(), env!("CARGO_PKG_VERSION")].into_iter().chain(headers));
        let headers = CONFIG.cache.join(format!("shim-{identity}"));
        let mut toolchain = Self { clang, macros: headers.join("macros"), headers, identity };
        toolchain.write_headers()?;
        toolchain.headers =
            fs::canonicalize(&toolchain.headers).map_err(|error| failed(&toolchain.headers, &error))?;
        toolchain.macros = toolchain.headers.join("macros");
        Ok(toolchain)
    }

    fn write_headers(&self) -> Result<(), CompileError> {
        let done = self.headers.join("complete");
        if done.exists() {
            return Ok(());
        }
        for (name, text) in shim::HEADERS {
            write_text(&self.headers.join(name), text)?;
        }
        // Their macros, which conditions of the text may ask for. All of Metal's headers have all of them.
        let mut command = Command::new(&self.clang);
        command
            .args(["-E", "-dM", "-undef", "-x", "c++", "-std=c++17"])
            .arg(self.headers.join("metal_stdlib"));
        let all = self.run(command, "")?;
        let public = |line: &&str| {
            !["#define __", "#define SOFTMETAL_", "#define _"].iter().any(|p| line.starts_with(p))
        };
        let macros: String = all.lines().filter(public).map(|line| format!("{line}\n")).collect();
        write_text(&self.macros.join("macros.h"), &format!("#pragma once\n{macros}"))?;
        for (name, _) in shim::HEADERS.iter().filter(|(name, _)| name.starts_with("metal_")) {
            write_text(&self.macros.join(name), "#pragma once\n#include \"macros.h\"\n")?;
        }
        write_text(&done, "")
    }

    /// Changes with everything that a kernel's image depends on beside its text.
    pub fn identity(&self, mode: Mode) -> String {
        let link = LINK.join(" ");
        hash([self.identity.as_str(), &mode.flags().join(" "), &link])
    }

    fn run(&self, mut command: Command, input: &str) -> Result<String, CompileError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(&self.clang, &error))?;
        let mut stdin = child.stdin.take().expect("piped");
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output()
        });
        let output = output.map_err(|error| failed(&self.clang, &error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(CompileError(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }

    /// The text with its macros expanded; line markers tell where each line comes from.
    pub fn preprocess(&self, source: &str, definitions: &[String]) -> Result<String, CompileError> {
        let key =
            hash([self.identity.as_str(), source].into_iter().chain(definitions.iter().map(String::as_str)));
        let kept = CONFIG.cache.join("texts").join(format!("{key}.ii"));
        if let Ok(text) = fs::read_to_string(&kept) {
            return Ok(text);
        }
        let mut command = Command::new(&self.clang);
        command.args(["-E", "-x", "c++", "-std=c++17", "-nostdinc", "-undef", "-w"]);
        command.args(["-fno-color-diagnostics", "-fno-caret-diagnostics", "-ferror-limit=20"]);
        command.arg("-isystem").arg(&self.macros).args(definitions).arg("-");
        let text = self.run(command, &format!("#line 1 \"program_source\"\n{source}"));
        let text = text.map_err(|error| CompileError(messages(&error.0, None)))?;
        write_text(&kept, &text)?;
        Ok(text)
    }

    /// The shim, read once for all kernels of a mode.
    fn precompiled(&self, mode: Mode) -> Result<PathBuf, CompileError> {
        let path = self.headers.join(format!("{}.pch", self.identity(mode)));
        static MAKING: Mutex<()> = Mutex::new(());
        let _one = MAKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !path.exists() {
            write_atomically(&path, |new| {
                let mut command = Command::new(&self.clang);
                command.args(mode.flags()).args(["-x", "c++-header", "-o"]).arg(new);
                command.arg(self.headers.join("kernel.h"));
                self.run(command, "").map(drop)
            })?;
        }
        Ok(path)
    }

    /// A command that compiles a text for a mode.
    fn compiler(&self, mode: Mode) -> Result<Command, CompileError> {
        let shim = self.precompiled(mode)?;
        let mut command = Command::new(&self.clang);
        // The headers' names have their hash: a cache that was copied has other times, and is good.
        command.args(mode.flags()).args(["-Xclang", "-fno-validate-pch", "-include-pch"]).arg(shim);
        command.arg("-fdebug-compilation-dir=.");
        Ok(command)
    }

    /// Compiles and links a kernel.
    pub fn compile(&self, source: &Emitted, mode: Mode, image: &Path) -> Result<(), CompileError> {
        let run = |new: &Path| {
            let mut command = self.compiler(mode)?;
            command.args(LINK).arg("-o").arg(new).arg("-");
            self.run(command, &source.text).map(drop)
        };
        write_atomically(image, run).map_err(|error| CompileError(messages(&error.0, Some(source))))
    }

    /// Reads a text with all of its kernels; that it has no error is remembered.
    pub fn check(&self, source: &Emitted, mode: Mode) -> Result<(), CompileError> {
        let key = hash([self.identity(mode).as_str(), &source.text]);
        let checked = CONFIG.cache.join("texts").join(format!("{key}.checked"));
        if checked.exists() {
            return Ok(());
        }
        let mut command = self.compiler(mode)?;
        command.args(["-fsyntax-only", "-"]);
        self.run(command, &source.text).map_err(|error| CompileError(messages(&error.0, Some(source))))?;
        write_text(&checked, "")
    }
}

fn write_text(path: &Path, text: &str) -> Result<(), CompileError> {
    write_atomically(path, |new| fs::write(new, text).map_err(|error| failed(new, &error)))
}

/// The configured compiler, or the oldest that is new enough.
pub fn find_clang() -> Result<PathBuf, CompileError> {
    let candidates = match &CONFIG.clang {
        Some(clang) => vec![clang.clone()],
        None => (19..=24).map(|version| PathBuf::from(format!("clang++-{version}"))).collect(),
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    for candidate in &candidates {
        // A name with a directory in it replaces the directory it is joined to, or lies below the current one.
        let directories = std::env::split_paths(&path).chain(candidate.parent().map(Path::to_owned));
        let found = directories.map(|directory| directory.join(candidate)).find(|path| path.is_file());
        if let Some(found) = found.or_else(|| candidate.is_file().then(|| candidate.clone())) {
            return Ok(found);
        }
    }
    let wanted = candidates.first().map(|path| path.display().to_string()).unwrap_or_default();
    Err(CompileError(format!("the Metal compiler: wants {wanted} (Debian: clang-19), got none in PATH")))
}

/// What clang says, as Metal would: each line with its place in the shader's text.
fn messages(said: &str, source: Option<&Emitted>) -> String {
    let mut lines: Vec<String> = Vec::new();
    // The line of an error inside of our headers, until a note says who used them.
    let mut inside: Option<usize> = None;
    for line in said.lines() {
        if let Some((_, name)) = line.split_once(NO_VALUE) {
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let text = format!("function constant `{name}`: wants a value, got none");
            if !lines.contains(&text) {
                lines.push(text);
            }
            continue;
        }
        let Some(((file, line, column), text)) = place(line) else { continue };
        let column = source.map_or(column, |source| source.column(file, line, column));
        let ours = file.contains("/shim-") || file == super::emit::ENTRY;
        let file = if ours { file.rsplit('/').next().unwrap_or_default() } else { file };
        if text.starts_with("note: ")
            && let Some(error) = inside.filter(|_| !ours)
        {
            let text = lines[error].split_once("error: ").map_or(String::new(), |(_, text)| text.to_owned());
            lines.insert(error, format!("{file}:{line}:{column}: error: {text}"));
            lines[error + 1] = lines[error + 1].replacen("error: ", "note: ", 1);
            inside = None;
        } else if !text.starts_with("note: ") {
            inside = ours.then_some(lines.len());
        }
        lines.push(format!("{file}:{line}:{column}: {text}"));
    }
    if lines.is_empty() { said.trim().to_owned() } else { lines.join("\n") }
}

/// `file:line:column: text`
fn place(line: &str) -> Option<((&str, u32, u32), &str)> {
    let (at, kind) = ["error: ", "fatal error: ", "note: "]
        .iter()
        .find_map(|kind| Some((line.find(&format!(": {kind}"))?, kind)))?;
    let _ = kind;
    let mut parts = line[..at].rsplitn(3, ':');
    let (column, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(((parts.next()?, number, column), &line[at + 2..]))
}
