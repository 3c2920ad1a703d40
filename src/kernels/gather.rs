//! Copies of f32 tensors to their places in one, whose addresses go with the launch: no table is sent to the GPU, so that
//! a graph can be made of it.

use super::gpu::{Arg, Gpu, Launch, Unit, unit};
use super::{Held, Input};
use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor, bail};

static UNIT: Unit = unit!("gather.h");

const NAME: &str = "gather";
/// Tensors of a launch: what fits its parameters.
const GATHERED: usize = 24;
/// Groups of a tensor.
const GROUPS: usize = 8;

/// `Gathering` of gather.h.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    from: [u64; GATHERED],
    to: [u64; GATHERED],
    len: [u32; GATHERED],
}

/// Copies each tensor to where it begins in `all`. Not for a GPU whose buffers have no addresses.
pub(crate) fn gather(gpu: Gpu<'_>, tensors: &[(&Tensor, usize)], all: &Tensor) -> Result<()> {
    let all = Held::new(all);
    let all = all.input(NAME);
    for tensors in tensors.chunks(GATHERED) {
        let held: Vec<_> = tensors.iter().map(|(x, _)| Held::new(x)).collect();
        let mut params = Params { from: [0; GATHERED], to: [0; GATHERED], len: [0; GATHERED] };
        for (i, ((x, at), held)) in tensors.iter().zip(&held).enumerate() {
            let input: Input<'_> = held.input(NAME);
            input.contiguous()?;
            let Some(address) = gpu.address(&input)?.filter(|_| x.dtype() == DType::F32) else {
                bail!("{NAME}: wants f32 on a GPU with addresses, got {:?}", x.dtype())
            };
            (params.from[i], params.to[i], params.len[i]) = (address, *at as u64, x.elem_count() as u32);
        }
        let launch = Launch {
            unit: &UNIT,
            entry: "gather",
            types: &[],
            defines: &[("GATHERED", GATHERED as i64), ("GROUPS", GROUPS as i64)],
            groups: [GROUPS, tensors.len(), 1],
            threads: 256,
            shared: 0,
        };
        gpu.launch(&launch, &mut [Arg::Update(all)], &params)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gpu;

    /// On `METAL_CANDLE_TEST_DEVICE`, or by the host's kernels.
    #[test]
    fn tensors_come_to_their_places() -> Result<()> {
        let device =
            crate::device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into()))?;
        let all = Tensor::zeros(32_000, DType::F32, &device)?;
        let addressed = gpu::on(&all, |gpu| gpu.address(&Held::new(&all).input(NAME))).transpose()?.flatten();
        if addressed.is_none() {
            return Ok(());
        }
        let tensors = (0..60).map(|i| Tensor::full(i as f32 + 1.0, 1 + 7 * i, &device));
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let places: Vec<_> = tensors.iter().enumerate().map(|(i, x)| (x, 500 * i + 3)).collect();
        gpu::on(&all, |gpu| gather(gpu, &places, &all)).transpose()?;
        for (at, value) in all.to_vec1::<f32>()?.into_iter().enumerate() {
            let i = at.saturating_sub(3) / 500;
            let inside = at >= 3 && i < 60 && at - 3 - 500 * i < 1 + 7 * i;
            assert_eq!(value, if inside { i as f32 + 1.0 } else { 0.0 }, "at {at}");
        }
        Ok(())
    }
}
