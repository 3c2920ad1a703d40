//! One token's queries, keys and values as one product has left them: normalized by head, turned, and keys and values put into
//! their caches, in one launch on a GPU.

use super::rope::check;
use crate::kernels::gpu::{self, Arg, Launch, Unit, unit};
use crate::kernels::{Held, same_dtype};
use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor, bail};

static UNIT: Unit = unit!("turn_append.h");

const NAME: &str = "turn_append";

/// Groups that fetch what comes next.
const FETCHERS: usize = 128;
/// Elements that are fetched at most: what a cache of several tens of MB keeps.
const MOST: usize = 8 << 20;

/// `Turn` of the header.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    queries: u32,
    keys: u32,
    dim: u32,
    width: u32,
    pairs: u32,
    table: u32,
    capacity: u32,
    at: u32,
    rows: u32,
    fetchers: u32,
    next: u32,
    q_eps: f32,
    k_eps: f32,
}

/// Where a token goes in a cache: at a position, or where each row's range of keys (B, 2; u32) ends.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    At(usize),
    Ends(&'a Tensor),
}

/// Turns the queries of `qkv` `(B, 1, (queries + 2 keys) dim)` in place, and puts its keys, turned, and its values into caches `(B,
/// capacity, keys, dim)`. `cos` and `sin` are as [`super::rope_thd`] takes them; `norms` are weights `(dim)` and epsilons for
/// queries and keys, which have both or neither. `next` is what is read soon after. False without a GPU: then nothing was done.
///
/// # Errors
///
/// When a shape or dtype does not fit, or there is no room. A range that is longer than the caches is not seen.
pub(crate) fn turn_append(
    qkv: &Tensor,
    [cos, sin]: [&Tensor; 2],
    norms: Option<[(&Tensor, f32); 2]>,
    [keys, values]: [&Tensor; 2],
    place: Place<'_>,
    next: Option<&Tensor>,
) -> Result<bool> {
    same_dtype(NAME, &[qkv, keys, values])?;
    let (batch, len, width) = qkv.dims3()?;
    let (cached, capacity, kv_heads, dim) = keys.dims4()?;
    let heads = width / dim.max(1);
    let fits = keys.dims() == values.dims()
        && (cached, len, width) == (batch, 1, heads * dim)
        && heads > 2 * kv_heads
        && norms.is_none_or(|norms| norms.iter().all(|(norm, _)| norm.dims() == [dim]));
    let room = match place {
        Place::At(at) => at < capacity,
        Place::Ends(ranges) => ranges.dims() == [batch, 2] && ranges.dtype() == DType::U32,
    };
    if !fits || !room || !qkv.is_contiguous() {
        bail!("{NAME}: wants a token for caches {:?} with room, got {:?}", keys.dims(), qkv.dims())
    }
    check(batch, 1, dim, [cos, sin])?;
    let half = cos.dim(candle_core::D::Minus1)?;
    let next = next.filter(|next| next.dtype() == qkv.dtype() && next.is_contiguous());
    let fetchers = if next.is_some() { FETCHERS.next_multiple_of(batch.max(1)) } else { 0 };
    let params = Params {
        queries: (heads - 2 * kv_heads) as u32,
        keys: kv_heads as u32,
        dim: dim as u32,
        width: width as u32,
        pairs: half as u32,
        table: if cos.dims().len() == 3 { cos.stride()[0] as u32 } else { 0 },
        capacity: capacity as u32,
        at: if let Place::At(at) = place { at as u32 } else { 0 },
        rows: batch as u32,
        fetchers: fetchers as u32,
        next: next.map_or(0, |next| next.elem_count().min(MOST) as u32),
        q_eps: norms.map_or(0.0, |[(_, eps), _]| eps),
        k_eps: norms.map_or(0.0, |[_, (_, eps)]| eps),
    };
    let ranges = if let Place::Ends(ranges) = place { Some(Held::new(ranges)) } else { None };
    let norms = norms.map(|norms| norms.map(|(norm, _)| norm));
    let weights = norms.map(|norms| norms.map(Held::new));
    if let Some([q, k]) = norms {
        same_dtype(NAME, &[q, k])?;
    }
    let next = next.map(Held::new);
    let done = gpu::on(qkv, |gpu| {
        let held = [qkv, cos, sin, keys, values].map(Held::new);
        let [x, cos, sin, keys, values] = held.each_ref().map(|held| held.input(NAME));
        let [q, k] = match &weights {
            Some(weights) => weights.each_ref().map(|held| Some(held.input(NAME))),
            None => [None; 2],
        };
        for x in [cos, sin, keys, values].into_iter().chain(q).chain(k) {
            x.contiguous()?;
        }
        let launch = Launch {
            unit: &UNIT,
            entry: NAME,
            types: &[("T", x.dtype()), ("C", cos.dtype()), ("NORM_T", q.map_or(DType::F32, |q| q.dtype()))],
            defines: &[
                ("NORM", q.is_some() as i64),
                ("RANGES", ranges.is_some() as i64),
                ("DIM", dim as i64),
            ],
            groups: [heads + fetchers / batch.max(1), batch, 1],
            threads: 32,
            shared: 0,
        };
        let mut args = [
            Arg::Update(x),
            cos.into(),
            sin.into(),
            q.into(),
            k.into(),
            Arg::Update(keys),
            Arg::Update(values),
            ranges.as_ref().map(|ranges| ranges.input(NAME)).into(),
            next.as_ref().map(|next| next.input(NAME)).into(),
        ];
        gpu.launch(&launch, &mut args, &params)
    });
    done.map_or(Ok(false), |done| done.map(|()| true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::kv_append::kv_append;
    use crate::ops::near::noise;
    use crate::ops::{rms_norm, rope_thd};
    use candle_core::Device;

    /// On `METAL_CANDLE_TEST_DEVICE`, or by the host's kernels; without either nothing is done.
    #[test]
    fn at_once_is_as_one_after_the_other() -> Result<()> {
        let device =
            crate::device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into()))?;
        for (batch, queries, keys, dim, half, normed, ends, dtype) in [
            (1, 4, 2, 64, 32, false, false, DType::BF16),
            (3, 4, 4, 128, 64, true, true, DType::BF16),
            (2, 7, 1, 80, 12, true, false, DType::F16),
            (2, 6, 3, 33, 16, false, true, DType::F32),
            (5, 2, 1, 256, 128, true, true, DType::F32),
        ] {
            let on = |x: Tensor, dtype| x.to_dtype(dtype)?.to_device(&device);
            let (heads, capacity) = (queries + 2 * keys, 9);
            let qkv = on(noise(&[batch, 1, heads * dim][..], 4.0, 1)?, dtype)?;
            let angles = on(noise(&[batch, 1, half][..], 6.0, 2)?, DType::F32)?;
            let (cos, sin) = (angles.cos()?, angles.sin()?);
            let weight = |seed| on(noise(&[dim][..], 2.0, seed)?, dtype);
            let (q_norm, k_norm) = (weight(3)?, weight(4)?);
            let cache = || on(noise(&[batch, capacity, keys, dim][..], 1.0, 5)?, dtype);
            let ranges: Vec<u32> = (0..batch as u32).flat_map(|row| [row, 3 + row]).collect();
            let ranges = Tensor::from_vec(ranges, (batch, 2), &device)?;

            let split = qkv.copy()?.reshape((batch, 1, heads, dim))?;
            let part = |from, count, norm: &Tensor| -> Result<Tensor> {
                let x = split.narrow(2, from, count)?.contiguous()?;
                let x = if normed { rms_norm(&x, norm, 1e-5)? } else { x };
                rope_thd(&x, &cos, &sin)
            };
            let (q, k) = (part(0, queries, &q_norm)?, part(queries, keys, &k_norm)?);
            let v = split.narrow(2, queries + keys, keys)?;
            let wanted = [cache()?, cache()?];
            for row in 0..batch {
                let of = |x: &Tensor| x.narrow(0, row, 1)?.contiguous();
                let [keys, values] = wanted.each_ref().map(|cache| cache.narrow(0, row, 1));
                kv_append(&of(&k)?, &of(&v)?, &keys?, &values?, if ends { 2 + row } else { 4 })?;
            }

            let got = [cache()?, cache()?];
            let norms = normed.then_some([(&q_norm, 1e-5), (&k_norm, 1e-5)]);
            let place = if ends { Place::Ends(&ranges) } else { Place::At(4) };
            let qkv = qkv.copy()?;
            if !turn_append(&qkv, [&cos, &sin], norms, [&got[0], &got[1]], place, Some(&split))? {
                assert!(gpu::on(&qkv, |_| Ok(())).is_none());
                continue;
            }
            let turned = qkv.reshape((batch, 1, heads, dim))?.narrow(2, 0, queries)?;
            let step = match dtype {
                DType::F32 => 1e-6,
                DType::F16 => 2f32.powi(-10),
                _ => 2f32.powi(-7),
            };
            for (got, wanted) in [(&turned, &q), (&got[0], &wanted[0]), (&got[1], &wanted[1])] {
                let flat = |x: &Tensor| {
                    x.contiguous()?
                        .to_device(&Device::Cpu)?
                        .to_dtype(DType::F32)?
                        .flatten_all()?
                        .to_vec1::<f32>()
                };
                for (got, wanted) in flat(got)?.iter().zip(flat(wanted)?) {
                    // A rounding of what was normalized may be another.
                    let most = step * wanted.abs().max(2.0) * if normed { 2.0 } else { 0.5 };
                    assert!((got - wanted).abs() <= most, "{batch} {dim} {dtype:?}: {got}, not {wanted}");
                }
            }
            assert!(
                turn_append(&qkv, [&cos, &sin], norms, [&got[0], &got[1]], Place::At(capacity), None)
                    .is_err()
            );
        }
        Ok(())
    }
}
