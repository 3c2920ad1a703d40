//! Embedding: `y[i] = table[ids[i]]`, a row for each id. The gradient of the table adds up the rows of `g`.

use crate::kernels::cpu::uninit;
use crate::kernels::element::Element as _;
use crate::kernels::gpu::{Arg, Buffer, Gpu, Unit, unit};
use crate::kernels::pieces::{self, Pieces};
use crate::kernels::tape::apply1;
use crate::kernels::{FusedOp, Input, for_dtype, with_inputs};
use bytemuck::NoUninit;
use candle_core::{CpuStorage, DType, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Rows of `table` `(V, H)` for `ids` `(B, T)` of `u32`: `(B, T, H)`.
///
/// `ids` are best on the CPU: they are checked there, and sent to a table on a GPU. Ids that are on the GPU already
/// are not read back; one that is not below `V` gives a row of NaN, and no gradient.
///
/// # Errors
///
/// When an id on the CPU is not below `V`, or the shapes and dtypes are others.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    embedding_padded(ids, table, None)
}

/// As [`embedding`]; the row of the id `padding` gets no gradient: PyTorch's `padding_idx`.
///
/// # Errors
///
/// As [`embedding`].
pub fn embedding_padded(ids: &Tensor, table: &Tensor, padding: Option<u32>) -> Result<Tensor> {
    embedding_scaled(ids, table, padding, 1.0)
}

/// As [`embedding_padded`], times `scale`, which is rounded to the table's dtype first.
///
/// # Errors
///
/// As [`embedding`].
pub(crate) fn embedding_scaled(
    ids: &Tensor,
    table: &Tensor,
    padding: Option<u32>,
    scale: f64,
) -> Result<Tensor> {
    let (rows, _) = table.dims2()?;
    let ids = ids.to_dtype(DType::U32)?.contiguous()?;
    if ids.device().is_cpu() {
        with_inputs("embedding", [&ids], |[ids]| {
            match ids.slice::<u32>()?.iter().find(|id| **id as usize >= rows) {
                Some(id) => bail!("embedding: wants ids below {rows}, got {id}"),
                None => Ok(()),
            }
        })?;
    }
    let ids = ids.to_device(table.device())?;
    let scale = match table.dtype() {
        DType::BF16 => half::bf16::from_f64(scale).to_f32(),
        DType::F16 => half::f16::from_f64(scale).to_f32(),
        _ => scale as f32,
    };
    apply1(Embedding { ids, padding, scale }, table)
}

struct Embedding {
    /// Contiguous, `u32`, where the table is.
    ids: Tensor,
    padding: Option<u32>,
    scale: f32,
}

static UNIT: Unit = unit!("embedding.h");

/// `Embedding` of embedding.h.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    pieces: pieces::Params,
    count: u32,
    vocabulary: u32,
    padding: u32,
    scale: f32,
}

impl Embedding {
    /// Launches `entry` over the rows that the ids name.
    fn launch(
        &self,
        gpu: Gpu<'_>,
        entry: &'static str,
        (vocabulary, cols): (usize, usize),
        x: Input<'_>,
        y: &mut Buffer,
    ) -> Result<()> {
        x.contiguous()?;
        let count = self.ids.elem_count();
        let pieces = Pieces::new(count, cols, x.dtype(), &[x]);
        let params = Params {
            pieces: pieces.params(),
            count: count as u32,
            vocabulary: vocabulary as u32,
            padding: self.padding.unwrap_or(u32::MAX),
            scale: self.scale,
        };
        let (types, defines) = ([("T", x.dtype())], pieces.defines());
        let launch = pieces.launch(&UNIT, entry, &types, &defines);
        with_inputs(Self::NAME, [&self.ids], |[ids]| {
            gpu.launch(&launch, &mut [x.into(), ids.into(), Arg::Out(y)], &params)
        })
    }
}

impl FusedOp<1> for Embedding {
    const NAME: &'static str = "embedding";

    fn cpu(&self, [table]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        let cols = table.dims()[1];
        let mut dims = self.ids.dims().to_vec();
        dims.push(cols);
        with_inputs(Self::NAME, [&self.ids], |[ids]| {
            let ids = ids.slice::<u32>()?;
            for_dtype!(Self::NAME, table.dtype(), T => {
                let table = table.slice::<T>()?;
                let mut y = uninit::<T>(ids.len() * cols);
                for (y, id) in y.chunks_exact_mut(cols.max(1)).zip(ids) {
                    y.copy_from_slice(&table[*id as usize * cols..][..cols]);
                }
                if self.scale != 1.0 {
                    y.iter_mut().for_each(|y| *y = T::from_f32(y.to_f32() * self.scale));
                }
                Ok((super::storage(y), dims.into()))
            })
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [table]: [Input<'_>; 1]) -> Result<Buffer> {
        let [rows, cols] = *table.dims() else {
            bail!("embedding: wants a table (V, H), got {:?}", table.dims())
        };
        let mut dims = self.ids.dims().to_vec();
        dims.push(cols);
        let mut y = Buffer::new(gpu, dims, table.dtype())?;
        self.launch(gpu, "embedding_fwd", (rows, cols), table, &mut y)?;
        Ok(y)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [table]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        let mut d = Buffer::zeros(gpu, table.shape(), table.dtype())?;
        with_inputs(Self::NAME, [g], |[g]| self.launch(gpu, "embedding_bwd", table.dims2()?, g, &mut d))?;
        Ok([Some(d.tensor())])
    }

    fn cpu_grad(
        &self,
        [table]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        let (rows, cols) = table.dims2()?;
        with_inputs(Self::NAME, [&self.ids, g], |[ids, gs]| {
            let ids = ids.slice::<u32>()?;
            // Rows of one id together, in order: each row of the gradient is summed by one thread.
            let mut order: Vec<u32> = (0..ids.len() as u32).collect();
            order.retain(|i| Some(ids[*i as usize]) != self.padding);
            order.sort_by_key(|i| ids[*i as usize]);
            let runs: Vec<&[u32]> = order.chunk_by(|a, b| ids[*a as usize] == ids[*b as usize]).collect();
            for_dtype!(Self::NAME, gs.dtype(), T => {
                let gs = gs.slice::<T>()?;
                let sums: Vec<(usize, Vec<f32>)> = runs
                    .par_iter()
                    .map(|run| {
                        let mut sum = vec![0f32; cols];
                        for i in *run {
                            for (s, g) in sum.iter_mut().zip(&gs[*i as usize * cols..][..cols]) {
                                *s += g.to_f32();
                            }
                        }
                        sum.iter_mut().for_each(|s| *s *= self.scale);
                        (ids[run[0] as usize] as usize, sum)
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

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use candle_core::Device;

    /// With ids that no host has checked.
    #[test]
    fn kernels_look_rows_up_and_add_gradients_as_the_cpu_does() -> Result<()> {
        let (cpu, values) =
            (Device::Cpu, |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>());
        for (dtype, cols) in [(DType::F32, 4099), (DType::BF16, 64), (DType::F16, 5000)] {
            let table = Tensor::randn(0f32, 1., (7, cols), &cpu)?.to_dtype(dtype)?;
            let known: Vec<u32> = (0..90).map(|i| i * i % 6).collect();
            let g = Tensor::randn(0f32, 1., (known.len() + 1, cols), &cpu)?.to_dtype(dtype)?;
            let op = |ids: Vec<u32>| -> Result<_> {
                Ok(Embedding { ids: Tensor::new(ids, &cpu)?, padding: Some(4), scale: 1.0 })
            };
            let all = op([&known[..], &[7]].concat())?;
            let y = with_inputs("embedding", [&table], |[t]| all.gpu(Gpu::Host, [t]))?.tensor();
            assert!(values(&y.get(known.len())?)?.iter().all(|v| v.is_nan()));
            let d = all.gpu_grad(Gpu::Host, [&table], &y, &g, [true])?[0].clone().unwrap();

            let (g, known) = (g.narrow(0, 0, known.len())?, op(known)?);
            assert_eq!(values(&y.narrow(0, 0, g.dim(0)?)?)?, values(&table.index_select(&known.ids, 0)?)?);
            let expected = known.cpu_grad([&table], &y, &g, [true])?[0].clone().unwrap();
            assert_eq!(values(&d)?, values(&expected)?, "{dtype:?}");
            assert!(
                values(&d.get(4)?)?.iter().all(|v| *v == 0.0)
                    && values(&d.get(3)?)?.iter().any(|v| *v != 0.0)
            );
        }
        Ok(())
    }
}
