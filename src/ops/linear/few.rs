//! A linear layer for a few rows of `x`, in one kernel: what is left of it is a read of the weight.

use super::FEW_UNIT;
use super::gpu::with_last;
use crate::kernels::Input;
use crate::kernels::gpu::{Buffer, Gpu};
use crate::kernels::rows::Rows;
use crate::matmul::{Shape, by_own_kernel};
use crate::ops::gated::Activation;
use bytemuck::NoUninit;
use candle_core::{DType, Result};

/// Rows of `x` up to which a product is no more than one read of the weight.
pub(crate) const FEW: usize = 4;

/// What a few rows' kernel adds to the product: `scale t Bᵀ`.
#[derive(Clone, Copy)]
pub(crate) struct Low<'a> {
    pub b: Input<'a>,
    pub t: Input<'a>,
    pub scale: f32,
}

/// A product of up to [`FEW`] rows of `x`, in one kernel.
pub(crate) struct Few<'a> {
    pub x: Input<'a>,
    pub w: Input<'a>,
    pub bias: Option<Input<'a>>,
    pub low: Option<Low<'a>>,
    /// What is added to it, in the shape of the result.
    pub onto: Option<Input<'a>>,
    /// The weight and the epsilon of a norm of `x`.
    pub norm: Option<(Input<'a>, f32)>,
    /// What the first half of the outputs is put through, to be multiplied by the second one.
    pub gate: Option<Activation>,
}

/// `Few` of the header.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    outputs: u32,
    inputs: u32,
    rank: u32,
    scale: f32,
    eps: f32,
}

impl<'a> Few<'a> {
    /// `x wᵀ`.
    pub fn of(x: Input<'a>, w: Input<'a>) -> Self {
        Few { x, w, bias: None, low: None, onto: None, norm: None, gate: None }
    }

    /// Whether a layer's product of `x` and `w` is one: what is left of it is a read of a matrix that is not tiny. Not where the
    /// library's product was measured to be faster, of matrices in one dtype.
    pub fn fits(gpu: Gpu<'_>, x: Input<'_>, w: Input<'_>) -> Result<bool> {
        let (n, k) = (w.dims()[0], w.dims()[1]);
        let rows = x.shape().elem_count() / k.max(1);
        let few = (1..=FEW).contains(&rows) && n > 0 && k > 0;
        let shape = Shape::new(1, rows, n, k).by_weight();
        Ok(few && (x.dtype() != w.dtype() || by_own_kernel(gpu, x.dtype(), &shape)?))
    }

    pub fn run(&self, gpu: Gpu<'_>) -> Result<Buffer> {
        let (n, k) = (self.w.dims()[0], self.w.dims()[1]);
        let m = self.x.shape().elem_count() / k;
        let n = if self.gate.is_some() { n / 2 } else { n };
        let norm = self.norm.map(|(weight, _)| weight);
        let inputs = [self.bias, self.low.map(|low| low.b), self.onto, norm];
        for x in [self.x, self.w].into_iter().chain(inputs.into_iter().flatten()) {
            x.contiguous()?;
        }
        // Rows of w are read beside each other, so that x is read less often, while some eight warps a multiprocessor can;
        // few outputs are spread over more threads. More rows of x hold more, and do better in smaller groups.
        let (warps, most) = if m == 1 { (8, 128) } else { (14, 64) };
        let wanted = 32 * warps * gpu.multiprocessors();
        let halves = if self.gate.is_some() { 2 } else { 1 };
        let beside =
            [4, 2].into_iter().find(|rows| n / rows * most >= wanted).map_or(1, |rows| rows / halves).max(1);
        let workers = n.div_ceil(beside).max(1);
        let threads = wanted.div_ceil(workers).next_power_of_two().clamp(32, most);
        let rows: Vec<Input<'_>> = [self.x, self.w].into_iter().chain(norm).collect();
        let rows = Rows::new(workers, k, self.x.dtype(), &rows).in_step().at_most(threads);
        let mut y = Buffer::new(gpu, with_last(self.x, n), self.x.dtype())?;
        let dtype = |x: Option<Input<'_>>| x.map_or(DType::F32, |x| x.dtype());
        let types = [
            ("T", self.x.dtype()),
            ("W", self.w.dtype()),
            ("BIAS_T", dtype(self.bias)),
            ("LOW_T", dtype(self.low.map(|low| low.b))),
            ("NORM_T", dtype(norm)),
        ];
        let [a, b, c, d] = rows.defines();
        let defines = [
            a,
            b,
            c,
            d,
            ("FEW", m as i64),
            ("BESIDE", beside as i64),
            ("BIAS", self.bias.is_some() as i64),
            ("LOW", self.low.is_some() as i64),
            ("ONTO", self.onto.is_some() as i64),
            ("NORM", norm.is_some() as i64),
            ("GATED", self.gate.is_some() as i64),
            ("GELU", (self.gate == Some(Activation::Gelu)) as i64),
        ];
        let params = Params {
            outputs: n as u32,
            inputs: k as u32,
            rank: self.low.map_or(0, |low| low.b.dims()[1] as u32),
            scale: self.low.map_or(0.0, |low| low.scale),
            eps: self.norm.map_or(0.0, |(_, eps)| eps),
        };
        let mut args = [
            self.x.into(),
            self.w.into(),
            self.bias.into(),
            self.low.map(|low| low.b).into(),
            self.low.map(|low| low.t).into(),
            self.onto.into(),
            norm.into(),
            (&mut y).into(),
        ];
        gpu.launch(&rows.launch(&FEW_UNIT, "linear_few", &types, &defines), &mut args, &params)?;
        Ok(y)
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::kernels::with_inputs;
    use crate::matmul::{Backend, with_backend};
    use candle_core::{Device, Tensor};

    #[test]
    fn a_few_rows_are_the_librarys_where_it_is_named() -> Result<()> {
        let x = |rows: usize, dtype| Tensor::zeros((rows, 64), dtype, &Device::Cpu);
        let fits =
            |x: &Tensor, w: &Tensor| with_inputs("linear", [x, w], |[x, w]| Few::fits(Gpu::Host, x, w));
        let (row, wide, w) = (x(4, DType::BF16)?, x(5, DType::BF16)?, x(8, DType::BF16)?);
        assert!(fits(&row, &w)? && !fits(&wide, &w)?);
        with_backend(Backend::Candle, || {
            assert!(!fits(&row, &w)?);
            // Of another dtype it would be cast each time.
            assert!(fits(&row, &x(8, DType::F32)?)?);
            Result::Ok(())
        })?;
        assert!(with_backend(Backend::Fused, || fits(&row, &w))?);
        // What layers do not call is no name for theirs.
        assert!(with_backend(Backend::CublasLt, || fits(&row, &w))?);
        Ok(())
    }
}
