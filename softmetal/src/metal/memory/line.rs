//! Which line of the program touched memory: as far as its debug information tells.

use addr2line::Loader;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

thread_local! {
    static LOADERS: RefCell<HashMap<PathBuf, Option<Loader>>> = RefCell::default();
}

/// Where a thread was when it faulted.
#[derive(Clone, Copy)]
pub(super) struct Code {
    /// The instruction.
    pub instruction: usize,
    /// What lies on top of the stack: in a leaf function as `memcpy`, the address it returns to.
    pub top_of_stack: usize,
}

impl Code {
    /// File and line, without the standard library's.
    pub fn line(self) -> Option<(String, u32)> {
        match lines(self.instruction) {
            Some(lines) => program(lines),
            // The C library has no debug information. A return address is behind the call.
            None => lines(self.top_of_stack.checked_sub(1)?).and_then(program),
        }
    }
}

fn program(lines: Vec<(String, u32)>) -> Option<(String, u32)> {
    lines.into_iter().find(|(file, _)| !file.starts_with("/rustc/") && !file.contains("/lib/rustlib/"))
}

/// The lines of an address, the innermost inlined function's first; none where no debug information is.
fn lines(address: usize) -> Option<Vec<(String, u32)>> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: any address may be asked for.
    let found = unsafe { libc::dladdr(address as *const c_void, info.as_mut_ptr()) };
    // SAFETY: zeros, or what dladdr has written.
    let info = unsafe { info.assume_init() };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name of an image that is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    // The program itself is named as it was called, which need not be where it lies.
    let named = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    let path = if named.is_absolute() { named } else { std::env::current_exe().ok()? };
    LOADERS.with_borrow_mut(|loaders| {
        let loader = loaders.entry(path.clone()).or_insert_with(|| Loader::new(&path).ok()).as_ref()?;
        let mut frames = loader.find_frames((address - info.dli_fbase as usize) as u64).ok()?;
        let mut lines = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            let place = frame.location.and_then(|place| Some((place.file?.to_owned(), place.line?)));
            lines.extend(place);
        }
        (!lines.is_empty()).then_some(lines)
    })
}
