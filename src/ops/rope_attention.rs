//! Rotation and attention over what one product has made of queries, keys and values, on a CUDA GPU: `(B, T, W)`, each
//! position's heads of queries, of keys, of values one after the other. Their gradient is in one tensor, too, so that the
//! product before has one to take, and the rotation is in place, forward and back.

use super::attention::{Attention, cuda};
use super::rope::{check, turn_in_place};
use crate::kernels::cuda::group_memory;
use crate::kernels::gpu::{self, Buffer, Gpu};
use crate::kernels::tape::{follow, in_order, recording, tracked};
use crate::kernels::with_inputs;
use candle_core::{DType, Result, Tensor, bail};

const OP: &str = "attention";

/// Heads of queries, and of keys and of values, of `dim` each.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub queries: usize,
    pub keys: usize,
    pub dim: usize,
}

impl Heads {
    /// Queries, keys and values as views of `x` `(B, T, W)`.
    fn views(self, x: &Tensor) -> Result<[Tensor; 3]> {
        let Heads { queries, keys, .. } = self;
        let x = self.split(x)?;
        Ok([x.narrow(2, 0, queries)?, x.narrow(2, queries, keys)?, x.narrow(2, queries + keys, keys)?])
    }

    /// What is turned, as a view.
    fn turned(self, x: &Tensor) -> Result<Tensor> {
        self.split(x)?.narrow(2, 0, self.queries + self.keys)
    }

    fn split(self, x: &Tensor) -> Result<Tensor> {
        let (batch, len, _) = x.dims3()?;
        x.reshape((batch, len, self.queries + 2 * self.keys, self.dim))
    }
}

/// `attention(rope(q), rope(k), v)` of `qkv` `(B, T, W)`, which must have no other user: it is turned in place. The result
/// is `(B, T, queries, dim)`. None where the kernels cannot: then nothing was changed.
///
/// Gradients are recorded by a tape only.
///
/// # Errors
///
/// When a shape does not fit, or the GPU has no room.
pub(crate) fn rope_attention(
    qkv: &Tensor,
    [cos, sin]: [&Tensor; 2],
    heads: Heads,
    options: &Attention,
) -> Result<Option<Tensor>> {
    let half = matches!(qkv.dtype(), DType::F16 | DType::BF16);
    let fits = half && qkv.device().is_cuda() && qkv.is_contiguous() && heads.dim <= 256;
    if !fits || (tracked(qkv) && !recording()) {
        return Ok(None);
    }
    let (batch, len, _) = qkv.dims3()?;
    check(batch, len, heads.dim, [cos, sin])?;
    let [q, k, _] = heads.views(qkv)?;
    options.check(&q, &k)?;
    let tables = [cos.clone(), sin.clone()];
    turn_in_place(&heads.turned(qkv)?, cos, sin, false)?;
    let options = options.clone();
    let [q, k, v] = heads.views(qkv)?;
    let made = gpu::on(qkv, |gpu| {
        with_inputs(OP, [&q, &k, &v], |inputs| cuda::forward(gpu, limit(gpu)?, &options, inputs, true))
    });
    let Some(made) = made else { bail!("{OP}: wants a GPU") };
    let (y, saved) = made?;
    let y = y.tensor();
    let (input, qkv, of) = (qkv.clone(), qkv.clone(), y.clone());
    let backward = move |g: &Tensor| {
        let g = in_order(g)?;
        let done = gpu::on(&g, |gpu| {
            let d = Buffer::new(gpu, qkv.shape(), qkv.dtype())?.tensor();
            let ([q, k, v], into) = (heads.views(&qkv)?, heads.views(&d)?);
            with_inputs(OP, [&q, &k, &v, &of, &g], |inputs| {
                let into = into.each_ref().map(Some);
                cuda::backward_into(gpu, limit(gpu)?, &options, inputs, &saved, true, into)
            })?;
            turn_in_place(&heads.turned(&d)?, &tables[0], &tables[1], true)?;
            Ok(vec![Some(d)])
        });
        done.unwrap_or_else(|| bail!("{OP}: wants a gradient on the GPU"))
    };
    follow(&[&input], || Ok(y), backward).map(Some)
}

fn limit(gpu: Gpu<'_>) -> Result<usize> {
    match gpu {
        Gpu::Cuda(device) => Ok(group_memory(device)),
        _ => bail!("{OP}: wants a CUDA GPU"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tape::Tape;
    use crate::ops::near::{noise, off};
    use crate::ops::{Keys, attention_thd, narrow, reshape, rope_thd};
    use candle_core::Device;

    /// On the GPU of `METAL_CANDLE_TEST_DEVICE`, if it is one of CUDA's.
    #[test]
    fn in_one_tensor_it_is_as_near_as_in_three() -> Result<()> {
        let device =
            crate::device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into()))?;
        if !device.is_cuda() {
            return Ok(());
        }
        let documents: Vec<u32> = (0..2 * 70).map(|i| if i % 70 < 30 { 0 } else { 30 }).collect();
        let packed = Keys::Documents(documents.into());
        for (batch, len, queries, keys, dim, rotary, window, mask) in [
            (2, 70, 4, 2, 64, 64, None, Keys::All),
            (1, 3, 4, 4, 32, 32, None, Keys::All),
            (2, 70, 7, 1, 64, 32, None, packed),
            (1, 200, 14, 2, 128, 128, Some(50), Keys::All),
            (1, 130, 6, 2, 256, 256, None, Keys::All),
        ] {
            let heads = Heads { queries, keys, dim };
            let width = (queries + 2 * keys) * dim;
            let options = Attention { scale: 0.1, causal: true, window, softcap: None, keys: mask };
            let run = |dtype: DType, device: &Device, together: bool| -> Result<[Tensor; 2]> {
                let at = |x: Tensor| x.to_dtype(DType::BF16)?.to_dtype(dtype)?.to_device(device);
                let qkv = at(noise(&[batch, len, width][..], 3.0, 1)?)?;
                let g = at(noise(&[batch, len, queries, dim][..], 3.0, 2)?)?;
                let angles = noise(&[len, rotary / 2][..], 3.0, 3)?.to_device(device)?;
                let (cos, sin) = (angles.cos()?, angles.sin()?);
                let (y, tape) = Tape::record(&[&qkv], || {
                    if together {
                        let y = rope_attention(&qkv, [&cos, &sin], heads, &options)?;
                        return y.ok_or_else(|| candle_core::Error::Msg("wants a fused attention".into()));
                    }
                    let x = reshape(&qkv, (batch, len, queries + 2 * keys, dim))?;
                    let turned = rope_thd(&narrow(&x, 2, 0, queries + keys)?, &cos, &sin)?;
                    let (q, k) = (narrow(&turned, 2, 0, queries)?, narrow(&turned, 2, queries, keys)?);
                    attention_thd(&q, &k, &narrow(&x, 2, queries + keys, keys)?, &options)
                })?;
                let gradients = tape.backward(&y, g)?;
                let d = gradients.get(&qkv).cloned();
                Ok([y, d.ok_or_else(|| candle_core::Error::Msg("no gradient".into()))?])
            };
            let right = run(DType::F32, &Device::Cpu, false)?;
            for dtype in [DType::BF16, DType::F16] {
                let (together, apart) = (run(dtype, &device, true)?, run(dtype, &device, false)?);
                for ((together, apart), right) in together.iter().zip(&apart).zip(&right) {
                    let (ours, plain) = (off(together, right)?, off(apart, right)?);
                    assert!(ours <= 1.5 * plain, "{len} {dim} {dtype:?}: {ours} against {plain}");
                }
            }
        }
        Ok(())
    }
}
