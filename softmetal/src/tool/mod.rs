//! What `softmetal` does on the command line.

mod cargo;
mod library;
mod manifest;
mod patched;
mod project;
mod tree;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
}

const CARGO_EXAMPLES: &str = "\
Examples:
  softmetal cargo test --features metal
  softmetal cargo run --features metal --example train
  SOFTMETAL_SEED=7 softmetal cargo test --features metal --test it -- ops::";

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Cargo { args } => cargo::run(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
