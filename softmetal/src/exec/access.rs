//! Uses of memory while a kernel runs: checked, and what is wrong reported with its place.

use super::abi::{self, Thread};
use super::check::{Finding, Use};
use super::executor::Executor;
use super::findings::{self, Access};
use super::local::Visible;
use super::memory::{self, Place};
use super::runtime;
use super::shadow::ATOMIC;
use super::watch::{self, Region, Verdict};
use crate::report::Kind;
use std::ffi::c_int;
use std::ops::Range;
use std::ptr;

impl Executor<'_> {
    /// Checks a use of memory.
    #[inline]
    pub fn access(&self, address: usize, size: usize, kind: c_int, pc: usize) {
        if !self.checked {
            return;
        }
        self.settle();
        let offset = pc.wrapping_sub(self.image.start) as u32;
        let verdict = match &mut *self.watch.borrow_mut() {
            Some(watch) if watch.is_recent(address) || !self.is_own(address) => {
                watch.access(address, size, kind, offset)
            }
            _ => return,
        };
        if !matches!(verdict, Verdict::Fine)
            && let Some(fault) = self.judge(verdict, address, size, kind, pc)
        {
            self.abandon(fault);
        }
    }

    /// Whether it is the executor's own that kernels use: a stack, values of lanes, tables.
    fn is_own(&self, address: usize) -> bool {
        let (low, high) = self.stack.get();
        let visible = self.visible.get() as usize;
        let table = ptr::from_ref(runtime::runtime()) as usize;
        (low..high).contains(&address)
            || address.wrapping_sub(visible) < size_of::<Visible>()
            || address.wrapping_sub(table) < size_of::<abi::Runtime>()
    }

    /// Reports the write that is pending, which has happened by now.
    #[inline]
    pub fn settle(&self) {
        if self.is_pending.replace(false) {
            self.report_write();
        }
    }

    #[cold]
    #[inline(never)]
    fn report_write(&self) {
        let Some(pending) = self.pending.take() else { return };
        // SAFETY: inside of a region, which is mapped.
        let now = unsafe { std::slice::from_raw_parts(pending.address as *const u8, pending.size) };
        let same = now == &pending.before[..pending.size];
        let watch = self.watch.borrow();
        let Some(watch) = &*watch else { return };
        // SAFETY: as in `begin`.
        let thread = unsafe { &*self.thread() };
        let access = pending.access(&watch.regions, thread);
        self.findings.borrow_mut().access(&access, pending.finding, same);
    }

    /// Reports a use of memory, and says why the dispatch cannot go on after it.
    #[cold]
    #[inline(never)]
    fn judge(&self, verdict: Verdict, address: usize, size: usize, kind: c_int, pc: usize) -> Option<String> {
        // The image's own constants are not watched.
        if matches!(verdict, Verdict::Nowhere) && self.image.contains(&address) {
            return None;
        }
        let watch = self.watch.borrow();
        let regions = &watch.as_ref()?.regions;
        // SAFETY: as in `begin`.
        let thread = unsafe { &*self.thread() };
        let how = watch::how(kind);
        let describe = |region: &Region, offset| {
            Access { how, pc, offset, size, space: region.space(), name: &region.name, thread }.to_string()
        };
        let mut findings = self.findings.borrow_mut();
        let (kind, text) = match verdict {
            Verdict::Fine => return None,
            Verdict::Found { region, offset, finding } => {
                let mut pending =
                    Pending { how, pc, offset, size, address, region, finding, before: [0; 16] };
                let both_write =
                    matches!(finding, Finding::Conflict { old, write: true, .. } if !old.is(ATOMIC));
                if both_write && how.write && !how.atomic && size <= 16 {
                    // SAFETY: inside of a region, which is mapped.
                    unsafe {
                        ptr::copy_nonoverlapping(address as *const u8, pending.before.as_mut_ptr(), size)
                    };
                    *self.pending.borrow_mut() = Some(pending);
                    self.is_pending.set(true);
                } else {
                    findings.access(&pending.access(regions, thread), finding, false);
                }
                return None;
            }
            Verdict::PastEnd(region) => {
                let region = &regions[region];
                let what = describe(region, address - region.addresses.start);
                (Kind::OutOfBounds, format!("{what}, which has {} bytes", region.addresses.len()))
            }
            Verdict::Misaligned(region) => {
                let region = &regions[region];
                let what = describe(region, address - region.addresses.start);
                (Kind::Validation, format!("{what}: wants an address that {size} divides, got {address:#x}"))
            }
            Verdict::WritesConstant(region) => {
                let region = &regions[region];
                let what = describe(region, address - region.addresses.start);
                (Kind::OutOfBounds, format!("{what}, which cannot be written"))
            }
            Verdict::Unbound(region) => {
                let region = &regions[region];
                let what = describe(region, address - region.addresses.start);
                (Kind::Validation, format!("{what}: wants a buffer or bytes, got nothing"))
            }
            Verdict::Nowhere => {
                let verb = if how.write { "writes" } else { "reads" };
                let who = findings::thread(thread);
                (
                    Kind::OutOfBounds,
                    format!("{who} {verb} {size} bytes {}", self.whereabouts(address, regions)),
                )
            }
        };
        let fault = format!("{kind:?} in {}: {text}", findings.kernel());
        findings.at_pc(kind, pc, |_| text);
        // What is not bound reads as zeros; and kernels are compiled so that any address can be used.
        let goes_on = match verdict {
            Verdict::Unbound(_) => !how.write,
            Verdict::Misaligned(_) => true,
            _ => false,
        };
        (!goes_on).then_some(fault)
    }

    /// Where an address is that is in nothing that the dispatch has.
    fn whereabouts(&self, address: usize, regions: &[Region]) -> String {
        let beside = |name: &str, length: usize, offset: isize| match usize::try_from(offset) {
            Ok(offset) => {
                format!("at byte {offset} of {name}, which has {length} bytes")
            }
            Err(_) => format!("{} bytes before {name}, which has {length} bytes", offset.unsigned_abs()),
        };
        let distance = |region: &&Region| {
            let Range { start, end } = region.addresses;
            if address < start { start - address } else { address - end }
        };
        let near = |regions: &[Region], wanted: &dyn Fn(&Region) -> bool| {
            let nearest = regions.iter().filter(|region| wanted(region)).min_by_key(distance)?;
            let offset = address.wrapping_sub(nearest.addresses.start) as isize;
            Some(beside(&nearest.name, nearest.addresses.len(), offset))
        };
        let local = self.local.borrow().addresses();
        let inside = |region: &Region| local.contains(&region.addresses.start);
        if local.contains(&address)
            && let Some(text) = near(regions, &inside)
        {
            return text;
        }
        match memory::find(address) {
            Place::Memory(name, _, offset) => format!("at byte {offset} of {name}, which is not bound"),
            Place::Arena(nearest) => {
                let bound = |region: &Region| !inside(region);
                let near = near(regions, &bound);
                near.or_else(|| nearest.map(|(name, length, offset)| beside(&name, length, offset)))
                    .unwrap_or_else(|| format!("at address {address:#x}, where no buffer is"))
            }
            Place::Elsewhere => {
                // As far as an index of 32 bits that has wrapped around goes.
                let near_bound = |region: &Region| !inside(region) && distance(&region) < 1 << 37;
                near(regions, &near_bound)
                    .unwrap_or_else(|| format!("at address {address:#x}, where no buffer is"))
            }
        }
    }
}

/// A write that was found to race.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    how: Use,
    pc: usize,
    offset: usize,
    size: usize,
    address: usize,
    region: usize,
    finding: Finding,
    before: [u8; 16],
}

impl Pending {
    fn access<'r>(&self, regions: &'r [Region], thread: &'r Thread) -> Access<'r> {
        let Self { how, pc, offset, size, .. } = *self;
        let region = &regions[self.region];
        Access { how, pc, offset, size, space: region.space(), name: &region.name, thread }
    }
}
