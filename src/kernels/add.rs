//! The sum of two tensors of one shape and dtype: what residual connections and gradients that meet need.

use super::cpu::{par_rows, simd, uninit};
use super::{Fused, FusedOp, Input, for_dtype};
use candle_core::{CpuStorage, Result, Shape, Tensor, WithDType, bail};

simd! {
    fn add_run<T>(a: &[T], b: &[T], y: &mut [T]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = T::from_f32(a.to_f32() + b.to_f32());
        }
    }
}

/// `a + b`.
pub(crate) struct Add;

const RUN: usize = 4096;

impl FusedOp<2> for Add {
    const NAME: &'static str = "add";

    fn cpu(&self, [a, b]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        if a.dims() != b.dims() || a.dtype() != b.dtype() {
            bail!("add: wants tensors of one shape and dtype, got {:?} and {:?}", a.dims(), b.dims())
        }
        for_dtype!(Self::NAME, a.dtype(), T => {
            let (xs, bs) = (a.slice::<T>()?, b.slice::<T>()?);
            let mut y = uninit::<T>(xs.len());
            let run = RUN.min(xs.len());
            par_rows(&mut y, run, |row, y| add_run(&xs[row * run..][..y.len()], &bs[row * run..][..y.len()], y));
            Ok((T::to_cpu_storage_owned(y), a.shape()))
        })
    }

    fn grad(&self, _: [&Tensor; 2], _: &Tensor, g: &Tensor, needs: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
        Ok(needs.map(|needed| needed.then(|| g.clone())))
    }
}

/// `a + b`, without a graph.
pub(crate) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &Fused(Add))
}
