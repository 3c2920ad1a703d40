//! Fetching what is packed next.

use super::Operand;
use std::arch::x86_64::*;

/// Memory that is fetched into the cache a line at a time: `runs` runs of `bytes`, `stride` bytes apart.
#[derive(Default)]
pub(super) struct Ahead {
    at: usize,
    bytes: usize,
    stride: usize,
    runs: usize,
    done: usize,
}

impl Ahead {
    const LINE: usize = 64;

    /// What columns from `first` on of `b`, `k` rows by `n`, are packed from.
    pub fn new(b: Operand<'_>, k: usize, first: usize, columns: usize, n: usize) -> Self {
        let (at, rs, cs, size) = match b {
            Operand::F32(b) => (b.data.as_ptr() as usize, b.rs, b.cs, 4),
            Operand::F16(b) => (b.data.as_ptr() as usize, b.rs, b.cs, 2),
            Operand::Bf16(b) => (b.data.as_ptr() as usize, b.rs, b.cs, 2),
        };
        let columns = columns.min(n - first);
        let at = at + first * cs * size;
        match rs {
            1 => Ahead { at, bytes: k * size, stride: cs * size, runs: columns, done: 0 },
            _ => Ahead { at, bytes: columns * size, stride: rs * size, runs: k, done: 0 },
        }
    }

    #[inline(always)]
    pub fn fetch(&mut self) {
        if self.runs == 0 {
            return;
        }
        // SAFETY: a prefetch of any address has no effect that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T1>((self.at + self.done) as *const i8) };
        self.done += Self::LINE;
        if self.done >= self.bytes {
            (self.at, self.runs, self.done) = (self.at + self.stride, self.runs - 1, 0);
        }
    }
}
