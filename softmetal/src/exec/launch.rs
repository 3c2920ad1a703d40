//! Commands: dispatches with their arguments, and what else uses memory.

use super::abi::{self, Param};
use super::check::{Checker, Finding, Use};
use super::executor::{Executor, Pool};
use super::findings::Findings;
use super::group::Group;
use super::local::{INDICES, Local, MAX_THREADS, Visible};
use super::memory::Memory;
use super::order::{Context, owner};
use super::random::Random;
use super::runtime::with_current;
use super::watch::Watch;
use super::{Argument, Dispatch, Fault, source};
use crate::report::{self, Kind, Report};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::ops::Range;

thread_local! {
    static POOL: Cell<Option<Pool>> = const { Cell::new(None) };
    /// Where the images of kernels are, by an address in each.
    static IMAGES: RefCell<HashMap<usize, Range<usize>>> = RefCell::default();
}

/// Runs a dispatch on the calling thread and returns when all of its threads have.
///
/// What it finds is reported. After a use of memory that is out of bounds no thread goes on, and the fault says why.
/// The memories that are bound stay locked for as long as it runs.
pub fn run(dispatch: &Dispatch, context: &Context) -> Result<(), Fault> {
    let entry = dispatch.kernel.entry();
    let name = text(entry.name);
    let code = entry.run as usize;
    let image =
        IMAGES.with_borrow_mut(|images| images.entry(code).or_insert_with(|| source::image(code)).clone());
    let mut pool = POOL.take().unwrap_or_else(Pool::new);
    let findings = Findings::new(name.clone(), image.start);
    let mut launch = Launch { dispatch, findings, local: &mut pool.local, visible: &mut pool.visible };
    launch.local.clear();
    let threads = dispatch.threadgroup.iter().map(|n| *n as usize).product::<usize>();
    let result = if threads == 0 || threads > MAX_THREADS {
        let text = format!("threads per threadgroup: wants 1 to {MAX_THREADS}, got {threads}");
        launch.findings.at_pc(Kind::Validation, 0, |_| text.clone());
        Err(Fault(text))
    } else {
        let watch = context.check.then(|| Watch::new(Checker::new(context, &name)));
        let watch = launch.bind(watch);
        let group = Group::new(Random::new(context.seed, context.command), image.clone());
        let Launch { findings, local, visible, .. } = launch;
        let executor = Executor::new(entry, image, group, local, visible, findings, watch);
        with_current(&executor, || executor.run(dispatch, &mut pool.fibers))
    };
    POOL.set(Some(pool));
    result
}

fn text(name: *const c_char) -> String {
    // SAFETY: a constant of the kernel's image.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// A dispatch that is made ready.
struct Launch<'a, 'p> {
    dispatch: &'a Dispatch,
    findings: Findings,
    local: &'p mut Local,
    visible: &'p mut Visible,
}

impl<'a> Launch<'a, '_> {
    fn invalid(&mut self, text: String) {
        // One place for all: what differs is the text.
        let key = text.bytes().fold(1usize, |key, byte| key.wrapping_mul(31).wrapping_add(byte.into()));
        self.findings.unplaced(Kind::Validation, key, text);
    }

    /// Lays the arguments out, and says what of memory the kernel may use.
    fn bind(&mut self, mut watch: Option<Watch<'a>>) -> Option<Watch<'a>> {
        let zeros = self.local.zeros();
        self.visible.buffers = [zeros.start as *mut c_void; INDICES];
        self.visible.threadgroup = [zeros.start as *mut c_void; INDICES];
        let entry = self.dispatch.kernel.entry();
        // SAFETY: the kernel's table.
        let params = unsafe { std::slice::from_raw_parts(entry.params, entry.param_count as usize) };
        let mut memories: Vec<(&'a Memory, String)> = Vec::new();
        for param in params {
            match param.kind {
                abi::PARAM_BUFFER => self.bind_buffer(param, &mut memories, &mut watch),
                abi::PARAM_THREADGROUP => self.bind_threadgroup(param, &mut watch),
                _ => {}
            }
        }
        if let Some(watch) = &mut watch {
            // Always in the same order, so that two dispatches do not wait for each other.
            memories.sort_by_key(|(memory, _)| memory.address());
            memories.dedup_by_key(|(memory, _)| memory.address());
            for (memory, name) in memories {
                watch.add_memory(memory, memory.shadow(), name);
            }
            watch.add_constant(zeros, "an argument that is not bound".into());
        }
        watch
    }

    fn bind_buffer(
        &mut self,
        param: &Param,
        memories: &mut Vec<(&'a Memory, String)>,
        watch: &mut Option<Watch<'a>>,
    ) {
        let index = param.index as usize;
        let name = format!("buffer {index} `{}`", text(param.name));
        let dispatch = self.dispatch;
        let address = match dispatch.arguments.get(index).and_then(Option::as_ref) {
            // Metal wants an argument where the compiled kernel uses it, so what counts is the use.
            None if param.flags & abi::PARAM_UNUSED != 0 => return,
            None => {
                let zeros = self.local.zeros_of(index);
                if let Some(watch) = watch {
                    watch.add_unbound(zeros.clone(), name.clone());
                }
                zeros.start
            }
            Some(Argument::Buffer(memory, offset)) => {
                if *offset > memory.length() {
                    let length = memory.length();
                    self.invalid(format!("{name}: wants an offset of {length} bytes at most, got {offset}"));
                    return;
                }
                memories.push((memory, format!("{name} ({})", memory.name())));
                memory.address() as usize + offset
            }
            Some(Argument::Bytes(bytes)) => {
                let Some(copy) = self.local.bytes(bytes) else {
                    self.invalid(format!("{name}: wants 4096 bytes at most, got {}", bytes.len()));
                    return;
                };
                if let Some(watch) = watch {
                    watch.add_constant(copy.clone(), format!("{name} (bytes)"));
                }
                copy.start
            }
        };
        let align = param.align.max(1) as usize;
        if address % align != 0 && param.flags & abi::PARAM_UNUSED == 0 {
            self.invalid(format!("{name}: wants an address that {align} divides, got {address:#x}"));
        }
        self.visible.buffers[index] = address as *mut c_void;
    }

    fn bind_threadgroup(&mut self, param: &Param, watch: &mut Option<Watch<'a>>) {
        let index = param.index as usize;
        let name = text(param.name);
        let size = self.dispatch.threadgroup_memory.get(index).copied().unwrap_or(0);
        if size == 0 {
            if param.flags & abi::PARAM_UNUSED == 0 {
                self.invalid(format!("threadgroup memory {index} `{name}`: wants a length, got none"));
            }
            return;
        }
        // Keys of variables are addresses: those of indices are none.
        let Some(variable) = self.local.make(std::ptr::without_provenance(index + 1), size, 16, name.clone())
        else {
            self.invalid(format!(
                "threadgroup memory {index} `{name}`: wants 32768 bytes at most, got {size}"
            ));
            return;
        };
        if self.local.used() > super::local::MAX_THREADGROUP_MEMORY {
            let used = self.local.used();
            self.invalid(format!("threadgroup memory: wants 32768 bytes at most, got {used} bytes"));
        }
        self.visible.threadgroup[index] = variable.addresses.start as *mut c_void;
        if let Some(watch) = watch {
            watch.add_variable(variable);
        }
    }
}

/// Checks and remembers that a command that is no kernel (a blit, an operation of MPS) uses a range of a memory.
/// Reports call the command `name`.
pub fn touch(memory: &Memory, range: Range<usize>, write: bool, name: &str, context: &Context) {
    let end = range.end.min(memory.length());
    if !context.check || range.start >= end {
        return;
    }
    let size = end - range.start;
    let mut checker = Checker::new(context, name);
    checker.begin_threadgroup();
    let mut shadow = memory.shadow();
    let how = Use { read: !write, write, atomic: false };
    let found = checker.check(&mut shadow, Some(memory), range.start, size, how, 0);
    drop(shadow);
    if let Some((offset, Finding::Conflict { old, write: wrote, .. })) = found {
        let verb = if write { "writes" } else { "reads" };
        let earlier = owner(old.interval());
        let used = if wrote { "wrote" } else { "read" };
        let text = format!(
            "{verb} {size} bytes at byte {} of {}, of which byte {offset} {} {used} (command {}): nothing orders the \
             two commands",
            range.start,
            memory.name(),
            earlier.name(),
            earlier.id
        );
        report::add(Report { kind: Kind::Hazard, place: name.into(), line: None, text });
    }
}
