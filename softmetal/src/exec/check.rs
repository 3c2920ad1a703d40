//! The rules by which uses of memory are checked.
//!
//! Two uses of a byte conflict when one of them writes, unless both are atomic. What orders two conflicting uses:
//!
//! * in one thread, the program;
//! * in one threadgroup, a `threadgroup_barrier` between them that names the memory (`mem_device`,
//!   `mem_threadgroup`);
//! * in one simdgroup, also a `simdgroup_barrier` that names it. Simdgroup functions (`simd_sum`, shuffles) order no
//!   memory: the Metal Shading Language Specification gives memory flags to barriers only, and lanes that go on in
//!   lockstep are no promise of it;
//! * between threadgroups of a dispatch, nothing;
//! * between commands, what the program does ([`Context::ordered`](super::Context::ordered)).
//!
//! That both write the same value orders nothing: the specification's memory model is that of C++14, where this is a
//! data race like any other. It is reported as a kind of its own, for those who allow it.

use super::group::{SIMD, Simdgroup};
use super::memory::{Memory, like_poison, poison};
use super::order::{Clock, Context, block, owner};
use super::shadow::{
    ATOMIC, Bytes, Cell, MANY_LANES, MANY_SIMDGROUPS, MANY_THREADGROUPS, Readers, Shadow, Stamp,
};

/// Which memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Device,
    Threadgroup,
}

/// How a use uses memory: an atomic operation can do both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub read: bool,
    pub write: bool,
    pub atomic: bool,
}

/// An earlier use that nothing orders before the present one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unordered {
    /// In the same threadgroup. A barrier there was, but it does not name the memory: `flag`.
    Threads { flag: bool },
    /// In another threadgroup of the same command.
    Threadgroups,
    /// In another command.
    Commands,
}

/// What breaks a rule.
#[derive(Clone, Copy, Debug)]
pub(super) enum Finding {
    /// The earlier use was a write, where in the image.
    Conflict {
        old: Stamp,
        write: bool,
        pc: u32,
        how: Unordered,
    },
    Uninitialised,
}

/// The thread that runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Me {
    thread: u32,
    epoch: u64,
    device: u64,
    threadgroup: u64,
}

/// Of how many commands a checker remembers whether they are earlier.
const EARLIER: usize = 256;

/// What the stamps are compared with: the present.
pub(super) struct Checker<'a> {
    clock: Clock,
    context: &'a Context<'a>,
    /// Whether another command, by the block of its intervals, is ordered before this one on a memory: those asked for
    /// last.
    earlier: Box<[((u64, usize), bool); EARLIER]>,
    now: u64,
    /// The interval in which the threadgroup began.
    first: u64,
    /// From which interval on device memory, and threadgroup memory, is not ordered.
    device: u64,
    threadgroup: u64,
    me: Me,
}

impl<'a> Checker<'a> {
    pub fn new(context: &'a Context<'a>, name: &str) -> Self {
        let clock = Clock::new(context.command, name);
        let earlier = Box::new([((u64::MAX, 0), false); EARLIER]);
        let (now, first, device, threadgroup) = (0, 0, 0, 0);
        Self { clock, context, earlier, now, first, device, threadgroup, me: Me::default() }
    }

    pub fn begin_threadgroup(&mut self) {
        self.now = self.clock.tick();
        (self.first, self.device, self.threadgroup) = (self.now, self.now, self.now);
        self.me = Me::default();
    }

    /// All threads of the threadgroup have passed a barrier.
    pub fn barrier(&mut self, device: bool, threadgroup: bool) {
        self.now = self.clock.tick();
        if device {
            self.device = self.now;
        }
        if threadgroup {
            self.threadgroup = self.now;
        }
    }

    /// Another thread runs now.
    pub fn enter(&mut self, thread: u32, simdgroup: &Simdgroup) {
        let Simdgroup { epoch, device, threadgroup, .. } = *simdgroup;
        self.me = Me { thread, epoch, device, threadgroup };
    }

    /// Checks and remembers a use of a range that lies inside of its memory; returns what is wrong with the first
    /// byte that is wrong, and its offset. A threadgroup variable has no `memory`.
    pub fn check(
        &mut self,
        shadow: &mut Shadow,
        memory: Option<&Memory>,
        offset: usize,
        size: usize,
        how: Use,
        pc: u32,
    ) -> Option<(usize, Finding)> {
        let flags = if how.atomic { ATOMIC } else { 0 };
        let stamp = Stamp::new(self.now, self.me.epoch, self.me.thread, flags);
        let mut found = None;
        shadow.each(offset, size, |offset, cell, readers, bytes| {
            // The same thread in the same interval again: whoever came between has been compared with it.
            if !how.write && (cell.read == stamp || cell.write == stamp) {
                return;
            }
            let other = memory.and_then(|memory| self.check_readers(cell, readers, bytes, memory, how));
            let finding = self.check_cell(cell, memory, offset, how, stamp, pc).or(other);
            if found.is_none() {
                found = finding.map(|finding| (offset, finding));
            }
        });
        found
    }

    fn check_cell(
        &mut self,
        cell: &mut Cell,
        memory: Option<&Memory>,
        offset: usize,
        how: Use,
        stamp: Stamp,
        pc: u32,
    ) -> Option<Finding> {
        let mut finding = None;
        let mut wrote = None;
        let both_atomic = |old: Stamp| how.atomic && old.is(ATOMIC);
        let never_written = match memory {
            Some(_) => cell.write.is_none(),
            None => cell.write.interval() < self.first,
        };
        if never_written {
            // A copy (of no kernel, so without a place) of what nothing has written is no mistake yet.
            if how.read && pc != 0 && memory.is_none_or(|memory| is_poison(memory, offset)) {
                finding = Some(Finding::Uninitialised);
            }
        } else {
            wrote = self.unordered(cell.write, memory);
            if let Some(how) = wrote
                && !both_atomic(cell.write)
            {
                finding = Some(Finding::Conflict { old: cell.write, write: true, pc: cell.write_pc, how });
            }
        }
        if how.write {
            if !cell.read.is_none()
                && !both_atomic(cell.read)
                && let Some(how) = self.unordered(cell.read, memory)
            {
                let read = Finding::Conflict { old: cell.read, write: false, pc: cell.read_pc, how };
                finding = finding.or(Some(read));
            }
            cell.write = match wrote {
                Some(relation) if both_atomic(cell.write) => self.join(cell.write, stamp, relation),
                _ => stamp,
            };
            cell.write_pc = pc;
            // What comes after this write and is ordered after it is ordered after the reads before it; atomic
            // writes order nothing.
            if !how.atomic {
                cell.read = Stamp::default();
            }
        } else {
            let others = if cell.read.is_none() { None } else { self.unordered(cell.read, memory) };
            cell.read = others.map_or(stamp, |relation| self.join(cell.read, stamp, relation));
            cell.read_pc = pc;
        }
        finding
    }

    /// Commands that read the cell beside the one that it names: nothing orders them. A read puts the one that it names
    /// among them before it takes its place; a write is compared with all.
    #[inline]
    fn check_readers(
        &mut self,
        cell: &Cell,
        readers: &mut Readers,
        bytes: Bytes,
        memory: &Memory,
        how: Use,
    ) -> Option<Finding> {
        let mut finding = None;
        if how.write {
            readers.retain(bytes, |old, pc| {
                let both_atomic = how.atomic && old.is(ATOMIC);
                if !both_atomic && let Some(how) = self.unordered(old, Some(memory)) {
                    finding = Some(Finding::Conflict { old, write: false, pc, how });
                }
                how.atomic
            });
        } else if !cell.read.is_none()
            && let Some(Unordered::Commands) = self.unordered(cell.read, Some(memory))
        {
            // Who is ordered before this read is ordered before what is ordered after it.
            readers.retain(bytes, |old, _| self.unordered(old, Some(memory)).is_some());
            let (read, atomic) = (cell.read, cell.read.is(ATOMIC));
            let same =
                |old: Stamp| block(old.interval()) == block(read.interval()) && old.is(ATOMIC) == atomic;
            readers.add(read, cell.read_pc, bytes, same);
        }
        finding
    }

    /// A stamp for the present use and the one before it, which is not ordered before it. Of several commands it is the
    /// last; `check_readers` has the others that read.
    fn join(&self, old: Stamp, new: Stamp, how: Unordered) -> Stamp {
        let new = if old.is(ATOMIC) { new } else { new.without(ATOMIC) };
        match how {
            Unordered::Commands => new,
            Unordered::Threadgroups => new.with(MANY_THREADGROUPS),
            Unordered::Threads { .. } => {
                let inherited = [MANY_LANES, MANY_SIMDGROUPS].into_iter().filter(|flag| old.is(*flag)).sum();
                let simdgroup = if old.simdgroup() == new.simdgroup() { MANY_LANES } else { MANY_SIMDGROUPS };
                new.with(inherited).with(simdgroup)
            }
        }
    }

    /// Whether nothing orders an earlier use before the present.
    fn unordered(&mut self, old: Stamp, memory: Option<&Memory>) -> Option<Unordered> {
        let interval = old.interval();
        if !self.clock.owns(interval) {
            return match memory {
                Some(memory) if !self.is_earlier(interval, memory) => Some(Unordered::Commands),
                _ => None,
            };
        }
        if interval < self.first || old.is(MANY_THREADGROUPS) {
            return memory.map(|_| Unordered::Threadgroups);
        }
        let (from, epoch) = match memory {
            Some(_) => (self.device, self.me.device),
            None => (self.threadgroup, self.me.threadgroup),
        };
        if interval < from || (old.thread() == self.me.thread && !old.is_many()) {
            return None;
        }
        let same_simdgroup = old.simdgroup() == self.me.thread / SIMD && !old.is(MANY_SIMDGROUPS);
        if same_simdgroup && old.epoch() < epoch {
            return None;
        }
        let flag = interval < self.now || (same_simdgroup && old.epoch() < self.me.epoch);
        Some(Unordered::Threads { flag })
    }

    fn is_earlier(&mut self, interval: u64, memory: &Memory) -> bool {
        let key = (block(interval), memory.address() as usize);
        // Memories begin at pages.
        let known = &mut self.earlier[(key.0 as usize ^ (key.1 >> 12)) % EARLIER];
        if known.0 != key {
            let (id, context) = (owner(interval).id, self.context);
            *known = (key, id == context.command || (context.ordered)(id, memory));
        }
        known.1
    }
}

/// Whether the eight bytes that hold an offset are as they were made.
fn is_poison(memory: &Memory, offset: usize) -> bool {
    let word = offset & !7;
    if word + 8 > memory.length() {
        return false;
    }
    // SAFETY: inside of the memory, which is mapped.
    let value = unsafe { memory.address().add(word).cast::<u64>().read_unaligned() };
    like_poison(value) && value == poison(word)
}
