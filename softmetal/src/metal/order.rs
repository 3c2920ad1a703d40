//! What is ordered after what: the happens-before relation of commands.
//!
//! A **command** is a dispatch, a copy, a fill, or an operation of MPS; a **pass** is the commands of one encoder. A command
//! is ordered after an earlier one when one of these holds, or a chain of them:
//!
//! - In one pass: in a blit pass and a compute pass of `MTLDispatchTypeSerial`, always; in one of
//!   `MTLDispatchTypeConcurrent`, when a `memoryBarrierWithScope:` for buffers stands between them, or one
//!   `WithResources:` that names the buffer.
//! - A fence: the earlier's encoder updated it after the earlier command, and the later's waited for it before the later
//!   command. Fences last over command buffers of one queue.
//! - An event: the earlier's command buffer signalled a value after it, and the later's waited for the value before it.
//! - The host: it has *observed* that the earlier's command buffer completed (`waitUntilCompleted` returned, `status` was
//!   read as completed, a completed handler began, a value of a shared event was seen), before it committed the later's.
//!   Command buffers of a queue complete in the order of their commits, so the earlier ones of the queue are observed too.
//! - Hazard tracking: both passes are of one queue, the earlier was committed earlier, and the buffer they share is
//!   tracked (`MTLHazardTrackingModeTracked`, the default of buffers).
//!
//! So of an *untracked* buffer nothing orders two passes but a fence, an event or the host, be they in one command buffer or
//! in two of one queue: a queue starts command buffers in order, and lets them overlap.

use crate::exec::Memory;
use std::collections::HashMap;
use std::sync::{Mutex, RwLock};

/// Bits of a command's number that count in its pass.
const STEP_BITS: u32 = 20;

/// A pass, by number: in the order in which encoders were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pass(u64);

/// Where a pass was committed.
#[derive(Clone, Copy, Debug)]
struct Place {
    queue: u64,
    /// The number of the command buffer's commit in its queue, from 1.
    commit: u64,
}

static PASSES: RwLock<Vec<Place>> = RwLock::new(Vec::new());

impl Pass {
    /// The next pass, of a command buffer that is being committed.
    pub fn new(queue: u64, commit: u64) -> Self {
        let mut passes = PASSES.write().unwrap_or_else(|e| e.into_inner());
        passes.push(Place { queue, commit });
        Self(passes.len() as u64 - 1)
    }

    /// How many there are.
    fn count() -> u64 {
        PASSES.read().unwrap_or_else(|e| e.into_inner()).len() as u64
    }

    fn place(self) -> Option<Place> {
        PASSES.read().unwrap_or_else(|e| e.into_inner()).get(self.0 as usize).copied()
    }

    /// The number of the command at a step of the pass.
    pub fn command(self, step: usize) -> u64 {
        (self.0 << STEP_BITS) | step as u64
    }

    fn of_command(command: u64) -> (Self, usize) {
        (Self(command >> STEP_BITS), (command & ((1 << STEP_BITS) - 1)) as usize)
    }
}

/// What is known to be done.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// Of each queue, up to which commit.
    commits: HashMap<u64, u64>,
    /// Of each pass, the steps before this one.
    passes: Passes,
    /// All passes before this one are done: `commits` says so.
    open: u64,
}

/// Steps by pass, from the first pass on that is known of: a program that waits for nothing has thousands.
#[derive(Clone, Debug, Default)]
struct Passes {
    first: u64,
    steps: Vec<u32>,
}

impl Passes {
    fn get(&self, pass: Pass) -> usize {
        let at = pass.0.checked_sub(self.first).and_then(|at| self.steps.get(at as usize));
        at.map_or(0, |&steps| steps as usize)
    }

    /// Makes room for the passes `from..to`.
    fn cover(&mut self, from: u64, to: u64) {
        if self.steps.is_empty() {
            self.first = from;
        }
        if from < self.first {
            let before = (self.first - from) as usize;
            self.steps.splice(0..0, std::iter::repeat_n(0, before));
            self.first = from;
        }
        let len = self.steps.len().max((to - self.first) as usize);
        self.steps.resize(len, 0);
    }

    fn raise(&mut self, pass: Pass, steps: usize) {
        self.cover(pass.0, pass.0 + 1);
        let mine = &mut self.steps[(pass.0 - self.first) as usize];
        *mine = (*mine).max(steps as u32);
    }

    /// Takes over what another knows of passes from `from` on.
    fn learn(&mut self, other: &Self, from: u64) {
        let from = from.max(other.first);
        let end = other.first + other.steps.len() as u64;
        if from >= end {
            return;
        }
        self.cover(from, end);
        let mine = &mut self.steps[(from - self.first) as usize..];
        for (mine, steps) in mine.iter_mut().zip(&other.steps[(from - other.first) as usize..]) {
            *mine = (*mine).max(*steps);
        }
    }

    /// Forgets the passes before `from`.
    fn forget(&mut self, from: u64) {
        let gone = from.saturating_sub(self.first).min(self.steps.len() as u64);
        self.steps.drain(..gone as usize);
        self.first += gone;
    }
}

/// What the host has observed.
static HOST: Mutex<Option<Knowledge>> = Mutex::new(None);

impl Knowledge {
    /// What the host has observed by now.
    pub fn of_host() -> Self {
        HOST.lock().unwrap_or_else(|e| e.into_inner()).clone().unwrap_or_default()
    }

    /// The host has observed this.
    pub fn observed_by_host(&self) {
        let mut host = HOST.lock().unwrap_or_else(|e| e.into_inner());
        let host = host.get_or_insert_default();
        host.learn(self);
        // Whoever starts from here need not ask again for each pass since an old fence.
        host.open = host.open_from(host.open, Pass::count());
    }

    /// That a queue's commits up to this one are done.
    pub fn of_commit(queue: u64, commit: u64) -> Self {
        Self { commits: HashMap::from([(queue, commit)]), ..Self::default() }
    }

    /// Learns what another knows.
    pub fn learn(&mut self, other: &Self) {
        for (&queue, &commit) in &other.commits {
            let mine = self.commits.entry(queue).or_default();
            *mine = commit.max(*mine);
        }
        // What a commit says of the first passes need not be said of each.
        let known = [&self.passes, &other.passes];
        let known = known.into_iter().filter(|passes| !passes.steps.is_empty());
        let Some(first) = known.clone().map(|passes| passes.first).min() else { return };
        let end = known.map(|passes| passes.first + passes.steps.len() as u64).max().unwrap_or(first);
        self.open = self.open_from(self.open.max(other.open), end);
        let from = self.open_from(first.max(self.open), end);
        self.passes.forget(from);
        self.passes.learn(&other.passes, from);
    }

    /// The first pass of `first..end` of which no commit says that it is done; or the end.
    fn open_from(&self, first: u64, end: u64) -> u64 {
        let end = end.max(first);
        let passes = PASSES.read().unwrap_or_else(|e| e.into_inner());
        let passes = passes.get(first as usize..end as usize).unwrap_or(&[]);
        // Most are of the queue of the one before.
        let mut last = (u64::MAX, 0);
        let mut done = |place: &&Place| {
            if last.0 != place.queue {
                last = (place.queue, self.commits.get(&place.queue).copied().unwrap_or(0));
            }
            place.commit <= last.1
        };
        first + passes.iter().take_while(|place| done(place)).count() as u64
    }

    /// Learns that the steps of a pass before this one are done.
    pub fn learn_steps(&mut self, pass: Pass, steps: usize) {
        self.passes.raise(pass, steps);
    }

    /// Whether a command is known to be done.
    fn has(&self, pass: Pass, step: usize) -> bool {
        step < self.passes.get(pass)
            || pass
                .place()
                .is_some_and(|at| self.commits.get(&at.queue).is_some_and(|&done| at.commit <= done))
    }
}

/// What orders the commands of one pass.
pub enum Barrier {
    /// All of them: `memoryBarrierWithScope:`, or in a serial pass each command.
    All,
    /// Their uses of the memories at these addresses.
    Memories(Vec<usize>),
}

/// Where a command stands.
pub struct Position<'a> {
    /// Its pass.
    pub pass: Pass,
    /// What was known when it began.
    pub known: &'a Knowledge,
    /// The barriers of its pass before it, by step.
    pub barriers: &'a [(usize, Barrier)],
    /// Whether a memory is tracked.
    pub tracked: &'a dyn Fn(&Memory) -> bool,
}

impl Position<'_> {
    /// Whether an earlier command's use of a memory is done before this command.
    pub fn is_after(&self, earlier: u64, memory: &Memory) -> bool {
        let (pass, step) = Pass::of_command(earlier);
        if pass == self.pass {
            return self.barriers.iter().any(|(at, barrier)| {
                let applies = match barrier {
                    Barrier::All => true,
                    Barrier::Memories(memories) => memories.contains(&(memory.address() as usize)),
                };
                applies && step < *at
            });
        }
        self.known.has(pass, step) || ((self.tracked)(memory) && self.follows(pass))
    }

    /// Whether a pass was committed before this one, to the same queue.
    fn follows(&self, earlier: Pass) -> bool {
        let (Some(earlier_at), Some(at)) = (earlier.place(), self.pass.place()) else { return false };
        earlier_at.queue == at.queue && earlier < self.pass
    }
}
