//! Where in a shader's text a piece of its code comes from.

use addr2line::Loader;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_int, c_void};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

thread_local! {
    static LOADERS: RefCell<HashMap<PathBuf, Option<Loader>>> = RefCell::default();
}

/// File and line of the call that returns to `pc`: the innermost that is not in our own headers.
pub(super) fn line(pc: usize) -> Option<(String, u32)> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: any address may be asked for.
    let found = unsafe { libc::dladdr(pc as *const c_void, info.as_mut_ptr()) };
    // SAFETY: zeros, or what dladdr has written.
    let info = unsafe { info.assume_init() };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name of an image that is loaded.
    let path = PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(info.dli_fname) }.to_bytes()));
    LOADERS.with_borrow_mut(|loaders| {
        let loader = loaders.entry(path.clone()).or_insert_with(|| Loader::new(&path).ok()).as_ref()?;
        // A return address is behind the call, which may end its line, or its function.
        let probe = (pc - 1 - info.dli_fbase as usize) as u64;
        let mut frames = loader.find_frames(probe).ok()?;
        let mut innermost = None;
        while let Ok(Some(frame)) = frames.next() {
            let Some((file, line)) = frame.location.and_then(|place| Some((place.file?, place.line?))) else {
                continue;
            };
            let place = (file.trim_start_matches("./").to_owned(), line);
            if !is_shim(file) {
                return Some(place);
            }
            innermost.get_or_insert(place);
        }
        innermost
    })
}

/// Whether a file is one of the headers that stand in for Apple's.
fn is_shim(file: &str) -> bool {
    Path::new(file)
        .components()
        .any(|part| part.as_os_str().to_str().is_some_and(|part| part.starts_with("shim")))
}

/// The addresses at which the image is loaded that an address is in.
pub(super) fn image(address: usize) -> Range<usize> {
    struct Search {
        address: usize,
        found: Range<usize>,
    }
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: as dl_iterate_phdr calls it, with the data that it was given.
        let (info, search) = unsafe { (&*info, &mut *data.cast::<Search>()) };
        // SAFETY: as above.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let parts = headers.iter().filter(|header| header.p_type == libc::PT_LOAD).map(|header| {
            let start = info.dlpi_addr as usize + header.p_vaddr as usize;
            start..start + header.p_memsz as usize
        });
        let all = parts.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or_default();
        if all.contains(&search.address) {
            search.found = all;
        }
        c_int::from(!search.found.is_empty())
    }
    let mut search = Search { address, found: 0..0 };
    // SAFETY: `visit` is what it wants, and the data outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}
