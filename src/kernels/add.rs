//! The sum of two tensors of one shape and dtype: what residual connections and gradients that meet need.

use super::cpu::{par_rows, simd, uninit};
use super::gpu::{Buffer, Gpu, Unit, unit};
use super::pieces::Pieces;
use super::tape::in_order;
use super::{Fused, FusedOp, Input, for_dtype};
use candle_core::{CpuStorage, Result, Shape, Tensor, WithDType, bail};

simd! {
    fn add_run<T>(a: &[T], b: &[T], y: &mut [T]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = T::from_f32(a.to_f32() + b.to_f32());
        }
    }
}

static UNIT: Unit = unit!("add.h");

/// `a + b`.
pub(crate) struct Add;

impl Add {
    fn check(a: &Input<'_>, b: &Input<'_>) -> Result<()> {
        if a.dims() != b.dims() || a.dtype() != b.dtype() {
            bail!("add: wants tensors of one shape and dtype, got {:?} and {:?}", a.dims(), b.dims())
        }
        Ok(())
    }
}

const RUN: usize = 4096;

impl FusedOp<2> for Add {
    const NAME: &'static str = "add";

    fn cpu(&self, [a, b]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        Add::check(&a, &b)?;
        for_dtype!(Self::NAME, a.dtype(), T => {
            let (xs, bs) = (a.slice::<T>()?, b.slice::<T>()?);
            let mut y = uninit::<T>(xs.len());
            let run = RUN.min(xs.len());
            par_rows(&mut y, run, |row, y| add_run(&xs[row * run..][..y.len()], &bs[row * run..][..y.len()], y));
            Ok((T::to_cpu_storage_owned(y), a.shape()))
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [a, b]: [Input<'_>; 2]) -> Result<Buffer> {
        Add::check(&a, &b)?;
        a.contiguous()?;
        b.contiguous()?;
        let pieces = Pieces::flat(a.shape().elem_count(), a.dtype(), &[a, b]);
        let mut y = Buffer::new(gpu, a.shape(), a.dtype())?;
        let (types, defines) = ([("T", a.dtype())], pieces.defines());
        let launch = pieces.launch(&UNIT, "add", &types, &defines);
        gpu.launch(&launch, &mut [a.into(), b.into(), (&mut y).into()], &pieces.params())?;
        Ok(y)
    }

    fn grad(&self, _: [&Tensor; 2], _: &Tensor, g: &Tensor, needs: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
        Ok(needs.map(|needed| needed.then(|| g.clone())))
    }
}

/// `a + b`, without a graph.
pub(crate) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    in_order(a)?.apply_op2_no_bwd(&in_order(b)?, &Fused(Add))
}
