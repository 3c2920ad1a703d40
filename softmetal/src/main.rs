//! The command `softmetal`.

mod tool;

use std::process::ExitCode;

fn main() -> ExitCode {
    tool::main()
}
