//! Each case is a small program on `objc2-metal`. A planted bug must be reported, once and as what it is; its clean twin must
//! not. So each case runs in a process of its own, whose standard error is read: leaks show only at its end.

mod commands;
mod kernels;
mod lifetimes;
mod metal;
mod order;

use std::process::{Command, ExitCode};

/// What a case must say.
enum Expect {
    /// No report, and success.
    Clean,
    /// One report, with these words in it.
    Report(&'static [&'static str]),
    /// As before, and the process is ended by it.
    Abort(&'static [&'static str]),
}

use Expect::{Abort, Clean, Report};

/// A case: its name, what it does, what must come of it.
type Case = (&'static str, fn(), Expect);

const VARIABLE: &str = "SOFTMETAL_DEVICE_CASE";

fn main() -> ExitCode {
    let groups = [commands::cases(), kernels::cases(), lifetimes::cases(), order::cases()];
    let cases: Vec<Case> = groups.into_iter().flatten().collect();
    if let Ok(name) = std::env::var(VARIABLE) {
        let case = cases.iter().find(|(case, ..)| *case == name).expect("a case of that name");
        case.1();
        return ExitCode::SUCCESS;
    }
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut failed = 0;
    let chosen: Vec<&Case> = cases.iter().filter(|(name, ..)| name.contains(&filter)).collect();
    for (name, _, expect) in &chosen {
        match check(name, expect) {
            Ok(()) => println!("test {name} ... ok"),
            Err(text) => {
                failed += 1;
                println!("test {name} ... FAILED\n{text}");
            }
        }
    }
    println!("{} passed; {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a case and compares what it says with what it must.
fn check(name: &str, expect: &Expect) -> Result<(), String> {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).env(VARIABLE, name).output().expect("this program again");
    let said = String::from_utf8_lossy(&output.stderr);
    let kinds = [
        "Race",
        "BarrierFlags",
        "SameValue",
        "OutOfBounds",
        "Uninitialised",
        "Barrier",
        "InactiveLane",
        "Hazard",
        "Lifetime",
        "Validation",
    ];
    let is_report = |line: &&str| {
        line.strip_prefix("softmetal: ")
            .is_some_and(|line| kinds.iter().any(|kind| line.starts_with(&format!("{kind} in "))))
    };
    let reports: Vec<&str> = said.lines().filter(is_report).collect();
    let complain = |what: &str| Err(format!("{what}, with {}:\n{said}", output.status));
    match expect {
        Clean if !reports.is_empty() => complain("wants no report"),
        Clean if !output.status.success() => complain("wants success"),
        Clean => Ok(()),
        Report(words) | Abort(words) => {
            if reports.len() != 1 || !words.iter().all(|word| reports[0].contains(word)) {
                return complain(&format!("wants one report with {words:?}, got {}", reports.len()));
            }
            let panicked = said.contains("panicked at");
            let aborted = output.status.code().is_none();
            match expect {
                _ if panicked => complain("wants no panic"),
                Abort(_) if !aborted => complain("wants the process aborted"),
                Report(_) if aborted => complain("wants the process to end by itself"),
                _ => Ok(()),
            }
        }
    }
}
