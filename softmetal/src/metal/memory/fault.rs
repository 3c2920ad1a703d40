//! What happens at an access to a page that is not accessible: the handler of `SIGSEGV`.
//!
//! The signal is synchronous, so the thread is in code that touches a buffer's memory and holds no lock of ours. The
//! handler itself only takes note, into memory there already is, and changes the protection of pages; a thread that
//! waits for it writes the report.

use super::arena::{self, Access, Side, State};
use super::line::Code;
use crate::report::{self, Kind, Report};
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, Once};

static ONE: u64 = 1;

/// Events between two reports: what comes beyond is a repetition.
const EVENTS: usize = 256;

/// What the handler noted.
struct Event {
    buffer: Option<Buffer>,
    side: Side,
    write: Option<bool>,
    /// The command buffer that is not known to have completed.
    by: Option<Arc<str>>,
    /// The kernel that ran in this thread.
    kernel: Option<&'static str>,
    code: Option<Code>,
}

struct Buffer {
    label: Arc<str>,
    first: usize,
    length: usize,
    freed: bool,
}

static EVENTS_NOTED: Mutex<Vec<Event>> = Mutex::new(Vec::new());
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// Set once an access cannot go on: the process ends when that is reported.
static FATAL: AtomicBool = AtomicBool::new(false);

thread_local! {
    static KERNEL: Cell<Option<*const str>> = const { Cell::new(None) };
}

/// As long as it lives, the kernel of that name runs in this thread.
pub struct Running<'a> {
    before: Option<*const str>,
    name: std::marker::PhantomData<&'a str>,
}

/// A kernel begins to run in this thread: an access outside of every buffer is reported as its.
pub fn running(name: &str) -> Running<'_> {
    Running { before: KERNEL.replace(Some(name)), name: std::marker::PhantomData }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        KERNEL.set(self.before);
    }
}

/// Reports what was noted. A thread does that soon after each fault; whoever wants to know all that was found so far
/// calls it first.
pub fn drain() {
    // Whoever comes second finds the reports of the first written.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let noted = {
        let mut events = EVENTS_NOTED.lock().unwrap_or_else(|e| e.into_inner());
        // The capacity stays: the handler must not allocate.
        events.drain(..).collect::<Vec<_>>()
    };
    noted.iter().map(Event::report).for_each(report::add);
}

impl Event {
    fn report(&self) -> Report {
        let line = match self.side {
            Side::Gpu(_) => None,
            Side::Host(_) => self.code.and_then(Code::line),
        };
        let verb = match self.write {
            Some(true) => "write",
            Some(false) => "read",
            None => "use",
        };
        let (offset, who) = match self.side {
            Side::Gpu(offset) => (offset, self.kernel.unwrap_or("the device")),
            Side::Host(offset) => (offset, "host"),
        };
        let Some(buffer) = &self.buffer else {
            let text = format!("wants an address in a buffer, got a {verb} where there is none");
            return Report { kind: Kind::OutOfBounds, place: who.into(), line, text };
        };
        let (at, name, length) = (offset as isize - buffer.first as isize, &buffer.label, buffer.length);
        if let Some(by) = &self.by {
            let text = format!(
                "byte {at} of {name} ({length} bytes): wants {by}, which was committed and uses it, known to have \
                 completed (waitUntilCompleted, status, completion handler or shared event), got a {verb} by the host"
            );
            return Report { kind: Kind::Hazard, place: format!("host use of {name}"), line, text };
        }
        let text = match buffer.freed {
            true => format!(
                "{name} ({length} bytes): wants it alive, got a {verb} of its byte {at} after its last release"
            ),
            false => format!("{name}: wants a byte of its {length}, got a {verb} of byte {at}"),
        };
        let kind = if buffer.freed { Kind::Lifetime } else { Kind::OutOfBounds };
        Report { kind, place: who.into(), line, text }
    }
}

struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: written once, before the handler that reads it is installed.
unsafe impl Sync for Previous {}
static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::zeroed()));

/// Installs the handler, before the one there was, and starts the thread that reports.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        EVENTS_NOTED.lock().unwrap_or_else(|e| e.into_inner()).reserve_exact(EVENTS);
        // SAFETY: a new descriptor, kept for the life of the process.
        let wake = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        assert!(wake >= 0, "reports of faults: wants an eventfd, got {}", std::io::Error::last_os_error());
        WAKE.store(wake, Ordering::Release);
        let reporter =
            std::thread::Builder::new().name("softmetal faults".into()).spawn(move || reporter(wake));
        reporter.expect("a thread that reports faults");
        // SAFETY: the handler has the type that SA_SIGINFO asks for; the previous action is stored where it reads it.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as extern "C" fn(_, _, _) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGSEGV, std::ptr::null(), (*PREVIOUS.0.get()).as_mut_ptr());
            libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
        }
    });
}

fn reporter(wake: c_int) {
    loop {
        let mut count = 0u64;
        // SAFETY: eight bytes, as an eventfd wants.
        let got = unsafe { libc::read(wake, (&raw mut count).cast(), 8) };
        if got != 8 && std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return;
        }
        drain();
        if FATAL.load(Ordering::Acquire) {
            eprintln!("softmetal: ends the process: that access has no memory to go on with");
            std::process::abort();
        }
    }
}

extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: as the kernel calls a handler; errno is this thread's.
    unsafe {
        let errno = *libc::__errno_location();
        let address = (*info).si_addr() as usize;
        let side = arena::existing().and_then(|arena| arena.side(address));
        match side {
            Some(side) => handle(side, wrote(context), code(context)),
            None => pass_on(signal, info, context),
        }
        *libc::__errno_location() = errno;
    }
}

/// Returns if the access can go on.
fn handle(side: Side, write: Option<bool>, code: Option<Code>) {
    let Some(arena) = arena::existing() else { return };
    let mut state = arena.lock();
    if let Side::Host(offset) = side
        && let Some((start, entry)) = state.nearest(offset)
        && offset < entry.end
    {
        let denied = match entry.access {
            Access::Nothing => true,
            // Where the processor does not tell, a page that can be read faults because it was written.
            Access::Read => write != Some(false),
            Access::Write => false,
        };
        if !denied {
            return; // Another thread was here before.
        }
        let by = entry.uses.iter().rev().find(|(_, writes)| *writes || entry.access == Access::Read);
        if let Some((token, _)) = by {
            let write = write.or((entry.access == Access::Read).then_some(true));
            let buffer = buffer(&entry.label, entry.first, entry.length, false);
            let event =
                Event { buffer: Some(buffer), side, write, by: Some(token.name.clone()), kernel: None, code };
            arena.allow(start, entry, Access::Write);
            note(event);
            return wake();
        }
    }
    let event = Event { buffer: beside(&mut state, side), side, write, by: None, kernel: kernel(side), code };
    drop(state);
    note(event);
    FATAL.store(true, Ordering::Release);
    wake();
    // SAFETY: waits for the reporter to end the process; where it does not live, after a fork, the fault does.
    unsafe {
        libc::sleep(10);
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
    }
}

/// The buffer that an address outside of all is most likely meant to be in.
fn beside(state: &mut State, side: Side) -> Option<Buffer> {
    let (Side::Gpu(offset) | Side::Host(offset)) = side;
    if let Some(old) = state.retired(offset) {
        return Some(buffer(&old.label, old.first, old.length, true));
    }
    state.nearest(offset).map(|(_, entry)| buffer(&entry.label, entry.first, entry.length, false))
}

fn buffer(label: &Arc<str>, first: usize, length: usize, freed: bool) -> Buffer {
    Buffer { label: label.clone(), first, length, freed }
}

fn kernel(side: Side) -> Option<&'static str> {
    // SAFETY: the name lives as long as the kernel runs, and this thread waits in it until the process ends.
    matches!(side, Side::Gpu(_)).then(|| KERNEL.get().map(|name| unsafe { &*name }))?
}

fn note(event: Event) {
    let mut events = EVENTS_NOTED.lock().unwrap_or_else(|e| e.into_inner());
    if events.len() < events.capacity() {
        events.push(event);
    }
}

fn wake() {
    // SAFETY: eight bytes, as an eventfd wants; write may be called in a handler.
    unsafe { libc::write(WAKE.load(Ordering::Acquire), (&raw const ONE).cast(), 8) };
}

/// Whether the access was a write, where the processor tells.
///
/// # Safety
/// `context` is what a handler was given.
unsafe fn wrote(context: *mut libc::c_void) -> Option<bool> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the context of this architecture; bit 1 of the page fault's error code says that it was a write.
        let error =
            unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize] };
        Some(error & 2 != 0)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = context;
        None
    }
}

/// Where the thread was, where the context tells.
///
/// # Safety
/// `context` is what a handler was given.
unsafe fn code(context: *mut libc::c_void) -> Option<Code> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the context of this architecture; a thread has a stack, which can be read.
        unsafe {
            let registers = &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
            let top = registers[libc::REG_RSP as usize] as usize as *const usize;
            let top_of_stack = top.read_unaligned();
            Some(Code { instruction: registers[libc::REG_RIP as usize] as usize, top_of_stack })
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = context;
        None
    }
}

/// What would have happened without this handler.
///
/// # Safety
/// As a handler is called, after [`install`].
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the previous action was stored before this handler was installed; its flags say which type it has.
    unsafe {
        let previous = (*PREVIOUS.0.get()).assume_init_ref();
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                // The access is done again, and ends the process.
                libc::signal(signal, libc::SIG_DFL);
            }
            action if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let action: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(action);
                action(signal, info, context);
            }
            action => {
                let action: extern "C" fn(c_int) = std::mem::transmute(action);
                action(signal);
            }
        }
    }
}
