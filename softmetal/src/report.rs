//! What the checker found wrong: written to standard error at once, counted, and the process's exit status.
//!
//! A finding of one rule at one place is written once and counted after that. When the process ends and findings are
//! left that nobody took, a summary is written and the exit status is 86, unless `SOFTMETAL_REPORTS=continue`.
//!
//! `SOFTMETAL_ALLOW` names a file of findings that are known and accepted: a line is a rule, a place, and for readers
//! the reason (`Race softmax_* # every lane writes the same sum`); a `*` at the end of the place is any rest. They
//! are counted, and said in the summary.

use crate::config::CONFIG;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, Once};

/// The exit status of a process with findings.
pub const EXIT_STATUS: i32 = 86;

/// What is wrong, by the rule that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Two threads use the same memory, one of them writes, and nothing orders them.
    Race,
    /// As a race, with a barrier between the two that does not name the memory: `mem_flags::mem_none`, or the other.
    BarrierFlags,
    /// As a race, of two writes of the same value.
    SameValue,
    /// Memory outside of every buffer that is bound.
    OutOfBounds,
    /// Memory that nothing has written.
    Uninitialised,
    /// Threads of a threadgroup that do not wait at the same barrier, or never come to it.
    Barrier,
    /// A simdgroup operation on a lane that takes no part.
    InactiveLane,
    /// Dispatches, encoders, or the host, on one resource with nothing that orders them.
    Hazard,
    /// Released too often, or never.
    Lifetime,
    /// A call that Metal's documentation does not allow.
    Validation,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The rule.
    pub kind: Kind,
    /// The kernel, or the method, it was found in.
    pub place: String,
    /// File and line of the shader, where known.
    pub line: Option<(String, u32)>,
    /// What happened, with thread and buffer.
    pub text: String,
}

impl Report {
    /// Whether it says the same of the same place. Where no line is known, the text tells places apart.
    fn repeats(&self, other: &Report) -> bool {
        let place = self.kind == other.kind && self.place == other.place && self.line == other.line;
        place && (self.line.is_some() || self.text == other.text)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}", self.kind, self.place)?;
        if let Some((file, line)) = &self.line {
            write!(f, " ({file}:{line})")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Findings, each with how often it was found.
struct Findings {
    open: Vec<(Report, u64)>,
    allowed: Vec<(Report, u64)>,
    exit_functions: Vec<fn()>,
}

fn findings() -> MutexGuard<'static, Findings> {
    static FINDINGS: Mutex<Findings> =
        Mutex::new(Findings { open: Vec::new(), allowed: Vec::new(), exit_functions: Vec::new() });
    FINDINGS.lock().unwrap_or_else(|e| e.into_inner())
}

/// Takes note of a finding; one of the same rule at the same place is written once.
pub fn add(report: Report) {
    found(report, 1);
}

/// Takes note that a finding was found so many times more.
pub fn repeat(report: &Report, times: u64) {
    found(report.clone(), times);
}

fn found(report: Report, times: u64) {
    at_process_exit();
    let allowed = allowances().iter().any(|allowance| allowance.covers(&report));
    let mut findings = findings();
    let list = if allowed { &mut findings.allowed } else { &mut findings.open };
    if let Some((_, count)) = list.iter_mut().find(|(known, _)| known.repeats(&report)) {
        *count += times;
        return;
    }
    list.push((report.clone(), times));
    if !allowed {
        say(&report);
    }
}

/// Writes a line to standard error and to the log.
fn say(line: &impl fmt::Display) {
    eprintln!("softmetal: {line}");
    let Some(log) = &CONFIG.log else { return };
    let opened = OpenOptions::new().create(true).append(true).open(log);
    if let Err(error) = opened.and_then(|mut file| writeln!(file, "softmetal: {line}")) {
        eprintln!("softmetal: {}: {error}", log.display());
    }
}

/// All findings since the last call.
pub fn take() -> Vec<Report> {
    crate::metal::memory::drain();
    std::mem::take(&mut findings().open).into_iter().map(|(report, _)| report).collect()
}

/// How many findings there are since the last [`take`].
pub fn count() -> usize {
    crate::metal::memory::drain();
    findings().open.len()
}

/// Calls a function when the process ends, before the summary is written: it may find more.
pub fn at_exit(function: fn()) {
    findings().exit_functions.push(function);
    at_process_exit();
}

fn at_process_exit() {
    static ONCE: Once = Once::new();
    // SAFETY: a function of this image, which is never unloaded.
    ONCE.call_once(|| unsafe {
        libc::atexit(summary);
    });
}

extern "C" fn summary() {
    let functions = std::mem::take(&mut findings().exit_functions);
    functions.into_iter().for_each(|function| function());
    crate::metal::memory::drain();
    let (open, allowed) = {
        let mut findings = findings();
        (std::mem::take(&mut findings.open), std::mem::take(&mut findings.allowed))
    };
    if !allowed.is_empty() {
        let times = allowed.iter().map(|(_, count)| count).sum::<u64>();
        say(&format!("{} findings allowed, {times} times", allowed.len()));
    }
    if open.is_empty() {
        return;
    }
    let times = open.iter().map(|(_, count)| count).sum::<u64>();
    say(&format!("{} reports, {times} times", open.len()));
    if CONFIG.exit {
        // SAFETY: what the program has printed is written, as far as C's library knows of it; then the process ends.
        unsafe {
            libc::fflush(std::ptr::null_mut());
            libc::_exit(EXIT_STATUS);
        }
    }
}

/// A line of the file of accepted findings.
#[derive(Debug, PartialEq, Eq)]
struct Allowance {
    rule: String,
    place: String,
}

impl Allowance {
    fn parse(line: &str) -> Option<Self> {
        let line = line.split('#').next()?.trim();
        // A method's place has a space in it.
        let (rule, place) = line.split_once(char::is_whitespace).unwrap_or((line, "*"));
        (!rule.is_empty()).then(|| Self { rule: rule.to_owned(), place: place.trim().to_owned() })
    }

    fn covers(&self, report: &Report) -> bool {
        let place = match self.place.strip_suffix('*') {
            Some(start) => report.place.starts_with(start),
            None => report.place == self.place,
        };
        place && self.rule.eq_ignore_ascii_case(&format!("{:?}", report.kind))
    }
}

fn allowances() -> &'static [Allowance] {
    static ALLOWANCES: std::sync::LazyLock<Vec<Allowance>> = std::sync::LazyLock::new(|| {
        let Some(path) = &CONFIG.allow else { return Vec::new() };
        match std::fs::read_to_string(path) {
            Ok(text) => text.lines().filter_map(Allowance::parse).collect(),
            Err(error) => {
                eprintln!("softmetal: SOFTMETAL_ALLOW={}: {error}", path.display());
                Vec::new()
            }
        }
    });
    &ALLOWANCES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowances() {
        assert_eq!(Allowance::parse("# nothing"), None);
        let allowance = Allowance::parse("race softmax_* # the same value").unwrap();
        let mut report =
            Report { kind: Kind::Race, place: "softmax_f32".into(), line: None, text: String::new() };
        assert!(allowance.covers(&report));
        report.kind = Kind::Uninitialised;
        assert!(!allowance.covers(&report));
        report.place = "rmsnorm".into();
        assert!(!Allowance::parse("Uninitialised softmax").unwrap().covers(&report));
        assert!(Allowance::parse("Uninitialised").unwrap().covers(&report));
        report.place = "-[MTLDevice newFence]".into();
        assert!(Allowance::parse("Uninitialised  -[MTLDevice newFence] # why").unwrap().covers(&report));
        assert!(!Allowance::parse("Uninitialised -[MTLDevice newEvent]").unwrap().covers(&report));
    }
}
