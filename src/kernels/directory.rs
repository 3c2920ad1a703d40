//! Where compiled kernels and measurements are kept.

use std::env;
use std::path::PathBuf;

/// `METAL_CANDLE_CACHE`, else `metal-candle` in the user's cache directory.
pub(crate) fn directory() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("METAL_CANDLE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("metal-candle")))
        .or_else(|| Some(set("HOME")?.join(".cache/metal-candle")))
}

/// FNV-1a: for names of files that hold the whole of what they are named by.
pub(crate) fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3))
}
