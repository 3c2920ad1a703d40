//! This crate's products on a CPU.

use super::backend::Compute;
use super::{Backend, Product, Site, View};
use crate::kernels::element::Element;
use crate::kernels::for_dtype;
use crate::kernels::gemm::{self, Mat};
use crate::kernels::gpu::Buffer;
use crate::ops::storage;
use candle_core::{Result, Storage};
use rayon::prelude::*;

/// One matrix of a view.
fn matrix<'a, T: Element>(x: &View<'a>, i: usize) -> Result<Mat<'a, T>> {
    let data = &x.input.strided::<T>()?[i * x.batch_stride..][..x.span()];
    let rows = Mat::rows(data, x.stride);
    Ok(if x.transposed { rows.t() } else { rows })
}

/// [`Backend::Packed`].
pub(super) struct Packed;

impl Compute for Packed {
    fn key(&self) -> Backend {
        Backend::Packed
    }

    fn on(&self, site: Site<'_>) -> bool {
        matches!(site, Site::Cpu)
    }

    fn product(&self, _: Site<'_>, product: &Product<'_>) -> Result<Buffer> {
        let [batch, m, n, _] = product.sizes();
        let y = for_dtype!("matmul", product.dtype(), T => storage(of::<T>(product)?));
        Ok(Buffer::from_parts(Storage::Cpu(y), (batch, m, n), product.dtype()))
    }
}

fn of<T: Element>(product: &Product<'_>) -> Result<Vec<T>> {
    let [batch, m, n, k] = product.sizes();
    let c = product.c.map(|(beta, c)| Ok::<_, candle_core::Error>((beta, c.slice::<T>()?))).transpose()?;
    let one = |i: usize| -> Result<Vec<T>> {
        let (a, b) = (matrix::<T>(&product.a, i)?, matrix::<T>(&product.b, i)?);
        if product.alpha == 1.0 && c.is_none() {
            return Ok(gemm::matmul((m, n, k), a, b, None));
        }
        let mut sums = vec![0f32; m * n];
        gemm::matmul_f32((m, n, k), a, b, &mut sums);
        let scaled = |(at, sum): (usize, &mut f32)| {
            *sum *= product.alpha;
            if let Some((beta, c)) = c {
                *sum += beta * c[i * m * n + at].to_f32();
            }
        };
        sums.par_iter_mut().enumerate().with_min_len(1 << 14).for_each(scaled);
        Ok(gemm::narrow_owned(sums))
    };
    if batch == 1 {
        return one(0);
    }
    let parts: Vec<Vec<T>> = (0..batch).into_par_iter().map(one).collect::<Result<_>>()?;
    Ok(parts.concat())
}
