//! The update's wide product on a CUDA GPU: where matrix units do it in one kernel, with all that it is added to.

#[cfg(feature = "cuda")]
use super::gpu::Wide;
use crate::kernels::Input;
use crate::kernels::gpu::{Buffer, Gpu, Launch, Unit};
#[cfg(feature = "cuda")]
use crate::matmul::{Shape, by_own_kernel};
use bytemuck::NoUninit;
use candle_core::{DType, Result};

static UNIT: Unit =
    Unit { name: "lora_linear.cuda.h", text: include_str!("../lora_linear.cuda.h"), fast_math: false };

/// Rows of a group, and its threads: 32 columns a warp. Measured: `docs/log.md`.
const ROWS: usize = 128;
const THREADS: usize = 128;

/// Columns of a warp: parts begin at multiples of them.
pub(in super::super) const STEP: usize = 32;

/// `Up` of the header.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    rows: u32,
    cols: u32,
    rank: u32,
    by_rank: u32,
    by_col: u32,
    t_stride: u32,
    starts: [u32; 2],
    scales: [f32; 3],
}

/// `scale t fᵀ + bias + onto`: up to three parts of the columns, each with columns of `t` of its own.
pub(in super::super) struct Up<'a> {
    /// `(rows, parts x rank)`.
    pub t: Input<'a>,
    /// `f`, `(cols, rank)`, or its transpose if `rank_first`.
    pub factor: Input<'a>,
    pub rank_first: bool,
    pub rank: usize,
    pub bias: Option<Input<'a>>,
    pub onto: Option<Input<'a>>,
    /// The columns of each part, and its scale.
    pub parts: &'a [(usize, f32)],
}

impl Up<'_> {
    /// Whether the kernel can do it.
    pub fn fits(dtype: DType, rank: usize, parts: impl Iterator<Item = usize>) -> bool {
        let half = matches!(dtype, DType::F16 | DType::BF16);
        let mut parts: Vec<usize> = parts.collect();
        let last = parts.pop().unwrap_or(0);
        half && rank.is_multiple_of(4)
            && parts.len() < 3
            && parts.iter().all(|n| n.is_multiple_of(STEP))
            && last.is_multiple_of(8)
    }

    /// Into `y`, of `rows` rows.
    pub fn run(&self, gpu: Gpu<'_>, rows: usize, y: &mut Buffer) -> Result<()> {
        for x in [self.t, self.factor].into_iter().chain(self.bias).chain(self.onto) {
            x.contiguous()?;
        }
        let cols: usize = self.parts.iter().map(|(cols, _)| cols).sum();
        let (mut starts, mut scales, mut at) = ([u32::MAX; 2], [0.0; 3], 0);
        for (i, (cols, scale)) in self.parts.iter().enumerate() {
            if i > 0 {
                starts[i - 1] = at as u32;
            }
            scales[i] = *scale;
            at += cols;
        }
        let bias = self.bias.map_or(DType::F32, |bias| bias.dtype());
        let (by_rank, by_col) = if self.rank_first { (cols, 1) } else { (1, self.rank) };
        let params = Params {
            rows: rows as u32,
            cols: cols as u32,
            rank: self.rank as u32,
            by_rank: by_rank as u32,
            by_col: by_col as u32,
            t_stride: (self.rank * self.parts.len()) as u32,
            starts,
            scales,
        };
        let launch = Launch {
            unit: &UNIT,
            entry: "lora_up",
            types: &[("T", self.t.dtype()), ("W", self.factor.dtype()), ("BIAS_T", bias)],
            defines: &[
                ("R16", self.rank.div_ceil(16).max(1) as i64),
                ("ROWS", ROWS as i64),
                ("BIAS", self.bias.is_some() as i64),
                ("ONTO", self.onto.is_some() as i64),
            ],
            groups: [rows.div_ceil(ROWS), cols.div_ceil(THREADS), 1],
            threads: THREADS,
            shared: 0,
        };
        let (bias, onto) = (self.bias.into(), self.onto.into());
        gpu.launch(&launch, &mut [self.t.into(), self.factor.into(), bias, onto, y.into()], &params)
    }
}

#[cfg(feature = "cuda")]
impl Wide<'_> {
    /// Whether the kernel takes products of that kind: beyond a rank of 16 the library's product is the faster one.
    pub fn on_matrix_units_of(dtype: DType, rank: usize, cols: usize) -> bool {
        (4..=16).contains(&rank) && Up::fits(dtype, rank, [cols].into_iter())
    }

    /// Whether a layer's is the kernel's: not where the library's product was measured to be faster, of matrices in one dtype.
    pub(super) fn suits_matrix_units(&self, gpu: Gpu<'_>, rows: usize) -> Result<bool> {
        let dtype = self.t.dtype();
        let shape = Shape::new(1, rows, self.cols, self.rank);
        let shape = if self.rank_first { shape } else { shape.by_weight() };
        let suits = Self::on_matrix_units_of(dtype, self.rank, self.cols);
        Ok(suits && (dtype != self.factor.dtype() || by_own_kernel(gpu, dtype, &shape)?))
    }

    /// Into `y`, of `rows` rows.
    pub fn on_matrix_units(&self, gpu: Gpu<'_>, rows: usize, y: &mut Buffer) -> Result<()> {
        let Wide { t, factor, rank_first, bias, rank, cols, scale } = *self;
        let parts = &[(cols, scale)];
        Up { t, factor, rank_first, rank, bias, onto: None, parts }.run(gpu, rows, y)
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::kernels::with_inputs;
    use candle_core::{Device, Tensor};

    #[test]
    fn every_kernel_is_shown_to_nvrtc() -> Result<()> {
        let x = |dims: (usize, usize), dtype| Tensor::zeros(dims, dtype, &Device::Cpu);
        for dtype in [DType::F16, DType::BF16] {
            for (weights, rank, parts) in
                [(DType::F32, 16, 1), (dtype, 16, 2), (dtype, 48, 1), (dtype, 96, 1)]
            {
                let cols = 64 * parts;
                let (t, factor) = (x((8, rank * parts), dtype)?, x((cols, rank), weights)?);
                let (bias, onto) = (x((1, cols), weights)?, x((8, cols), dtype)?);
                let inputs = [&t, &factor, &bias, &onto];
                with_inputs("lora_linear", inputs, |[t, factor, bias, onto]| {
                    let parts = vec![(64, 1.0); parts];
                    assert!(Up::fits(dtype, rank, parts.iter().map(|part| part.0)));
                    for (bias, onto) in [(None, None), (Some(bias), None), (Some(bias), Some(onto))] {
                        let up = Up { t, factor, rank_first: false, rank, bias, onto, parts: &parts };
                        up.run(Gpu::Host, 8, &mut Buffer::new(Gpu::Host, (8, cols), dtype)?)?;
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }
}
