//! The threads of one threadgroup: which can run, which wait, and for what.

use super::abi::{MEM_DEVICE, MEM_THREADGROUP, SLOT, Site};
use super::random::Random;
use std::collections::VecDeque;
use std::ffi::{CStr, c_int};
use std::ops::Range;

/// Threads of a simdgroup.
pub(super) const SIMD: u32 = 32;
/// No fiber.
pub(super) const NONE: u32 = u32::MAX;

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// Waits for the threadgroup.
    Barrier,
    /// Waits for the simdgroup, with nothing to exchange.
    SimdgroupBarrier,
    /// Waits for the simdgroup with a value.
    Exchange,
    Done,
}

/// A thread and what it waits for.
#[derive(Clone)]
pub(super) struct Lane {
    pub state: State,
    pub fiber: u32,
    pub site: Site,
    /// The frame record of its call into the executor, and where its stack ends.
    pub frame: usize,
    pub stack_end: usize,
    pub flags: c_int,
    pub value: *const u8,
    pub size: u32,
}

impl Lane {
    fn waits_with(&self, other: &Lane) -> bool {
        self.state == other.state && self.site.is(&other.site)
    }
}

impl Site {
    fn is(&self, other: &Site) -> bool {
        self.line == other.line && (self.file == other.file || self.file() == other.file())
    }

    /// The file's name.
    pub(super) fn file(&self) -> String {
        if self.file.is_null() {
            return String::new();
        }
        // SAFETY: a constant of the kernel's.
        unsafe { CStr::from_ptr(self.file) }.to_string_lossy().into_owned()
    }
}

/// A simdgroup.
#[derive(Clone, Debug, Default)]
pub(super) struct Simdgroup {
    /// Its lanes that have neither ended nor wait.
    running: u32,
    /// The lanes that took part in the last exchange.
    pub active: u32,
    /// Barriers of the simdgroup since the threadgroup began.
    pub epoch: u64,
    /// The epoch from which on device memory, and threadgroup memory, is ordered.
    pub device: u64,
    pub threadgroup: u64,
}

/// What is wrong with a barrier.
pub(super) struct Divergence {
    pub site: Site,
    pub text: String,
}

/// What comes when no thread can run.
pub(super) enum Next {
    /// All have ended.
    End,
    /// All that have not wait at a threadgroup barrier, which orders the memory of these flags.
    Barrier(c_int),
}

/// A threadgroup that runs.
pub(super) struct Group {
    pub lanes: Vec<Lane>,
    pub simdgroups: Vec<Simdgroup>,
    ready: VecDeque<u32>,
    order: Vec<u32>,
    pub random: Random,
    /// Where the kernel's code is.
    pub image: Range<usize>,
    pub divergences: Vec<Divergence>,
}

impl Group {
    pub fn new(random: Random, image: Range<usize>) -> Self {
        let (lanes, simdgroups) = (Vec::new(), Vec::new());
        let (ready, order, divergences) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { lanes, simdgroups, ready, order, random, image, divergences }
    }

    /// All threads can run, in random order.
    pub fn begin(&mut self, threads: u32) {
        let site = Site { file: std::ptr::null(), line: 0 };
        let value = std::ptr::null();
        let lane =
            Lane { state: State::Ready, fiber: NONE, site, frame: 0, stack_end: 0, flags: 0, value, size: 0 };
        self.lanes.clear();
        self.lanes.resize(threads as usize, lane);
        self.simdgroups.clear();
        self.simdgroups.resize(threads.div_ceil(SIMD) as usize, Simdgroup::default());
        self.release_all();
    }

    /// The next thread to run.
    pub fn pop(&mut self) -> Option<u32> {
        self.ready.pop_front()
    }

    /// The next thread to run if it has not begun yet.
    pub fn pop_fresh(&mut self) -> Option<u32> {
        let next = *self.ready.front()?;
        (self.lanes[next as usize].fiber == NONE).then(|| self.ready.pop_front()).flatten()
    }

    /// The threads of a simdgroup.
    fn members(&self, simdgroup: u32) -> Range<u32> {
        simdgroup * SIMD..((simdgroup + 1) * SIMD).min(self.lanes.len() as u32)
    }

    /// A thread has changed its state to one in which it does not run. When it was the last of its simdgroup that
    /// did, those that wait for the simdgroup go on.
    pub fn stops(&mut self, thread: u32, slots: &mut [[[u8; SLOT]; SIMD as usize]]) {
        let simdgroup = thread / SIMD;
        let running = &mut self.simdgroups[simdgroup as usize].running;
        *running -= 1;
        if *running == 0 {
            self.release(simdgroup, &mut slots[simdgroup as usize]);
        }
    }

    /// Lets the lanes go on that wait for their simdgroup at one place. Where they wait at several, it is the one
    /// that comes first in the program: its lanes may come to the others yet.
    fn release(&mut self, simdgroup: u32, slots: &mut [[u8; SLOT]; SIMD as usize]) {
        let members = self.members(simdgroup);
        let waits = |lane: &Lane| matches!(lane.state, State::Exchange | State::SimdgroupBarrier);
        let Some(mut first) = members.clone().find(|i| waits(&self.lanes[*i as usize])) else { return };
        for i in members.clone() {
            let (lane, best) = (&self.lanes[i as usize], &self.lanes[first as usize]);
            let other = waits(lane) && !lane.waits_with(best);
            if other && self.call_stack(lane) < self.call_stack(best) {
                first = i;
            }
        }
        let chosen = self.lanes[first as usize].clone();
        let mut active = 0;
        for i in members.clone() {
            if self.lanes[i as usize].waits_with(&chosen) {
                active |= 1u32 << (i % SIMD);
            }
        }
        if chosen.state == State::SimdgroupBarrier {
            self.pass_simdgroup_barrier(simdgroup, active, &chosen);
        } else {
            for i in members.clone().filter(|i| active >> (i % SIMD) & 1 == 1) {
                let lane = &self.lanes[i as usize];
                // SAFETY: the value is on the lane's stack, which waits until this has copied it.
                let value = unsafe { std::slice::from_raw_parts(lane.value, lane.size as usize) };
                slots[(i % SIMD) as usize][..value.len()].copy_from_slice(value);
            }
            self.simdgroups[simdgroup as usize].active = active;
        }
        self.simdgroups[simdgroup as usize].running = active.count_ones();
        self.order.clear();
        self.order.extend(members.filter(|i| active >> (i % SIMD) & 1 == 1));
        self.random.shuffle(&mut self.order);
        // The simdgroup goes on at once, or all others go before it.
        if self.random.coin() {
            self.ready.extend(&self.order);
        } else {
            self.order.iter().rev().for_each(|i| self.ready.push_front(*i));
        }
        self.order.iter().for_each(|i| self.lanes[*i as usize].state = State::Ready);
    }

    fn pass_simdgroup_barrier(&mut self, simdgroup: u32, active: u32, chosen: &Lane) {
        let members = self.members(simdgroup);
        let missing = members.clone().find(|i| active >> (i % SIMD) & 1 == 0);
        if let Some(missing) = missing {
            let text = format!(
                "{} of {} threads of simdgroup {simdgroup} wait at simdgroup_barrier, thread {missing} {}",
                active.count_ones(),
                members.len(),
                self.whereabouts(missing)
            );
            self.divergences.push(Divergence { site: chosen.site, text });
        }
        let group = &mut self.simdgroups[simdgroup as usize];
        group.epoch += 1;
        if chosen.flags & MEM_DEVICE != 0 {
            group.device = group.epoch;
        }
        if chosen.flags & MEM_THREADGROUP != 0 {
            group.threadgroup = group.epoch;
        }
    }

    /// What a thread does, for a report.
    fn whereabouts(&self, thread: u32) -> String {
        let lane = &self.lanes[thread as usize];
        let at = |what: &str| format!("waits at {what} in line {}", lane.site.line);
        match lane.state {
            State::Ready => "runs".into(),
            State::Done => "has returned".into(),
            State::Barrier => at("threadgroup_barrier"),
            State::SimdgroupBarrier => at("simdgroup_barrier"),
            State::Exchange => at("a simdgroup function"),
        }
    }

    /// The calls that lead to a frame, from the kernel inwards. At equal depth, code that comes first in the program
    /// has the lower address, except where the compiler has moved it.
    fn call_stack(&self, lane: &Lane) -> Vec<usize> {
        let mut calls = Vec::new();
        let mut frame = lane.frame;
        loop {
            // SAFETY: on the stack of a fiber that waits.
            let [next, pc] = unsafe { *(frame as *const [usize; 2]) };
            // The executor's own code, that called the kernel, has no frame records.
            if !self.image.contains(&pc) {
                break;
            }
            calls.push(pc);
            if next <= frame || next + 16 > lane.stack_end || next % align_of::<usize>() != 0 {
                break;
            }
            frame = next;
        }
        calls.reverse();
        calls
    }

    /// No thread can run: what comes next.
    pub fn rest(&mut self) -> Next {
        let Some(first) = self.lanes.iter().position(|lane| lane.state == State::Barrier) else {
            return Next::End;
        };
        let chosen = self.lanes[first].clone();
        let waiting = self.lanes.iter().filter(|lane| lane.waits_with(&chosen)).count();
        if let Some(missing) = self.lanes.iter().position(|lane| !lane.waits_with(&chosen)) {
            let text = format!(
                "{waiting} of {} threads wait at threadgroup_barrier, thread {missing} {}",
                self.lanes.len(),
                self.whereabouts(missing as u32)
            );
            self.divergences.push(Divergence { site: chosen.site, text });
        }
        let waiting = self.lanes.iter().filter(|lane| lane.state == State::Barrier);
        Next::Barrier(waiting.fold(!0, |flags, lane| flags & lane.flags))
    }

    /// Lets all threads go on that have not ended, in random order.
    pub fn release_all(&mut self) {
        self.order.clear();
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            if lane.state != State::Done {
                lane.state = State::Ready;
                self.simdgroups[i / SIMD as usize].running += 1;
                self.order.push(i as u32);
            }
        }
        self.random.shuffle(&mut self.order);
        self.ready.clear();
        self.ready.extend(&self.order);
    }
}
