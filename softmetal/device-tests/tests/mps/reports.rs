//! What the device reports, asked in the process itself.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, MutexGuard};

unsafe extern "C" {
    fn softmetal_take_reports() -> *mut c_char;
}

/// The findings since the last call, a line each.
pub fn reports() -> Vec<String> {
    // SAFETY: a C string that the caller frees.
    unsafe {
        let text = softmetal_take_reports();
        let lines = CStr::from_ptr(text).to_string_lossy().lines().map(str::to_owned).collect();
        libc::free(text.cast::<c_void>());
        lines
    }
}

/// Findings are the process's: one test at a time, from none on.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|e| e.into_inner());
    reports();
    guard
}

/// Fails unless there is one finding, with all these words.
#[track_caller]
pub fn found(words: &[&str]) {
    let reports = reports();
    assert_eq!(reports.len(), 1, "{reports:#?}");
    for word in words {
        assert!(reports[0].contains(word), "{word} in {}", reports[0]);
    }
}

/// Fails if there is a finding.
#[track_caller]
pub fn nothing_found() {
    let reports = reports();
    assert!(reports.is_empty(), "{reports:#?}");
}
