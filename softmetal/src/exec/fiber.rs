//! Fibers: stacks that kernels' threads run on, all on the OS thread that runs the dispatch.

use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, Yielder};
use std::cell::Cell;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::rc::Rc;

/// Bytes of a stack, the guard page among them. `shim/taps.h` knows it too.
const STACK: usize = 256 << 10;
const GUARD: usize = 4096;
/// Stacks that are mapped at once.
const STACKS: usize = 32;

/// Mapped memory of some stacks. Above the last lies as much that is not mapped, so that nothing within a stack's
/// size above a stack pointer is anything but a stack.
struct Block(NonNull<u8>);

impl Block {
    fn new() -> Self {
        let size = (STACKS + 1) * STACK;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping.
        let block = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        assert!(block != libc::MAP_FAILED, "stacks: {}", std::io::Error::last_os_error());
        for i in 0..STACKS {
            // SAFETY: inside of the mapping.
            let set = unsafe {
                let usable = block.byte_add(i * STACK + GUARD);
                libc::mprotect(usable, STACK - GUARD, libc::PROT_READ | libc::PROT_WRITE)
            };
            assert!(set == 0, "stacks: {}", std::io::Error::last_os_error());
        }
        Self(NonNull::new(block.cast()).expect("a mapping is not at 0"))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the fibers on its stacks have gone, each holds a share of this.
        unsafe { libc::munmap(self.0.as_ptr().cast(), (STACKS + 1) * STACK) };
    }
}

struct FiberStack {
    base: usize,
    limit: usize,
    _block: Rc<Block>,
}

// SAFETY: mapped while the block lives, with a guard page at its end, and large enough.
unsafe impl Stack for FiberStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.base).expect("a stack is not at 0")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.limit).expect("a stack is not at 0")
    }
}

/// What a fiber suspends itself with.
pub(super) type Suspend = Yielder<(), ()>;

/// A stack and what runs on it.
pub(super) struct Fiber {
    coroutine: Coroutine<(), (), (), FiberStack>,
    suspend: Rc<Cell<*const Suspend>>,
    pub stack: Range<usize>,
}

impl Fiber {
    /// Runs it until it suspends itself.
    pub fn resume(&mut self) {
        self.coroutine.resume(());
    }

    /// Where stands what it suspends itself with, once it runs.
    pub fn suspender(&self) -> *const Cell<*const Suspend> {
        &*self.suspend
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        // SAFETY: what stands on the stack is a kernel's, in which nothing is to be dropped, or `Fibers::body`.
        unsafe { self.coroutine.force_reset() };
    }
}

/// The fibers of an OS thread.
#[derive(Default)]
pub(super) struct Fibers {
    pub all: Vec<Fiber>,
    /// Those on which no thread runs.
    idle: Vec<u32>,
    block: Option<Rc<Block>>,
}

impl Fibers {
    /// A fiber on which no thread runs. Each time it is resumed it runs `work`, which may suspend it.
    pub fn take(&mut self, work: fn()) -> u32 {
        if let Some(fiber) = self.idle.pop() {
            return fiber;
        }
        let n = self.all.len();
        let i = n % STACKS;
        if i == 0 {
            self.block = Some(Rc::new(Block::new()));
        }
        let block = self.block.clone().expect("made with the first of its stacks");
        let limit = block.0.as_ptr() as usize + i * STACK;
        // Stacks begin at different lines of the cache: the same offset in each would all fall into the same sets.
        let base = limit + STACK - n % 61 * 320;
        let suspend = Rc::new(Cell::new(ptr::null()));
        let shared = suspend.clone();
        let body = move |suspender: &Suspend, ()| {
            shared.set(suspender);
            loop {
                work();
                suspender.suspend(());
            }
        };
        let stack = FiberStack { base, limit, _block: block };
        self.all.push(Fiber { coroutine: Coroutine::with_stack(stack, body), suspend, stack: limit..base });
        n as u32
    }

    /// No thread runs on it any more.
    pub fn give(&mut self, fiber: u32) {
        self.idle.push(fiber);
    }

    /// Drops all, with what runs on them.
    pub fn abandon(&mut self) {
        *self = Self::default();
    }
}
