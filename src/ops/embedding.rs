//! Embedding: `y[i] = table[ids[i]]`, a row for each id. The gradient of the table adds up the rows of `g`.

use crate::kernels::cpu::uninit;
use crate::kernels::tape::apply1;
use crate::kernels::{FusedOp, Input, for_dtype, with_inputs};
use candle_core::{CpuStorage, DType, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Rows of `table` `(V, H)` for `ids` `(B, T)` of `u32`: `(B, T, H)`.
///
/// # Errors
///
/// When an id is not below `V`, or the shapes and dtypes are others.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    embedding_padded(ids, table, None)
}

/// As [`embedding`]; the row of the id `padding` gets no gradient: PyTorch's `padding_idx`.
///
/// # Errors
///
/// As [`embedding`].
pub fn embedding_padded(ids: &Tensor, table: &Tensor, padding: Option<u32>) -> Result<Tensor> {
    let (rows, _) = table.dims2()?;
    let shape = ids.shape().clone();
    let ids = ids.flatten_all()?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        bail!("embedding: wants ids below {rows}, got {id}")
    }
    apply1(Embedding { ids, shape, padding }, table)
}

struct Embedding {
    ids: Vec<u32>,
    shape: Shape,
    padding: Option<u32>,
}

impl FusedOp<1> for Embedding {
    const NAME: &'static str = "embedding";

    fn cpu(&self, [table]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        let cols = table.dims()[1];
        let mut dims = self.shape.dims().to_vec();
        dims.push(cols);
        for_dtype!(Self::NAME, table.dtype(), T => {
            let table = table.slice::<T>()?;
            let mut y = uninit::<T>(self.ids.len() * cols);
            for (y, id) in y.chunks_exact_mut(cols.max(1)).zip(&self.ids) {
                y.copy_from_slice(&table[*id as usize * cols..][..cols]);
            }
            Ok((super::storage(y), dims.into()))
        })
    }

    fn cpu_grad(
        &self,
        [table]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        let (rows, cols) = table.dims2()?;
        // Rows of one id together, in order: each row of the gradient is summed by one thread.
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.retain(|i| Some(self.ids[*i as usize]) != self.padding);
        order.sort_by_key(|i| self.ids[*i as usize]);
        let runs: Vec<&[u32]> =
            order.chunk_by(|a, b| self.ids[*a as usize] == self.ids[*b as usize]).collect();
        with_inputs(Self::NAME, [g], |[gs]| {
            for_dtype!(Self::NAME, gs.dtype(), T => {
                let gs = gs.slice::<T>()?;
                let sums: Vec<(usize, Vec<f32>)> = runs
                    .par_iter()
                    .map(|run| {
                        let mut sum = vec![0f32; cols];
                        for i in *run {
                            for (s, g) in sum.iter_mut().zip(&gs[*i as usize * cols..][..cols]) {
                                *s += crate::kernels::element::Element::to_f32(*g);
                            }
                        }
                        (self.ids[run[0] as usize] as usize, sum)
                    })
                    .collect();
                let mut d = vec![0f32; rows * cols];
                for (id, sum) in sums {
                    d[id * cols..][..cols].copy_from_slice(&sum);
                }
                Ok([Some(super::tensor(d, table.shape(), table.device())?.to_dtype(table.dtype())?)])
            })
        })
    }
}
