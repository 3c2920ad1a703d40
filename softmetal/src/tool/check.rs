//! `softmetal check`: texts, by the rules of Apple's compiler.

use std::path::PathBuf;
use std::process::ExitCode;

use softmetal::strict::{Options, check_files};

/// Prints what is wrong, a line each.
pub fn run(files: &[PathBuf], options: &Options) -> ExitCode {
    let problems = check_files(files, options);
    for problem in &problems {
        println!("{problem}");
    }
    match problems.len() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
