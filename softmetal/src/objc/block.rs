//! Blocks: closures of C, which callers copy to the heap and count.

use super::argument::{Argument, Encode};
use super::class::Class;
use super::object::Object;
use super::refuse;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

const COUNT: i32 = 0x00ff_ffff;
const NEEDS_FREE: i32 = 1 << 24;
const HAS_COPY_DISPOSE: i32 = 1 << 25;
const IS_GLOBAL: i32 = 1 << 28;

/// What a block begins with.
#[repr(C)]
pub struct BlockLayout {
    isa: *const c_void,
    flags: AtomicI32,
    reserved: c_int,
    invoke: *const c_void,
    descriptor: *const Descriptor,
}

#[repr(C)]
struct Descriptor {
    reserved: usize,
    size: usize,
    /// There with `HAS_COPY_DISPOSE`.
    copy: unsafe extern "C" fn(*mut BlockLayout, *const BlockLayout),
    dispose: unsafe extern "C" fn(*mut BlockLayout),
}

/// Storage of a block's class: blocks are told from objects by its address.
#[repr(C)]
pub struct BlockClass([usize; 32]);

/// The class of a block on the stack.
#[unsafe(export_name = "_NSConcreteStackBlock")]
pub static STACK_BLOCK: BlockClass = BlockClass([0; 32]);
/// The class of a block that is a constant.
#[unsafe(export_name = "_NSConcreteGlobalBlock")]
pub static GLOBAL_BLOCK: BlockClass = BlockClass([0; 32]);
/// The class of a block on the heap.
#[unsafe(export_name = "_NSConcreteMallocBlock")]
pub static MALLOC_BLOCK: BlockClass = BlockClass([0; 32]);

/// Whether an object of that class is a block.
pub(super) fn is_block_class(class: *const Class) -> bool {
    [&STACK_BLOCK, &GLOBAL_BLOCK, &MALLOC_BLOCK].into_iter().any(|block| std::ptr::addr_eq(block, class))
}

// SAFETY: the encoding of a block.
unsafe impl Encode for *mut BlockLayout {
    const ENCODING: &'static str = "@?";
}

/// A block of a caller's, copied.
pub struct Block(*mut BlockLayout);

// SAFETY: Metal calls blocks on threads of its own, and says so; a program gives it only blocks that bear that.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Argument for Block {
    type Raw = *mut BlockLayout;
    unsafe fn from_raw(raw: *mut BlockLayout) -> Self {
        if raw.is_null() {
            refuse("an argument wants a block, got nil");
        }
        // SAFETY: a block, by contract.
        Self(unsafe { copy(raw) })
    }
}

impl Argument for Option<Block> {
    type Raw = *mut BlockLayout;
    unsafe fn from_raw(raw: *mut BlockLayout) -> Self {
        // SAFETY: nil or a block, by contract.
        (!raw.is_null()).then(|| unsafe { Block::from_raw(raw) })
    }
}

impl Block {
    /// Calls a block that takes an object and returns nothing.
    ///
    /// # Safety
    /// The block is one of that type, and the object alive.
    pub unsafe fn call(&self, object: *mut Object) {
        // SAFETY: by contract.
        unsafe {
            let invoke: unsafe extern "C" fn(*mut BlockLayout, *mut Object) =
                std::mem::transmute((*self.0).invoke);
            invoke(self.0, object);
        }
    }

    /// Calls a block that takes an object and a number and returns nothing.
    ///
    /// # Safety
    /// The block is one of that type, and the object alive.
    pub unsafe fn call_with(&self, object: *mut Object, value: u64) {
        // SAFETY: by contract.
        unsafe {
            let invoke: unsafe extern "C" fn(*mut BlockLayout, *mut Object, u64) =
                std::mem::transmute((*self.0).invoke);
            invoke(self.0, object, value);
        }
    }

    /// Calls a block that takes memory and its length and returns nothing: a deallocator.
    ///
    /// # Safety
    /// The block is one of that type.
    pub unsafe fn call_with_memory(&self, memory: *mut c_void, length: usize) {
        // SAFETY: by contract.
        unsafe {
            let invoke: unsafe extern "C" fn(*mut BlockLayout, *mut c_void, usize) =
                std::mem::transmute((*self.0).invoke);
            invoke(self.0, memory, length);
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the copy that this owns.
        unsafe { dispose(self.0) }
    }
}

/// A block on the heap: a count more of one that is there, or a copy.
unsafe fn copy(block: *mut BlockLayout) -> *mut BlockLayout {
    // SAFETY: callers pass nil or a block whose descriptor says its size and how its captures are copied.
    unsafe {
        let Some(layout) = block.as_ref() else { return block };
        let flags = layout.flags.load(Ordering::Relaxed);
        if flags & IS_GLOBAL != 0 {
            return block;
        }
        if flags & NEEDS_FREE != 0 {
            layout.flags.fetch_add(1, Ordering::Relaxed);
            return block;
        }
        let size = (*layout.descriptor).size;
        let new = libc::malloc(size).cast::<BlockLayout>();
        if new.is_null() {
            refuse("_Block_copy: no memory");
        }
        std::ptr::copy_nonoverlapping(block.cast::<u8>(), new.cast::<u8>(), size);
        (*new).isa = (&raw const MALLOC_BLOCK).cast();
        (*new).flags = AtomicI32::new(flags & !COUNT | NEEDS_FREE | 1);
        if flags & HAS_COPY_DISPOSE != 0 {
            ((*layout.descriptor).copy)(new, block);
        }
        new
    }
}

/// A count less, and with the last the captures and the memory.
unsafe fn dispose(block: *mut BlockLayout) {
    // SAFETY: callers pass nil or a block.
    unsafe {
        let Some(layout) = block.as_ref() else { return };
        let flags = layout.flags.load(Ordering::Relaxed);
        if flags & IS_GLOBAL != 0 || flags & NEEDS_FREE == 0 {
            return;
        }
        match layout.flags.fetch_sub(1, Ordering::AcqRel) & COUNT {
            0 => refuse("_Block_release: a block is released once too often"),
            1 => {
                if flags & HAS_COPY_DISPOSE != 0 {
                    ((*layout.descriptor).dispose)(block);
                }
                libc::free(block.cast());
            }
            _ => {}
        }
    }
}

/// `Block_copy`.
///
/// # Safety
/// Nil or a block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Block_copy(block: *mut BlockLayout) -> *mut BlockLayout {
    // SAFETY: by contract.
    unsafe { copy(block) }
}

/// `Block_release`.
///
/// # Safety
/// Nil or a block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Block_release(block: *mut BlockLayout) {
    // SAFETY: by contract.
    unsafe { dispose(block) }
}

/// Captures of blocks inside blocks are a compiler's: Rust's blocks have their own copy functions.
#[unsafe(no_mangle)]
pub extern "C" fn _Block_object_assign(_: *mut c_void, _: *const c_void, _: c_int) {
    refuse("_Block_object_assign: not offered by softmetal")
}

/// As [`_Block_object_assign`].
#[unsafe(no_mangle)]
pub extern "C" fn _Block_object_dispose(_: *const c_void, _: c_int) {
    refuse("_Block_object_dispose: not offered by softmetal")
}

/// Whether a block says its own type.
#[unsafe(no_mangle)]
pub extern "C" fn _Block_has_signature(_: *mut c_void) -> bool {
    false
}

/// No block's type is known.
#[unsafe(no_mangle)]
pub extern "C" fn _Block_signature(_: *mut c_void) -> *const std::ffi::c_char {
    std::ptr::null()
}
