//! What `softmetal` does on the command line.

mod cargo;
mod check;
mod kernels;
mod library;
mod manifest;
mod patched;
mod project;
mod tree;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use softmetal::strict::Options;

/// Runs and checks the Metal code of Rust programs on Linux, on a software Metal device.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs cargo on a Rust project with the software Metal device linked in.
    ///
    /// The project on objc2-metal in the current directory (or of --manifest-path) is built in a copy of symbolic links
    /// below its target directory; its manifest and lock file stay as they are. The profile is `softmetal`, unless the
    /// arguments name one.
    #[command(after_help = CARGO_EXAMPLES, disable_help_flag = true)]
    Cargo {
        /// What cargo is given.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<OsString>,
    },
    /// Reads shaders by the rules of Apple's compiler: address spaces, attributes, static limits.
    ///
    /// Prints a line for each problem, and fails if there is one.
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// Texts in the Metal Shading Language.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// A directory of included files; a file's own is one.
        #[arg(short = 'I', long)]
        include: Vec<PathBuf>,
        /// A preprocessor macro, NAME or NAME=VALUE.
        #[arg(short = 'D', long = "define", value_parser = definition)]
        define: Vec<(String, String)>,
        /// Also refuse what Metal takes and CUDA has not.
        #[arg(long)]
        dialect: bool,
    },
    /// Lists the kernels of a library; of those that are named, the parameters.
    #[command(after_help = KERNELS_EXAMPLES)]
    Kernels {
        /// A text in the Metal Shading Language.
        file: PathBuf,
        /// Kernels to compile.
        names: Vec<String>,
        /// A preprocessor macro, NAME or NAME=VALUE.
        #[arg(short = 'D', long = "define", value_parser = definition)]
        define: Vec<(String, String)>,
    },
}

fn definition(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, "1"));
    match name.is_empty() {
        true => Err("wants NAME or NAME=VALUE".to_owned()),
        false => Ok((name.to_owned(), value.to_owned())),
    }
}

const CARGO_EXAMPLES: &str = "\
Examples:
  softmetal cargo test --features metal
  softmetal cargo run --features metal --example train
  SOFTMETAL_SEED=7 softmetal cargo test --features metal --test it -- ops::";

const CHECK_EXAMPLES: &str = "\
Examples:
  softmetal check src/sum.metal
  softmetal check -I shaders -D T=half shaders/*.metal";

const KERNELS_EXAMPLES: &str = "\
Examples:
  softmetal kernels src/sum.metal
  softmetal kernels src/sum.metal sum";

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Cargo { args } => cargo::run(&args),
        Verb::Check { files, include, define, dialect } => {
            let macros = define.into_iter().collect();
            Ok(check::run(&files, &Options { name: String::new(), macros, include, dialect }))
        }
        Verb::Kernels { file, names, define } => {
            kernels::run(&file, &names, &define).map(|()| ExitCode::SUCCESS)
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
