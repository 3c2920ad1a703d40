//! Dropout whose mask is a function of a seed and the element's index, so that backward makes it again.

use crate::kernels::cpu::{par_rows, simd, uninit};
use crate::kernels::element::Element;
use crate::kernels::gpu::{Buffer, Gpu, Unit, unit};
use crate::kernels::pieces::{self, Pieces};
use crate::kernels::tape::apply1;
use crate::kernels::{FusedOp, Input, for_dtype};
use bytemuck::NoUninit;
use candle_core::{CpuStorage, Result, Shape, Tensor, bail};

/// Dropout of probability `p`: an element is kept with probability `1 - p` and then divided by it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability that an element is dropped, `0 <= p < 1`.
    pub p: f32,
    /// What the mask is drawn from: the same seed is the same mask.
    pub seed: u64,
}

/// A hash of the element's index: the murmur3 finaliser, over the index mixed with the seed.
#[inline(always)]
fn hash(seed: u64, index: u32) -> u32 {
    let mut h = index.wrapping_mul(0x9e37_79b9) ^ seed as u32;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b).wrapping_add((seed >> 32) as u32);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

simd! {
    fn dropout_row<T>(x: &[T], y: &mut [T], seed: u64, threshold: u32, scale: f32) {
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let keep = hash(seed, i as u32) >= threshold;
            *y = T::from_f32(if keep { x.to_f32() * scale } else { 0.0 });
        }
    }
}

static UNIT: Unit = unit!("dropout.h");

/// `Dropout` of dropout.h.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    pieces: pieces::Params,
    seed: u64,
    threshold: u32,
    scale: f32,
}

impl Dropout {
    /// The hash below which an element is dropped.
    fn threshold(&self) -> u32 {
        (self.p as f64 * 2f64.powi(32)).min(u32::MAX as f64) as u32
    }

    /// What an element that is kept is multiplied by.
    fn scale(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    /// The mask applied to rows of `cols` elements.
    pub(super) fn apply<T: Element>(&self, x: &[T], cols: usize) -> Vec<T> {
        let (threshold, scale) = (self.threshold(), self.scale());
        let mut y = uninit(x.len());
        par_rows(&mut y, cols, |row, y| {
            for (i, y) in y.chunks_exact_mut(cols).enumerate() {
                // A row has its own seed, so that the 32-bit index never wraps.
                let seed = (self.seed ^ (row + i) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                dropout_row(&x[(row + i) * cols..][..cols], y, seed, threshold, scale);
            }
        });
        y
    }
}

/// `x` with the mask applied to its rows.
pub(super) fn dropout(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    if !(0.0..1.0).contains(&dropout.p) {
        bail!("dropout: wants a probability in [0, 1), got {}", dropout.p)
    }
    apply1(dropout, x)
}

impl FusedOp<1> for Dropout {
    const NAME: &'static str = "dropout";

    fn cpu(&self, [x]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        let cols = super::last_dim(Self::NAME, x.dims())?;
        for_dtype!(Self::NAME, x.dtype(), T => Ok((super::storage(self.apply(x.slice::<T>()?, cols)), x.shape())))
    }

    fn gpu(&self, gpu: Gpu<'_>, [x]: [Input<'_>; 1]) -> Result<Buffer> {
        x.contiguous()?;
        let cols = super::last_dim(Self::NAME, x.dims())?;
        let pieces = Pieces::new(x.shape().elem_count() / cols.max(1), cols, x.dtype(), &[x]);
        let mut y = Buffer::new(gpu, x.shape(), x.dtype())?;
        let params = Params {
            pieces: pieces.params(),
            seed: self.seed,
            threshold: self.threshold(),
            scale: self.scale(),
        };
        let (types, defines) = ([("T", x.dtype())], pieces.defines());
        let launch = pieces.launch(&UNIT, "dropout", &types, &defines);
        gpu.launch(&launch, &mut [x.into(), (&mut y).into()], &params)?;
        Ok(y)
    }

    fn grad(&self, _: [&Tensor; 1], _: &Tensor, g: &Tensor, _: [bool; 1]) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(dropout(g, *self)?)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_seeded_and_has_the_right_mean() {
        let ones = vec![1f32; 1 << 20];
        let a = Dropout { p: 0.25, seed: 7 }.apply(&ones, 1 << 10);
        assert_eq!(a, Dropout { p: 0.25, seed: 7 }.apply(&ones, 1 << 10));
        assert_ne!(a, Dropout { p: 0.25, seed: 8 }.apply(&ones, 1 << 10));
        let dropped = a.iter().filter(|v| **v == 0.0).count() as f64 / a.len() as f64;
        assert!((dropped - 0.25).abs() < 2e-3, "{dropped}");
        assert!(a.iter().all(|v| *v == 0.0 || (*v - 1.0 / 0.75).abs() < 1e-6));
        let column = a.iter().step_by(1 << 10).filter(|v| **v == 0.0).count();
        assert!((200..320).contains(&column), "a column of 1024 has {column} dropped");
    }

    #[cfg(feature = "host")]
    #[test]
    fn kernels_drop_what_the_cpu_drops() -> Result<()> {
        use crate::kernels::with_inputs;
        use candle_core::{DType, Device};
        let dropout = Dropout { p: 0.3, seed: 0x1234_5678_9abc };
        for (dtype, cols) in [(DType::F32, 4099), (DType::BF16, 64), (DType::F16, 5000)] {
            let x = Tensor::randn(0f32, 1., (5, cols), &Device::Cpu)?.to_dtype(dtype)?;
            let here = for_dtype!("dropout", dtype, T => {
                Tensor::from_vec(dropout.apply(&x.flatten_all()?.to_vec1::<T>()?, cols), x.shape(), x.device())?
            });
            let there = with_inputs("dropout", [&x], |[x]| dropout.gpu(Gpu::Host, [x]))?.tensor();
            let [here, there] =
                [here, there].map(|t| t.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap());
            assert_eq!(here, there, "{dtype:?}");
        }
        Ok(())
    }
}
