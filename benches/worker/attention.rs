//! Causal attention.

use super::cases::Case;
use super::ops::{Op, absent, one};
use candle_core::{D, DType, Result, Tensor};
use candle_nn::attention::AttnMask;
use metal_candle::ops;
use rayon::prelude::*;

/// The op, and its inputs as it wants them laid out.
pub fn build(
    case: &Case,
    variant: &str,
    mut qkv: Vec<Tensor>,
    len: usize,
    scale: f32,
) -> Result<(Vec<Tensor>, Op)> {
    let op = match variant {
        "ours" => {
            let options = ops::Attention { scale, causal: true, ..Default::default() };
            one(move |t| ops::attention(&t[0], &t[1], &t[2], &options))
        }
        "composed" => {
            let above = |i: usize| if i % len > i / len { f32::NEG_INFINITY } else { 0.0 };
            let mask: Vec<f32> = (0..len * len).into_par_iter().map(above).collect();
            let mask = Tensor::from_vec(mask, (len, len), &case.device)?.to_dtype(case.dtype)?;
            one(move |t| {
                let scores = (t[0].matmul(&t[1].t()?)? * scale as f64)?.broadcast_add(&mask)?;
                candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&t[2])
            })
        }
        "candle_nn" if case.dtype == DType::F32 && case.device.is_cpu() => {
            // Its inputs are (B, T, H, D), its output (B, H, T, D).
            for x in &mut qkv {
                *x = x.transpose(1, 2)?.contiguous()?;
            }
            let mask = AttnMask::causal;
            one(move |t| {
                candle_nn::attention::flash_attn::<f32>(&t[0], &t[1], &t[2], scale, mask(), None, None)
            })
        }
        _ => return absent(case),
    };
    Ok((qkv, op))
}
