//! The allocator of programs. Candle allocates each result anew: this one keeps pages that the system's would fault in
//! again, a minute long rather than its second, in which a step of training has hardly ended.

use libmimalloc_sys::{mi_option_get, mi_option_set_default, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, which the bindings leave out.
const PURGE_DELAY: mi_option_t = 15;
/// Its value where nobody has set another, in milliseconds: also the sign that the option is this one.
const DEFAULT: libc::c_long = 1000;

/// Sets how long memory that is free is kept. `MIMALLOC_PURGE_DELAY` says otherwise.
pub fn keep_freed_memory() {
    // SAFETY: options are numbers that may be read and set at any time.
    unsafe {
        if mi_option_get(PURGE_DELAY) == DEFAULT {
            mi_option_set_default(PURGE_DELAY, 60_000);
        }
    }
}
