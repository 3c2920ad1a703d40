//! Kernels of work to come, compiled beforehand by as many threads as there are: one after the other, as they are first
//! launched, they take ten times as long on a machine of many cores.

use super::super::gpu::{Key, Launch, source};
use super::compile::{self, Source};
use super::{FUNCTIONS, graph};
use candle_core::Result;
use candle_core::cuda_backend::CudaDevice;
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

thread_local! {
    static WORK: RefCell<Option<Work>> = const { RefCell::new(None) };
}

/// Work whose kernels are not launched.
struct Work {
    asked: HashSet<Key>,
    jobs: Sender<Source>,
}

/// Runs `f` on this thread with launches that do not happen, and compiles the kernels that they name. What `f` computes is
/// not to be used, what it keeps is not to be kept: memory that kernels write holds anything.
pub(crate) fn compile_ahead(device: &CudaDevice, f: impl FnOnce() -> Result<()>) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(16);
    if threads == 1 || graph::captured(device).is_some() {
        return Ok(());
    }
    let (jobs, to_do) = channel();
    let to_do = Mutex::new(to_do);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let next = || to_do.lock().unwrap_or_else(|e| e.into_inner()).recv();
                // What cannot be compiled fails when it is launched.
                while let Ok(source) = next() {
                    compile::keep(source);
                }
            });
        }
        /// Ends the work also when the code fails, so that the threads end.
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                WORK.set(None);
            }
        }
        let _restore = Restore;
        WORK.set(Some(Work { asked: HashSet::new(), jobs }));
        f()
    })
}

/// Whether what this thread would launch is not to happen.
pub(super) fn is_on() -> bool {
    WORK.with_borrow(Option::is_some)
}

/// Whether a launch is not to happen; its kernel is then compiled.
pub(super) fn asked(device: &CudaDevice, launch: &Launch<'_>) -> Result<bool> {
    WORK.with_borrow_mut(|work| {
        let Some(work) = work else { return Ok(false) };
        let stream = device.cuda_stream();
        let key = Key::new(launch);
        let compiled = || {
            let key = (stream.context().cu_ctx() as usize, key.clone());
            FUNCTIONS.lock().unwrap_or_else(|e| e.into_inner()).contains_key(&key)
        };
        if !work.asked.contains(&key) && !compiled() {
            let text = source(include_str!("../cuda.h"), launch)?;
            let _ = work.jobs.send(Source::new(stream.context(), text, launch)?);
            work.asked.insert(key);
        }
        Ok(true)
    })
}
