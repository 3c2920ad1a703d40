//! What the checker found wrong: written to standard error at once, counted, and the process's exit status.

use std::fmt;
use std::sync::Mutex;

/// What is wrong, by the rule that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Two threads use the same memory, one of them writes, and nothing orders them.
    Race,
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
#[derive(Clone, Debug)]
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}", self.kind, self.place)?;
        if let Some((file, line)) = &self.line {
            write!(f, " ({file}:{line})")?;
        }
        write!(f, ": {}", self.text)
    }
}

static REPORTS: Mutex<Vec<Report>> = Mutex::new(Vec::new());

/// Takes note of a finding; one of the same rule at the same place is counted once.
pub fn add(report: Report) {
    let mut reports = REPORTS.lock().unwrap_or_else(|e| e.into_inner());
    let same = |r: &Report| r.kind == report.kind && r.place == report.place && r.line == report.line;
    if !reports.iter().any(same) {
        eprintln!("softmetal: {report}");
        reports.push(report);
    }
}

/// All findings since the last call.
pub fn take() -> Vec<Report> {
    crate::metal::memory::drain();
    std::mem::take(&mut REPORTS.lock().unwrap_or_else(|e| e.into_inner()))
}

/// How many findings there are since the last [`take`].
pub fn count() -> usize {
    REPORTS.lock().unwrap_or_else(|e| e.into_inner()).len()
}
