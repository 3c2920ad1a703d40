//! The gradients of attention on a CUDA GPU.

use super::tiles::Tiles;
use super::{BACKWARD, Call, OP, SINGLE, Saved, single_rows, single_shared, strides};
use crate::kernels::gpu::{Arg, Buffer, Gpu};
use crate::kernels::{Held, Input};
use crate::ops::attention::{Attention, Dims};
use candle_core::{DType, Result, Tensor, bail};

/// The gradients of q, k and v, as far as they are needed. The inputs are q, k, v, y, and the gradient of y.
#[allow(clippy::too_many_arguments, reason = "what forward has, and what it saved")]
pub(in crate::ops) fn backward(
    gpu: Gpu<'_>,
    limit: usize,
    options: &Attention,
    [q, k, v, y, g]: [Input<'_>; 5],
    saved: &Saved,
    thd: bool,
    needs: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let inputs = [q, k, v, y, g];
    let new = |x: Input<'_>| Ok::<_, candle_core::Error>(Buffer::new(gpu, x.dims(), x.dtype())?.tensor());
    let keys = needs[1] || needs[2];
    let grads = [needs[0].then(|| new(q)), keys.then(|| new(k)), keys.then(|| new(v))];
    let [dq, dk, dv] = grads.map(Option::transpose);
    let grads = [dq?, dk?, dv?];
    backward_into(gpu, limit, options, inputs, saved, thd, grads.each_ref().map(Option::as_ref))?;
    let [dq, dk, dv] = grads;
    Ok([dq, dk.filter(|_| needs[1]), dv.filter(|_| needs[2])])
}

/// As [`backward`], into tensors that are there, which may be views of a larger one: those of k and v have their elements
/// at the same distances.
#[allow(clippy::too_many_arguments, reason = "what forward has, and what it saved")]
pub(in crate::ops) fn backward_into(
    gpu: Gpu<'_>,
    limit: usize,
    options: &Attention,
    [q, k, v, y, g]: [Input<'_>; 5],
    saved: &Saved,
    thd: bool,
    grads: [Option<&Tensor>; 3],
) -> Result<()> {
    let held = grads.map(|grad| grad.map(Held::new));
    let [dq, dk, dv] = held.each_ref().map(|grad| grad.as_ref().map(|held| held.input(OP)));
    let others: Vec<_> = [Some(y), Some(g), dq, dk, dv].into_iter().flatten().collect();
    let mut call = Call::new(gpu, options, [q, k, v], &others, thd)?;
    if let Some(dq) = dq {
        call.params.dq = strides(dq, thd);
    }
    if let (Some(dk), Some(dv)) = (dk, dv) {
        call.params.dk = strides(dk, thd);
        if strides(dv, thd) != call.params.dk {
            bail!(
                "attention: wants the gradients of k and v in one layout, got {:?} and {:?}",
                dk.stride(),
                dv.stride()
            )
        }
    }
    y.contiguous()?;
    g.contiguous()?;
    let stats = saved.stats.input(OP);
    let held = saved.mask.as_ref().map(Held::new);
    let mask = held.as_ref().map(|mask| mask.input(OP));
    let Dims { b, h, hkv, tq, tk, d } = call.dims;
    let mut rows = call.buffer(&[b, h, tq, 4], DType::F32)?;
    if call.dtype == DType::F32 {
        let tile = single_rows(d, 4, limit);
        let constants = |entry| [("TS", tile as i64), (entry, 1)];
        let args = &mut [y.into(), g.into(), stats.into(), (&mut rows).into()];
        let shape = ((b * h * tq).div_ceil(4), 128, 0);
        call.launch(&SINGLE, "attention_delta", &constants("DELTA"), shape, args)?;
        let rows = rows.input(OP);
        let inputs = || [q, k, v, g, rows].map(Arg::from).into_iter().chain([mask.into()]);
        if let (Some(dk), Some(dv)) = (dk, dv) {
            let shape = (tk.div_ceil(tile) * b * hkv, 128, single_shared(d, 4, 2, tile));
            let mut args: Vec<_> = inputs().chain([dk, dv].map(Arg::Update)).collect();
            call.launch(&SINGLE, "attention_dkdv", &constants("DKDV"), shape, &mut args)?;
        }
        if let Some(dq) = dq {
            let blocks = (call.dims.group() * tq).div_ceil(tile) * b * hkv;
            let shape = (blocks, 128, single_shared(d, 4, 1, tile));
            let mut args: Vec<_> = inputs().chain([Arg::Update(dq)]).collect();
            call.launch(&SINGLE, "attention_dq", &constants("DQ"), shape, &mut args)?;
        }
    } else {
        let padded = call.padded();
        let tiles = Tiles::dkdv(padded, limit);
        let constants = |tiles: Tiles, bn: usize, entry| {
            let mut defines = tiles.defines().to_vec();
            defines.extend([("BQ", bn as i64), (entry, 1)]);
            defines
        };
        let query_tiles = tq.div_ceil(tiles.bn);
        let mut seen = call.buffer(&[b, tq, 2], DType::U32)?;
        let mut bounds = call.buffer(&[b, query_tiles, 4], DType::U32)?;
        let args = &mut [
            y.into(),
            g.into(),
            stats.into(),
            mask.into(),
            (&mut rows).into(),
            (&mut seen).into(),
            (&mut bounds).into(),
        ];
        let shape = (query_tiles * b * h, 256, 0);
        call.launch(&BACKWARD, "attention_delta", &constants(tiles, tiles.bn, "DELTA"), shape, args)?;
        let rows = rows.input(OP);
        if let (Some(dk), Some(dv)) = (dk, dv) {
            // Without columns, long heads take a block for each of the two: `ONE_SUM`.
            let sums = if tiles.columns == 1 && padded > 160 { 2 } else { 1 };
            let tiles_of_keys = tk.div_ceil(tiles.rows()) * b * hkv;
            let splits = shares(call.dims.group(), gpu.multiprocessors(), tiles_of_keys * sums);
            let mut parts = match splits {
                1 => None,
                _ => Some(call.buffer(&[2, splits, b, hkv, tk, d], DType::F32)?),
            };
            let blocks = tiles_of_keys * sums * splits;
            let shape = (blocks, 32 * tiles.warps, tiles.dkdv_shared(padded));
            let inputs = [q, k, v, g, rows, seen.input(OP), bounds.input(OP)].map(Arg::from);
            let sums = parts.as_mut().map_or(Arg::Null, Arg::from);
            let out = [Arg::Update(dk), Arg::Update(dv), sums];
            let mut args: Vec<_> = inputs.into_iter().chain(out).collect();
            let mut defines = constants(tiles, tiles.bn, "DKDV");
            defines.push(("SPLITS", splits as i64));
            call.launch(&BACKWARD, "attention_dkdv", &defines, shape, &mut args)?;
            if let Some(parts) = parts {
                let mut defines = constants(tiles, tiles.bn, "TOTAL");
                defines.push(("SPLITS", splits as i64));
                let shape = ((2 * b * hkv * tk * d).div_ceil(256), 256, 0);
                let args = &mut [parts.input(OP).into(), Arg::Update(dk), Arg::Update(dv)];
                call.launch(&BACKWARD, "attention_total", &defines, shape, args)?;
            }
        }
        if let Some(dq) = dq {
            let tiles = Tiles::dq(padded, limit);
            let blocks = tq.div_ceil(tiles.rows()) * b * h;
            let shape = (blocks, 32 * tiles.warps, tiles.backward_shared(padded));
            let inputs = [q, k, v, g, rows].map(Arg::from);
            let mut args: Vec<_> = inputs.into_iter().chain([mask.into(), Arg::Update(dq)]).collect();
            call.launch(&BACKWARD, "attention_dq", &constants(tiles, tiles.bn, "DQ"), shape, &mut args)?;
        }
    }
    Ok(())
}

/// The parts that the heads of a group are divided into, for blocks enough where `blocks` are few.
fn shares(group: usize, multiprocessors: usize, blocks: usize) -> usize {
    let enough = |splits: &usize| splits * blocks >= 4 * multiprocessors;
    (1..=group).filter(|splits| group.is_multiple_of(*splits)).find(enough).unwrap_or(group)
}
