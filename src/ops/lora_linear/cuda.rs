//! The update's wide product on a CUDA GPU: where matrix units do it in one kernel, bias and all.

use super::gpu::Wide;
use crate::kernels::gpu::{Buffer, Gpu, Launch, Unit};
use crate::matmul::{Shape, by_own_kernel};
use bytemuck::NoUninit;
use candle_core::{DType, Result};

static UNIT: Unit =
    Unit { name: "lora_linear.cuda.h", text: include_str!("../lora_linear.cuda.h"), fast_math: false };

/// Rows of a group, and its threads: 32 columns a warp. Measured: `docs/log.md`.
const ROWS: usize = 128;
const THREADS: usize = 128;

/// `Up` of the header.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    rows: u32,
    cols: u32,
    rank: u32,
    by_rank: u32,
    by_col: u32,
    scale: f32,
}

impl Wide<'_> {
    /// Whether the kernel takes products of that kind: beyond a rank of 16 the library's product is the faster one.
    pub fn on_matrix_units_of(dtype: DType, rank: usize, cols: usize) -> bool {
        let half = matches!(dtype, DType::F16 | DType::BF16);
        half && (4..=16).contains(&rank) && rank.is_multiple_of(4) && cols.is_multiple_of(8)
    }

    /// Whether a layer's is the kernel's: not where the library's product was measured to be faster, of matrices in one dtype.
    pub(super) fn suits_matrix_units(&self, gpu: Gpu<'_>, rows: usize) -> Result<bool> {
        let dtype = self.t.dtype();
        let shape = Shape::new(1, rows, self.cols, self.rank);
        let shape = if self.rank_first { shape } else { shape.by_weight() };
        let suits = Self::on_matrix_units_of(dtype, self.rank, self.cols);
        Ok(suits && (dtype != self.factor.dtype() || by_own_kernel(gpu, dtype, &shape)?))
    }

    /// `(rows, cols)`.
    pub fn on_matrix_units(&self, gpu: Gpu<'_>, rows: usize) -> Result<Buffer> {
        for x in [self.t, self.factor].into_iter().chain(self.bias) {
            x.contiguous()?;
        }
        let bias = self.bias.map_or(DType::F32, |bias| bias.dtype());
        let (by_rank, by_col) = if self.rank_first { (self.cols, 1) } else { (1, self.rank) };
        let params = Params {
            rows: rows as u32,
            cols: self.cols as u32,
            rank: self.rank as u32,
            by_rank: by_rank as u32,
            by_col: by_col as u32,
            scale: self.scale,
        };
        let launch = Launch {
            unit: &UNIT,
            entry: "lora_up",
            types: &[("T", self.t.dtype()), ("W", self.factor.dtype()), ("BIAS_T", bias)],
            defines: &[("R16", 1), ("ROWS", ROWS as i64), ("BIAS", self.bias.is_some() as i64)],
            groups: [rows.div_ceil(ROWS), self.cols.div_ceil(THREADS), 1],
            threads: THREADS,
            shared: 0,
        };
        let mut y = Buffer::new(gpu, (rows, self.cols), self.t.dtype())?;
        let mut args = [self.t.into(), self.factor.into(), self.bias.into(), (&mut y).into()];
        gpu.launch(&launch, &mut args, &params)?;
        Ok(y)
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
            for weights in [DType::F32, dtype] {
                let (t, factor, bias) = (x((8, 16), dtype)?, x((64, 16), weights)?, x((1, 64), weights)?);
                let inputs = [&t, &factor, &bias];
                with_inputs("lora_linear", inputs, |[t, factor, bias]| {
                    for bias in [None, Some(bias)] {
                        let wide =
                            Wide { t, factor, rank_first: false, bias, rank: 16, cols: 64, scale: 1.0 };
                        assert!(wide.suits_matrix_units(Gpu::Host, 8)?);
                        wide.on_matrix_units(Gpu::Host, 8)?;
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }
}
