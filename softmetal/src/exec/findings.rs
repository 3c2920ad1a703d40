//! Reports of a kernel: what is wrong, said with names.

use super::abi::Site;
use super::check::{Finding, Space, Unordered, Use};
use super::order::owner;
use super::shadow::{MANY_LANES, MANY_SIMDGROUPS, MANY_THREADGROUPS, Stamp};
use super::source;
use crate::report::{self, Kind, Report};
use std::collections::HashMap;

/// Reports of one dispatch: each place once, and how often.
pub(super) struct Findings {
    kernel: String,
    image: usize,
    /// By rule and place: the place of a site is its line.
    seen: HashMap<(Kind, usize), (Report, u64)>,
}

/// A use of memory that is reported.
pub(super) struct Access<'a> {
    pub how: Use,
    pub pc: usize,
    pub offset: usize,
    pub size: usize,
    pub space: Space,
    /// The buffer or variable.
    pub name: &'a str,
    /// The thread that does it.
    pub thread: &'a super::abi::Thread,
}

impl Findings {
    pub fn new(kernel: String, image: usize) -> Self {
        Self { kernel, image, seen: HashMap::new() }
    }

    /// The kernel's name.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Reports at a place in the kernel's code.
    pub fn at_pc(&mut self, kind: Kind, pc: usize, text: impl FnOnce(&Self) -> String) {
        if let Some((_, count)) = self.seen.get_mut(&(kind, pc)) {
            *count += 1;
            return;
        }
        let line = if pc == 0 { None } else { source::line(pc) };
        self.first(kind, pc, line, text(self));
    }

    /// Reports at a place in the kernel's text.
    pub fn at_site(&mut self, kind: Kind, site: &Site, text: String) {
        let key = site.file as usize ^ (site.line as usize) << 48;
        if let Some((_, count)) = self.seen.get_mut(&(kind, key)) {
            *count += 1;
            return;
        }
        self.first(kind, key, Some((site.file(), site.line)), text);
    }

    /// Reports what has no place in the text, and differs from other such by its key.
    pub fn unplaced(&mut self, kind: Kind, key: usize, text: String) {
        self.first(kind, key, None, text);
    }

    fn first(&mut self, kind: Kind, key: usize, line: Option<(String, u32)>, text: String) {
        let report = Report { kind, place: self.kernel.clone(), line, text };
        report::add(report.clone());
        self.seen.insert((kind, key), (report, 0));
    }

    /// Reports what the checker has found about a use, which may have written what was there.
    pub fn access(&mut self, access: &Access, finding: Finding, same_value: bool) {
        let kind = match finding {
            Finding::Uninitialised => Kind::Uninitialised,
            Finding::Conflict { how: Unordered::Commands, .. } => Kind::Hazard,
            Finding::Conflict { how: Unordered::Threads { flag: true }, .. } => Kind::BarrierFlags,
            Finding::Conflict { .. } if same_value => Kind::SameValue,
            Finding::Conflict { .. } => Kind::Race,
        };
        self.at_pc(kind, access.pc, |findings| match finding {
            Finding::Uninitialised => format!("{access}, which nothing has written"),
            Finding::Conflict { old, write, pc, how } => {
                let conflict = findings.conflict(old, write, pc, how, access);
                format!("{access}, which {conflict}")
            }
        });
    }

    fn conflict(&self, old: Stamp, write: bool, pc: u32, how: Unordered, access: &Access) -> String {
        let verb = if write { "wrote" } else { "read" };
        if let Unordered::Commands = how {
            let command = owner(old.interval());
            return format!(
                "{} {verb} (command {}): nothing orders the two commands",
                command.name(),
                command.id
            );
        }
        let place = source::line(self.image + pc as usize);
        let place = place.map_or_else(String::new, |(file, line)| format!(" at {file}:{line}"));
        let several =
            if old.is(MANY_LANES | MANY_SIMDGROUPS | MANY_THREADGROUPS) { "with others, " } else { "" };
        let thread = old.thread();
        let (flag, reason) = match access.space {
            Space::Device => ("mem_device", "device"),
            Space::Threadgroup => ("mem_threadgroup", "threadgroup"),
        };
        match how {
            Unordered::Threads { flag: true } => {
                format!(
                    "{several}thread {thread} {verb}{place}: the barrier between them has no mem_flags::{flag}"
                )
            }
            Unordered::Threads { flag: false } if old.simdgroup() == access.thread.simdgroup => format!(
                "{several}thread {thread} of the same simdgroup {verb}{place}: no barrier orders {reason} memory between them"
            ),
            Unordered::Threads { flag: false } => {
                format!(
                    "{several}thread {thread} {verb}{place}: no barrier orders {reason} memory between them"
                )
            }
            Unordered::Threadgroups | Unordered::Commands => {
                format!(
                    "{several}thread {thread} of another threadgroup {verb}{place}: nothing orders threadgroups"
                )
            }
        }
    }
}

impl Drop for Findings {
    fn drop(&mut self) {
        for (report, count) in self.seen.values().filter(|(_, count)| *count > 0) {
            report::repeat(report, *count);
        }
    }
}

impl std::fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = match self.how {
            Use { write: true, atomic: false, .. } => "writes",
            Use { write: false, atomic: false, .. } => "reads",
            Use { write: true, atomic: true, .. } => "atomically writes",
            Use { write: false, atomic: true, .. } => "atomically reads",
        };
        let Self { offset, size, name, .. } = self;
        write!(f, "{} {verb} {size} bytes at byte {offset} of {name}", thread(self.thread))
    }
}

/// A thread, for a report.
pub(super) fn thread(thread: &super::abi::Thread) -> String {
    let [x, y, z] = thread.position_in_threadgroup;
    let [gx, gy, gz] = thread.threadgroup_in_grid;
    format!("thread {} ({x}, {y}, {z}) of threadgroup ({gx}, {gy}, {gz})", thread.index_in_threadgroup)
}
