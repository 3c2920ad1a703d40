//! How a kernel over rows divides them among threads: the constants of `group.h`.

use super::Input;
use super::gpu::{Gpu, Launch};
use bytemuck::NoUninit;
use candle_core::{DType, Result, bail};

/// A kernel over `rows` rows of `cols` elements of `dtype`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub rows: usize,
    pub cols: usize,
    pub dtype: DType,
    vec: usize,
    slots: usize,
    row_threads: usize,
    aligned: usize,
    /// Whether a row is too long to be held in registers.
    pub looped: bool,
}

/// `Rows` of `group.h`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
pub(crate) struct Params {
    rows: u64,
    cols: u32,
    value: f32,
}

/// Threads of a group that works on several rows, a warp each.
const SHORT: usize = 128;
/// Elements a thread holds before a row gets more threads, up to `WIDE`, and at most.
const FEW: usize = 16;
const MANY: usize = 32;
const WIDE: usize = 256;
/// Vectors of a row that a thread holds beside its sums.
const KEPT: usize = 2;
/// Rows that a worker has at least, so that its sums are worth their memory.
const EACH: usize = 4;

impl Rows {
    /// The division for these inputs, of which `rows` lie in rows of `cols`; outputs begin at 16 bytes.
    pub fn new(rows: usize, cols: usize, dtype: DType, inputs: &[Input<'_>]) -> Self {
        let vec = super::vec(dtype, inputs);
        let aligned = match (inputs.iter().all(Input::at_16), cols % vec) {
            (true, 0) => 2,
            (true, _) => 1,
            (false, _) => 0,
        };
        // An unaligned row begins up to a vector before its first element.
        let vectors = if aligned == 1 { (cols + 2 * (vec - 1)) / vec } else { cols.div_ceil(vec) };
        let threads = |elements: usize| (vectors * vec).div_ceil(elements).next_power_of_two();
        let row_threads = threads(FEW).clamp(32, WIDE).max(threads(MANY).min(1024));
        let slots = vectors.div_ceil(row_threads).max(1);
        let looped = slots * vec > MANY;
        Rows { rows, cols, dtype, vec, slots: if looped { 1 } else { slots }, row_threads, aligned, looped }
    }

    /// The division for a kernel whose threads keep sums over rows: a thread has the same columns in each of them, and
    /// registers for few.
    pub fn summed(rows: usize, cols: usize, dtype: DType, inputs: &[Input<'_>]) -> Self {
        let mut of = Rows::new(rows, cols, dtype, inputs);
        if of.aligned == 1 {
            of.aligned = 0;
        }
        let vectors = cols.div_ceil(of.vec);
        of.row_threads = vectors.div_ceil(KEPT).next_power_of_two().clamp(32, 1024);
        of.slots = vectors.div_ceil(of.row_threads).max(1);
        of.looped = of.slots > KEPT;
        if !of.looped {
            return of;
        }
        Rows { looped: true, slots: 1, ..Rows::new(rows, cols, dtype, inputs).at_most(512) }
    }

    /// With at most `row_threads` threads a row, for a kernel that loops over it.
    pub fn at_most(self, row_threads: usize) -> Self {
        Rows { row_threads: self.row_threads.min(row_threads), ..self }
    }

    /// With vectors only where every row begins at 16 bytes, for a kernel that reads two rows side by side.
    pub fn in_step(self) -> Self {
        Rows { aligned: if self.aligned == 2 { 2 } else { 0 }, ..self }
    }

    /// The division for rows along the last dimension of `x`, whose elements are contiguous.
    pub fn of(op: &str, x: Input<'_>, inputs: &[Input<'_>]) -> Result<Self> {
        let Some(&cols) = x.dims().last() else { bail!("{op}: wants at least one dimension, got a scalar") };
        for x in inputs {
            x.contiguous()?;
        }
        Ok(Rows::new(x.shape().elem_count() / cols.max(1), cols, x.dtype(), inputs))
    }

    /// What the kernel is told: `Rows` of `group.h`.
    pub fn params(&self) -> Params {
        self.params_with(0.0)
    }

    /// [`Rows::params`], with the op's own number.
    pub fn params_with(&self, value: f32) -> Params {
        Params { rows: self.rows as u64, cols: self.cols as u32, value }
    }

    /// Threads of a group.
    pub fn threads(&self) -> usize {
        if self.row_threads == 32 { SHORT } else { self.row_threads }
    }

    /// Threads of a row.
    pub fn row_threads(&self) -> usize {
        self.row_threads
    }

    /// Runs of `FLIGHT` vectors that a row's threads read in turn.
    pub fn flights(&self) -> usize {
        /// As in `group.h`.
        const FLIGHT: usize = 4;
        let before = if self.aligned == 1 { self.vec - 1 } else { 0 };
        (self.cols + before).div_ceil(FLIGHT * self.row_threads * self.vec).max(1)
    }

    /// Elements of a row that a thread holds.
    pub fn held(&self) -> usize {
        self.slots * self.vec
    }

    /// Rows that one group works on.
    pub fn per_group(&self) -> usize {
        self.threads() / self.row_threads
    }

    /// Groups of a launch that sums over rows if `summing`, where a multiprocessor has `resident` of them, and how many
    /// sums it leaves: each worker's own.
    pub fn sums(&self, gpu: Gpu<'_>, resident: usize, summing: bool) -> (usize, usize) {
        let most = resident * gpu.multiprocessors();
        match self.looped {
            true => (self.groups(), self.rows.min(most)),
            false if summing => {
                let groups = self.rows.div_ceil(EACH * self.per_group()).min(most);
                (groups, groups * self.per_group())
            }
            false => (self.groups(), 0),
        }
    }

    /// Groups for all rows.
    pub fn groups(&self) -> usize {
        self.rows.div_ceil(self.per_group())
    }

    /// The constants.
    pub fn defines(&self) -> [(&'static str, i64); 4] {
        [
            ("VEC", self.vec as i64),
            ("SLOTS", self.slots as i64),
            ("ROW_THREADS", self.row_threads as i64),
            ("ALIGNED", self.aligned as i64),
        ]
    }

    /// The launch of `entry` of `unit` over all rows.
    pub fn launch<'a>(
        &self,
        unit: &'static super::gpu::Unit,
        entry: &'static str,
        types: &'a [(&'static str, DType)],
        defines: &'a [(&'static str, i64)],
    ) -> Launch<'a> {
        Launch {
            unit,
            entry,
            types,
            defines,
            groups: [self.groups(), 1, 1],
            threads: self.threads(),
            shared: 0,
        }
    }
}
