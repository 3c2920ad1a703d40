//! Commands, and the intervals in which their threads are not ordered.
//!
//! Time is counted in intervals: one begins with each threadgroup and with each of its barriers. Numbers are never
//! used twice, so what the shadow says of an older interval needs no clearing. They are given out in blocks, each to
//! one command, so that a number says whose it is.

use super::memory::Memory;
use std::sync::{Mutex, RwLock};

/// A command and its place among the others.
pub struct Context<'a> {
    /// Its number, which no other command of the process has. What runs later need not have a greater one.
    pub command: u64,
    /// Fixes the order of threads and threadgroups; 0 is the order of their numbers.
    pub seed: u64,
    /// Whether uses of memory are checked. A kernel compiled without taps cannot be.
    pub check: bool,
    /// Whether what an earlier command did to a memory is done before this command begins, by the program's own
    /// doing: a barrier, a fence, an event, hazard tracking, or a wait of the host. Asked while memories are locked:
    /// it must not call into `exec`.
    pub ordered: &'a dyn Fn(u64, &Memory) -> bool,
}

/// A command that has run, for reports. There are as many as a program has commands, so names are kept once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub id: u64,
    name: u32,
}

impl Command {
    fn new(id: u64, name: &str) -> Self {
        let mut names = NAMES.lock().unwrap_or_else(|e| e.into_inner());
        let known = names.iter().position(|other| other == name);
        let name = known.unwrap_or_else(|| {
            names.push(name.into());
            names.len() - 1
        });
        Self { id, name: name as u32 }
    }

    pub fn name(self) -> String {
        NAMES.lock().unwrap_or_else(|e| e.into_inner())[self.name as usize].clone()
    }
}

/// The names of commands: of kernels, and of what else uses memory.
static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Bits of an interval's number that count inside of a block.
const BLOCK_BITS: u32 = 12;

/// The commands that blocks were given to.
static BLOCKS: RwLock<Vec<Command>> = RwLock::new(Vec::new());

/// Who was given the block that an interval lies in.
pub(super) fn owner(interval: u64) -> Command {
    BLOCKS.read().unwrap_or_else(|e| e.into_inner())[block(interval) as usize]
}

/// The number of the block that an interval lies in.
pub(super) fn block(interval: u64) -> u64 {
    interval >> BLOCK_BITS
}

/// The time of one command.
pub(super) struct Clock {
    command: Command,
    blocks: Vec<u64>,
    now: u64,
}

impl Clock {
    pub fn new(id: u64, name: &str) -> Self {
        let mut clock = Self { command: Command::new(id, name), blocks: Vec::new(), now: 0 };
        clock.next_block();
        clock
    }

    fn next_block(&mut self) {
        let mut blocks = BLOCKS.write().unwrap_or_else(|e| e.into_inner());
        let block = blocks.len() as u64;
        blocks.push(self.command);
        self.blocks.push(block);
        // Interval 0 of a block is not used: a stamp of 0 says that nobody was there.
        self.now = block << BLOCK_BITS;
    }

    /// Begins the next interval and returns its number.
    pub fn tick(&mut self) -> u64 {
        self.now += 1;
        if self.now & ((1 << BLOCK_BITS) - 1) == 0 {
            self.next_block();
            self.now += 1;
        }
        self.now
    }

    /// Whether an interval was this command's.
    pub fn owns(&self, interval: u64) -> bool {
        block(interval) == block(self.now) || self.blocks.binary_search(&block(interval)).is_ok()
    }
}
