//! How a kernel over elements divides them among groups: the constants of `group.h`.

use super::Input;
use super::gpu::{Launch, Unit};
use bytemuck::NoUninit;
use candle_core::DType;

/// A kernel over `rows` rows of `cols` elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    rows: usize,
    cols: usize,
    vec: usize,
    aligned: usize,
    threads: usize,
}

/// `Pieces` of `group.h`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
pub(crate) struct Params {
    cols: u64,
    per_row: u32,
    unused: u32,
}

/// Vectors of a thread, so that it waits for several loads at a time.
const UNROLL: usize = 2;
const THREADS: [usize; 2] = [64, 256];

impl Pieces {
    /// The division for these inputs and an output of `dtype`, which begins at 16 bytes.
    pub fn new(rows: usize, cols: usize, dtype: DType, inputs: &[Input<'_>]) -> Self {
        let vec = super::vec(dtype, inputs);
        let aligned = if inputs.iter().all(Input::at_16) && cols.is_multiple_of(vec) { 2 } else { 0 };
        let threads = if cols <= THREADS[0] * vec * UNROLL { THREADS[0] } else { THREADS[1] };
        Pieces { rows, cols, vec, aligned, threads }
    }

    /// The division of `count` elements in one row: inputs and output begin at its first.
    pub fn flat(count: usize, dtype: DType, inputs: &[Input<'_>]) -> Self {
        let pieces = Pieces::new(1, count, dtype, inputs);
        match pieces.aligned == 0 && inputs.iter().all(Input::at_16) {
            true => Pieces { aligned: 1, ..pieces },
            false => pieces,
        }
    }

    fn per_row(&self) -> usize {
        self.cols.div_ceil(self.threads * self.vec * UNROLL)
    }

    /// What the kernel is told: `Pieces` of `group.h`.
    pub fn params(&self) -> Params {
        Params { cols: self.cols as u64, per_row: self.per_row() as u32, unused: 0 }
    }

    /// The constants.
    pub fn defines(&self) -> [(&'static str, i64); 3] {
        [("VEC", self.vec as i64), ("UNROLL", UNROLL as i64), ("ALIGNED", self.aligned as i64)]
    }

    /// The launch of `entry` of `unit` over all pieces.
    pub fn launch<'a>(
        &self,
        unit: &'static Unit,
        entry: &'static str,
        types: &'a [(&'static str, DType)],
        defines: &'a [(&'static str, i64)],
    ) -> Launch<'a> {
        let groups = [self.rows * self.per_row(), 1, 1];
        Launch { unit, entry, types, defines, groups, threads: self.threads, shared: 0 }
    }
}
