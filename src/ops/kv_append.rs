//! Keys and values of new tokens, written into the caches that hold those before them.

use crate::kernels::gpu::{self, Arg, Launch, Unit, unit};
use crate::kernels::{Held, same_dtype};
use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor, bail};

static UNIT: Unit = unit!("kv_append.h");

const NAME: &str = "kv_append";

/// `Append` of `kv_append.h`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    len: u32,
    width: u32,
    rows: u32,
    capacity: u32,
    at: u32,
    k_stride: u32,
    v_stride: u32,
}

/// Writes `k` and `v` (B, T, heads, dim) into `keys` and `values` (B, capacity, heads, dim) from position `at` on: on a
/// GPU, in one launch.
///
/// # Errors
///
/// When a shape or dtype is not that of the caches, or there is no room.
pub(crate) fn kv_append(k: &Tensor, v: &Tensor, keys: &Tensor, values: &Tensor, at: usize) -> Result<()> {
    append(k, v, keys, values, at, None)
}

/// As [`kv_append`] of one token a row, which goes where the row's range of keys (B, 2; u32) ends: on a GPU only.
///
/// # Errors
///
/// As [`kv_append`]; a range that is longer than the caches is not seen.
pub(crate) fn kv_append_at(
    k: &Tensor,
    v: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    ranges: &Tensor,
) -> Result<()> {
    if k.dim(1)? != 1 || ranges.dims() != [k.dim(0)?, 2] || ranges.dtype() != DType::U32 {
        bail!("{NAME}: wants a token and a range of u32 for each row, got {:?} and {ranges:?}", k.dims())
    }
    append(k, v, keys, values, 0, Some(ranges))
}

fn append(
    k: &Tensor,
    v: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    at: usize,
    ranges: Option<&Tensor>,
) -> Result<()> {
    same_dtype(NAME, &[k, v, keys, values])?;
    let (batch, len, heads, dim) = k.dims4()?;
    let (cached, capacity, ..) = keys.dims4()?;
    let fits = v.dims() == k.dims() && keys.dims() == values.dims() && at + len <= capacity;
    if !fits || (cached, &keys.dims()[2..]) != (batch, &[heads, dim][..]) {
        bail!("{NAME}: wants keys and values that fit caches {:?} at {at}, got {:?}", keys.dims(), k.dims())
    }
    let on_gpu = gpu::on(keys, |gpu| {
        let ((k, k_stride), (v, v_stride)) = (by_token(k)?, by_token(v)?);
        let (width, strides) = (heads * dim, [k_stride, v_stride]);
        let held = [&k, &v, keys, values].map(Held::new);
        let [k, v, keys, values] = held.each_ref().map(|held| held.input(NAME));
        let sixteen = 16 / k.dtype().size_in_bytes();
        let offsets = [k, v, keys, values].map(|x| x.start_offset());
        let whole = [width].iter().chain(&strides).chain(&offsets).all(|n| n % sixteen == 0);
        let step = if whole { sixteen } else { 1 };
        let size = |n: usize| (n / step) as u32;
        let params = Params {
            len: len as u32,
            width: size(width),
            rows: (batch * len) as u32,
            capacity: capacity as u32,
            at: at as u32,
            k_stride: size(strides[0]),
            v_stride: size(strides[1]),
        };
        let launch = Launch {
            unit: &UNIT,
            entry: "kv_append",
            types: &[("T", k.dtype())],
            defines: &[("STEP", step as i64), ("RANGES", ranges.is_some() as i64)],
            groups: [batch * len, 2, 1],
            threads: (width / step).next_multiple_of(32).clamp(32, 256),
            shared: 0,
        };
        let ranges = ranges.map(Held::new);
        let mut args = [
            k.into(),
            v.into(),
            Arg::Update(keys),
            Arg::Update(values),
            ranges.as_ref().map(|ranges| ranges.input(NAME)).into(),
        ];
        gpu.launch(&launch, &mut args, &params)
    });
    on_gpu.unwrap_or_else(|| {
        if ranges.is_some() {
            bail!("{NAME}: wants a GPU for ranges that are there")
        }
        keys.slice_set(&k.detach().contiguous()?, 1, at)?;
        values.slice_set(&v.detach().contiguous()?, 1, at)
    })
}

/// A tensor whose tokens lie at equal distances, with each token's elements together, as those of a part of a fused
/// projection do; and the distance.
fn by_token(x: &Tensor) -> Result<(Tensor, usize)> {
    let (batch, len, heads, dim) = x.dims4()?;
    let distance = match *x.stride() {
        [row, token, head, 1] if head == dim || heads == 1 => match (batch, len) {
            (1, 1) => Some(heads * dim),
            (_, 1) => Some(row),
            _ => Some(token).filter(|_| batch == 1 || row == len * token),
        },
        _ => None,
    };
    match distance {
        Some(distance) => Ok((x.clone(), distance)),
        None => Ok((x.contiguous()?, heads * dim)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn parts_of_a_fused_projection_land_where_they_belong() -> Result<()> {
        let device =
            crate::device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into()))?;
        for (batch, len, heads, dim, dtype) in [
            (1, 1, 2, 8, DType::BF16),
            (3, 1, 2, 8, DType::F32),
            (2, 5, 3, 4, DType::F16),
            (2, 5, 3, 4, DType::F32),
            (1, 9, 2, 5, DType::BF16),
        ] {
            let fused =
                Tensor::rand(-1f32, 1., (batch, len, 3 * heads, dim), &Device::Cpu)?.to_dtype(dtype)?;
            let part = |device: &Device, i: usize| fused.to_device(device)?.narrow(2, i * heads, heads);
            let capacity = len + 4;
            let cache = || Tensor::zeros((batch, capacity, heads, dim), dtype, &device);
            let (keys, values) = (cache()?, cache()?);
            kv_append(&part(&device, 1)?, &part(&device, 2)?, &keys, &values, 3)?;
            for (i, held) in [(1, &keys), (2, &values)] {
                let wanted = part(&Device::Cpu, i)?.pad_with_zeros(1, 3, 1)?.to_dtype(DType::F32)?;
                let got = held.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                let flat = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
                assert_eq!(flat(&got)?, flat(&wanted)?, "{batch} {len} {heads} {dim} {dtype:?}");
            }
            assert!(kv_append(&part(&device, 1)?, &part(&device, 2)?, &keys, &values, 5).is_err());
        }
        // Keys as they come from a rotation, heads before tokens.
        let (keys, values) = (
            Tensor::zeros((1, 4, 2, 3), DType::F32, &device)?,
            Tensor::zeros((1, 4, 2, 3), DType::F32, &device)?,
        );
        let turned = Tensor::arange(0f32, 24., &device)?.reshape((1, 2, 4, 3))?.transpose(1, 2)?;
        kv_append(&turned, &turned, &keys, &values, 0)?;
        let flat = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        assert_eq!(flat(&keys)?, flat(&turned)?);
        Ok(())
    }
}
