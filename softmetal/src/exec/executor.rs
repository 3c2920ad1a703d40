//! What runs one dispatch: threadgroup after threadgroup, and in each the threads on fibers.

use super::abi::{self, KernelEntry, Site, Thread};
use super::access::Pending;
use super::fiber::{Fibers, Suspend};
use super::findings::{self, Findings};
use super::group::{Group, NONE, Next, SIMD, State};
use super::local::{Local, MAX_THREADGROUP_MEMORY, Visible};
use super::runtime;
use super::watch::Watch;
use super::{Dispatch, Fault};
use crate::report::Kind;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::ptr;

/// What an OS thread keeps from dispatch to dispatch.
pub(super) struct Pool {
    pub fibers: Fibers,
    pub visible: Box<Visible>,
    pub local: Local,
}

impl Pool {
    pub fn new() -> Self {
        Self { fibers: Fibers::default(), visible: Visible::new(), local: Local::new() }
    }
}

/// A dispatch that runs. The runtime functions, on fibers, and the scheduler share it on one OS thread; nothing stays
/// borrowed while a fiber is switched to.
pub(super) struct Executor<'a> {
    pub kernel: &'static KernelEntry,
    pub image: Range<usize>,
    pub group: RefCell<Group>,
    pub local: RefCell<&'a mut Local>,
    pub findings: RefCell<Findings>,
    /// The checker; `None` where the kernel is not checked.
    pub watch: RefCell<Option<Watch<'a>>>,
    pub visible: &'a UnsafeCell<Visible>,
    /// What threads of this threadgroup have in common.
    pub template: Cell<Thread>,
    pub fault: RefCell<Option<String>>,
    pub checked: bool,
    /// A write that races with an earlier one: whether it writes what is there is seen later.
    pub pending: RefCell<Option<Pending>>,
    pub is_pending: Cell<bool>,
    /// The fiber that runs.
    pub stack: Cell<(usize, usize)>,
    thread: Cell<u32>,
    fiber: Cell<u32>,
    suspender: Cell<*const Cell<*const Suspend>>,
}

impl<'a> Executor<'a> {
    pub fn new(
        kernel: &'static KernelEntry,
        image: Range<usize>,
        group: Group,
        local: &'a mut Local,
        visible: &'a mut Visible,
        findings: Findings,
        watch: Option<Watch<'a>>,
    ) -> Self {
        Self {
            kernel,
            image,
            group: RefCell::new(group),
            local: RefCell::new(local),
            findings: RefCell::new(findings),
            checked: watch.is_some(),
            watch: RefCell::new(watch),
            visible: UnsafeCell::from_mut(visible),
            template: Cell::default(),
            fault: RefCell::new(None),
            pending: RefCell::new(None),
            is_pending: Cell::new(false),
            thread: Cell::new(0),
            fiber: Cell::new(NONE),
            suspender: Cell::new(ptr::null()),
            stack: Cell::new((0, 0)),
        }
    }

    /// Runs all threadgroups.
    pub fn run(&self, dispatch: &Dispatch, fibers: &mut Fibers) -> Result<(), Fault> {
        let threadgroups: [u32; 3] =
            std::array::from_fn(|d| dispatch.grid[d].div_ceil(dispatch.threadgroup[d].max(1)));
        let [nx, ny, nz] = threadgroups.map(u64::from);
        // More are not worth a list of their order.
        let mut order: Vec<u32> = (0..(nx * ny * nz).min(1 << 26) as u32).collect();
        self.group.borrow_mut().random.shuffle(&mut order);
        let rest = order.len() as u64..nx * ny * nz;
        for n in order.into_iter().map(u64::from).chain(rest) {
            let position = [n % nx, n / nx % ny, n / nx / ny].map(|p| p as u32);
            self.run_threadgroup(dispatch, threadgroups, position, fibers)?;
        }
        Ok(())
    }

    fn run_threadgroup(
        &self,
        dispatch: &Dispatch,
        threadgroups_per_grid: [u32; 3],
        position: [u32; 3],
        fibers: &mut Fibers,
    ) -> Result<(), Fault> {
        let size: [u32; 3] = std::array::from_fn(|d| {
            dispatch.threadgroup[d].min(dispatch.grid[d] - position[d] * dispatch.threadgroup[d])
        });
        let threads = size.iter().product::<u32>();
        self.template.set(Thread {
            threadgroup_in_grid: position,
            threads_per_threadgroup: size,
            dispatch_threads_per_threadgroup: dispatch.threadgroup,
            threads_per_grid: dispatch.grid,
            threadgroups_per_grid,
            simdgroups_per_threadgroup: threads.div_ceil(SIMD),
            ..Thread::default()
        });
        self.local.borrow_mut().poison_all();
        if let Some(watch) = &mut *self.watch.borrow_mut() {
            watch.checker.begin_threadgroup();
        }
        self.group.borrow_mut().begin(threads);
        loop {
            let next = self.group.borrow_mut().pop();
            if let Some(thread) = next {
                self.resume(thread, fibers);
                if let Some(text) = self.fault.take() {
                    fibers.abandon();
                    return Err(Fault(text));
                }
                self.report_divergences();
                continue;
            }
            let next = self.group.borrow_mut().rest();
            self.report_divergences();
            let Next::Barrier(flags) = next else { return Ok(()) };
            if let Some(watch) = &mut *self.watch.borrow_mut() {
                watch.checker.barrier(flags & abi::MEM_DEVICE != 0, flags & abi::MEM_THREADGROUP != 0);
            }
            self.group.borrow_mut().release_all();
        }
    }

    /// Lets a thread run until it waits, and those that begin after it on the same fiber.
    fn resume(&self, thread: u32, fibers: &mut Fibers) {
        let begun = self.group.borrow().lanes[thread as usize].fiber;
        let fiber = if begun == NONE { fibers.take(work) } else { begun };
        let on = &mut fibers.all[fiber as usize];
        self.fiber.set(fiber);
        self.suspender.set(on.suspender());
        self.stack.set((on.stack.start, on.stack.end));
        self.enter(thread);
        on.resume();
        if self.group.borrow().lanes[self.thread.get() as usize].state == State::Done {
            fibers.give(fiber);
        }
    }

    /// A thread runs now on the present fiber.
    fn enter(&self, thread: u32) {
        self.thread.set(thread);
        let mut group = self.group.borrow_mut();
        group.lanes[thread as usize].fiber = self.fiber.get();
        if let Some(watch) = &mut *self.watch.borrow_mut() {
            watch.checker.enter(thread, &group.simdgroups[(thread / SIMD) as usize]);
        }
    }

    fn begin(&self) {
        let mut built_in = self.template.get();
        let thread = self.thread.get();
        let [sx, sy, _] = built_in.threads_per_threadgroup;
        let position = [thread % sx, thread / sx % sy, thread / sx / sy];
        built_in.position_in_threadgroup = position;
        built_in.position_in_grid = std::array::from_fn(|d| {
            built_in.threadgroup_in_grid[d] * built_in.dispatch_threads_per_threadgroup[d] + position[d]
        });
        built_in.index_in_threadgroup = thread;
        built_in.lane = thread % SIMD;
        built_in.simdgroup = thread / SIMD;
        // SAFETY: only this OS thread uses it, and no reference to it is alive.
        unsafe { (*self.visible.get()).threads[thread as usize] = built_in };
    }

    /// The present thread does not run on.
    fn stop(&self, state: State) {
        self.settle();
        let thread = self.thread.get();
        let mut group = self.group.borrow_mut();
        group.lanes[thread as usize].state = state;
        // SAFETY: as in `begin`; what lanes have read of the slots they have copied.
        let slots = unsafe { &mut (*self.visible.get()).slots };
        group.stops(thread, slots);
    }

    /// Waits until others have come.
    pub fn wait(&self, state: State, site: Site, frame: usize, flags: c_int, value: *const u8, size: u32) {
        {
            let mut group = self.group.borrow_mut();
            let lane = &mut group.lanes[self.thread.get() as usize];
            (lane.site, lane.frame, lane.stack_end) = (site, frame, self.stack.get().1);
            (lane.flags, lane.value, lane.size) = (flags, value, size);
        }
        self.stop(state);
        self.suspend();
    }

    fn suspend(&self) {
        // SAFETY: the fiber that this runs on has set it when it began.
        unsafe { (*(*self.suspender.get()).get()).suspend(()) };
    }

    /// Exchanges a value with the lanes of the simdgroup: their values, and which have one.
    pub fn exchange(&self, value: *const u8, size: u32, site: Site, frame: usize) -> (*const u8, u32) {
        if size as usize > abi::SLOT {
            let text = format!("a lane's value: wants {} bytes at most, got {size}", abi::SLOT);
            self.findings.borrow_mut().at_site(Kind::Validation, &site, text.clone());
            self.abandon(text);
        }
        self.wait(State::Exchange, site, frame, 0, value, size);
        let simdgroup = (self.thread.get() / SIMD) as usize;
        let active = self.group.borrow().simdgroups[simdgroup].active;
        // SAFETY: as in `begin`.
        let slots = unsafe { &raw const (*self.visible.get()).slots[simdgroup] };
        (slots.cast(), active)
    }

    /// The present thread's built-ins.
    pub fn thread(&self) -> *const Thread {
        // SAFETY: as in `begin`.
        unsafe { &raw const (*self.visible.get()).threads[self.thread.get() as usize] }
    }

    /// The threadgroup variable of a key.
    pub fn threadgroup_variable(
        &self,
        key: *const c_void,
        bytes: usize,
        align: usize,
        name: impl FnOnce() -> String,
        site: &Site,
    ) -> *mut c_void {
        let mut local = self.local.borrow_mut();
        if let Some(variable) = local.variable(key) {
            return variable.addresses.start as *mut c_void;
        }
        let made = local.make(key, bytes, align, name());
        let used = local.used();
        drop(local);
        let fits = made.is_some() && used <= MAX_THREADGROUP_MEMORY;
        let used = if made.is_some() { used } else { used + bytes };
        let text =
            || format!("threadgroup memory: wants {MAX_THREADGROUP_MEMORY} bytes at most, got {used} bytes");
        if !fits {
            self.findings.borrow_mut().at_site(Kind::Validation, site, text());
        }
        let Some(variable) = made else { self.abandon(text()) };
        let address = variable.addresses.start as *mut c_void;
        if let Some(watch) = &mut *self.watch.borrow_mut() {
            watch.add_variable(variable);
        }
        address
    }

    /// A simdgroup function has found something wrong.
    pub fn complain(&self, complaint: c_int, what: &str, site: &Site) {
        let kind =
            if complaint == abi::COMPLAINT_INACTIVE_LANE { Kind::InactiveLane } else { Kind::Validation };
        // SAFETY: as in `begin`.
        let text = format!("{}: {what}", findings::thread(unsafe { &*self.thread() }));
        self.findings.borrow_mut().at_site(kind, site, text);
    }

    /// Ends the dispatch: the present thread never runs on, nor does any other.
    pub fn abandon(&self, text: String) -> ! {
        *self.fault.borrow_mut() = Some(text);
        self.suspend();
        unreachable!("a dispatch with a fault is not resumed")
    }

    fn report_divergences(&self) {
        let divergences = std::mem::take(&mut self.group.borrow_mut().divergences);
        for divergence in divergences {
            let position = self.template.get().threadgroup_in_grid;
            let text = format!("threadgroup {position:?}: {}", divergence.text);
            self.findings.borrow_mut().at_site(Kind::Barrier, &divergence.site, text);
        }
    }
}

/// What a fiber does: runs a thread to its end, and then others, as long as the next has not begun elsewhere.
fn work() {
    let executor = runtime::current().expect("a fiber is resumed by an executor");
    loop {
        executor.begin();
        // SAFETY: as in `Executor::begin`; two tables of as many pointers as there are indices.
        unsafe {
            let visible = executor.visible.get();
            (executor.kernel.run)(
                (&raw const (*visible).buffers).cast(),
                (&raw const (*visible).threadgroup).cast(),
            );
        }
        executor.stop(State::Done);
        let next = executor.group.borrow_mut().pop_fresh();
        match next {
            Some(thread) => executor.enter(thread),
            None => break,
        }
    }
}
