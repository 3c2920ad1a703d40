//! Runs a command buffer's passes: what a queue's thread does.

use super::command_buffer::{CommandBuffer, Item};
use super::encoder::{Bound, Command, Grid, Recorded, Step, Use, Work};
use super::memory::{self, Allocation};
use super::order::{Barrier, Knowledge, Pass, Position};
use super::queue::Shared;
use crate::config::CONFIG;
use crate::exec::{self, Argument, Context, Dispatch, Fault, Memory};
use crate::objc::Strong;
use crate::report::{self, Kind, Report};
use std::sync::Arc;
use std::time::Duration;

/// How long a command buffer waits for an event before it is given up.
const EVENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Seconds, as `GPUStartTime` counts them.
pub(super) fn now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Runs the command buffer at a place of a queue, from its schedule to its completion.
pub(super) fn run(queue: &Shared, place: u64, buffer: Strong<CommandBuffer>) {
    let (items, mut known) = CommandBuffer::begin(&buffer);
    let mut own = Knowledge::default();
    let mut fault = None;
    for item in items {
        let result = match item {
            Item::Pass(recorded) => {
                run_pass(queue.id(), place, recorded, &known).map(|done| own.learn(&done))
            }
            Item::Wait(event, value) => event.wait_on_device(value, &mut known, EVENT_TIMEOUT),
            Item::Signal(event, signal) => {
                let mut done = known.clone();
                done.learn(&own);
                event.signal_on_device(signal, done);
                Ok(())
            }
        };
        if let Err(error) = result {
            fault = Some(error.0);
            break;
        }
    }
    CommandBuffer::finish(&buffer, fault);
}

/// A random number from a seed: splitmix64.
fn mix(seed: u64) -> u64 {
    let mut value = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// One encoder's commands while they run.
struct Running<'a> {
    pass: Pass,
    name: &'a str,
    known: Knowledge,
    barriers: Vec<(usize, Barrier)>,
    /// What nothing orders yet: runs in random order.
    batch: Vec<(usize, Command)>,
}

/// Runs a pass; that it is done, if it could be.
fn run_pass(queue: u64, commit: u64, recorded: Recorded, known: &Knowledge) -> Result<Knowledge, Fault> {
    let (pass, count) = (Pass::new(queue, commit), recorded.steps.len());
    let mut running =
        Running { pass, name: &recorded.name, known: known.clone(), barriers: Vec::new(), batch: Vec::new() };
    for (step, what) in recorded.steps.into_iter().enumerate() {
        match what {
            Step::Command(command) => {
                running.batch.push((step, command));
                if !recorded.concurrent {
                    running.flush()?;
                    running.order_all(step + 1);
                }
            }
            Step::Barrier => {
                running.flush()?;
                running.order_all(step);
            }
            Step::BarrierFor(memories) => {
                running.flush()?;
                running.barriers.push((step, Barrier::Memories(memories)));
            }
            Step::Wait(fence) => {
                running.flush()?;
                fence.wait(&mut running.known);
            }
            Step::Update(fence) => {
                running.flush()?;
                let mut done = running.known.clone();
                done.learn_steps(pass, step);
                fence.update(&done);
            }
        }
    }
    running.flush()?;
    let mut done = running.known;
    done.learn_steps(pass, count);
    Ok(done)
}

impl Running<'_> {
    /// What comes is ordered after all steps before this one.
    fn order_all(&mut self, step: usize) {
        self.barriers.clear();
        self.barriers.push((step, Barrier::All));
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let mut batch = std::mem::take(&mut self.batch);
        if CONFIG.seed != 0 {
            // Fisher and Yates.
            for last in (1..batch.len()).rev() {
                let other = mix(CONFIG.seed ^ self.pass.command(batch[last].0)) as usize % (last + 1);
                batch.swap(last, other);
            }
        }
        batch.into_iter().try_for_each(|(step, command)| self.run(step, command))
    }

    fn run(&self, step: usize, command: Command) -> Result<(), Fault> {
        let name = command.name;
        let allocations =
            command.uses.iter().map(|used| alive(used, &name)).collect::<Result<Vec<_>, _>>()?;
        let tracked = |memory: &Memory| {
            let mut both = allocations.iter().zip(&command.uses);
            both.any(|(allocation, used)| used.tracked && std::ptr::eq(&**allocation.memory(), memory))
        };
        let position =
            Position { pass: self.pass, known: &self.known, barriers: &self.barriers, tracked: &tracked };
        let number = self.pass.command(step);
        let seed = if CONFIG.seed == 0 { 0 } else { mix(CONFIG.seed ^ number).max(1) };
        let ordered = |earlier: u64, memory: &Memory| position.is_after(earlier, memory);
        let context = Context { command: number, seed, check: CONFIG.check, ordered: &ordered };
        let _running = memory::running(&name);
        let in_pass = |fault: Fault| Fault(format!("{name} in {}: {fault}", self.name));
        work(command.work, &allocations, &name, &context).map_err(in_pass)
    }
}

/// The memory of a use, unless the program released it although the command buffer does not retain it.
fn alive(used: &Use, command: &str) -> Result<Arc<Allocation>, Fault> {
    used.allocation().ok_or_else(|| {
        let text =
            format!("uses {}, which was released: the command buffer has unretained references", used.name);
        report::add(Report { kind: Kind::Lifetime, place: command.into(), line: None, text: text.clone() });
        Fault(text)
    })
}

fn work(work: Work, allocations: &[Arc<Allocation>], name: &str, context: &Context) -> Result<(), Fault> {
    match work {
        Work::Dispatch { kernel, arguments, threadgroup_memory, grid, threadgroup } => {
            let argument = |bound: Bound| match bound {
                Bound::Buffer(used, offset) => Argument::Buffer(allocations[used].memory().clone(), offset),
                Bound::Bytes(bytes) => Argument::Bytes(bytes),
            };
            let arguments = arguments.into_iter().map(|bound| bound.map(argument)).collect();
            let grid = match grid {
                Grid::Threads(grid) => grid,
                Grid::Indirect(used, offset) => {
                    indirect(allocations[used].memory(), offset, threadgroup, name, context)?
                }
            };
            if grid.contains(&0) {
                return Ok(());
            }
            exec::run(&Dispatch { kernel, arguments, threadgroup_memory, grid, threadgroup }, context)
        }
        Work::Copy { from: (from, from_offset), to: (to, to_offset), length } => {
            let (from, to) = (allocations[from].memory(), allocations[to].memory());
            if context.check {
                exec::touch(from, from_offset..from_offset + length, false, name, context);
                exec::touch(to, to_offset..to_offset + length, true, name, context);
            }
            // SAFETY: ranges that were checked when they were encoded, of memory that is held.
            unsafe { std::ptr::copy(from.address().add(from_offset), to.address().add(to_offset), length) };
            Ok(())
        }
        Work::Fill { at: (at, offset), length, value } => {
            let memory = allocations[at].memory();
            if context.check {
                exec::touch(memory, offset..offset + length, true, name, context);
            }
            // SAFETY: as above.
            unsafe { memory.address().add(offset).write_bytes(value, length) };
            Ok(())
        }
        Work::Operation(operation) => operation(context),
    }
}

/// Reads the threadgroups of an indirect dispatch, and gives its threads.
fn indirect(
    memory: &Memory,
    offset: usize,
    threadgroup: [u32; 3],
    name: &str,
    context: &Context,
) -> Result<[u32; 3], Fault> {
    if context.check {
        exec::touch(memory, offset..offset + 12, false, name, context);
    }
    // SAFETY: a range that was checked when it was encoded, at a multiple of 4.
    let groups = unsafe { memory.address().add(offset).cast::<[u32; 3]>().read() };
    let mut grid = [0; 3];
    for ((threads, groups), in_group) in grid.iter_mut().zip(groups).zip(threadgroup) {
        let fault =
            || Fault(format!("an indirect dispatch wants less than 2^32 threads, got {groups} threadgroups"));
        *threads = groups.checked_mul(in_group).ok_or_else(fault)?;
    }
    Ok(grid)
}
