//! A language model's loss in one op: the head's product and the cross-entropy, without the logits in memory.
//!
//! The composed form keeps logits (tokens, vocabulary) and as many gradients; the fused one works on some rows at a
//! time. Both have gradients, and they are the same.
//!
//!     cargo run --release --example fused_op

use candle_core::{D, DType, Device, Result, Tensor, Var};
use metal_candle::ops::{CrossEntropy, linear_cross_entropy};
use std::time::Instant;

/// Tokens, the width of the model, words.
const SIZE: (usize, usize, usize) = (512, 256, 8192);

/// The loss as anyone would write it with Candle.
fn composed(hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let logits = hidden.matmul(&head.t()?)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let picked = shifted.gather(&targets.unsqueeze(1)?, 1)?;
    (log_sum - picked)?.mean_all()
}

fn fused(hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Result<Tensor> {
    linear_cross_entropy(hidden, head, targets, &CrossEntropy::default())
}

fn main() -> metal_candle::Result<()> {
    let device = &Device::Cpu;
    let (tokens, width, words) = SIZE;
    let hidden = Var::randn(0f32, 1.0, (tokens, width), device)?;
    let head = Var::randn(0f32, 0.1, (words, width), device)?;
    let targets: Vec<i64> = (0..tokens).map(|i| (i * 7919 % words) as i64).collect();
    let targets = Tensor::from_vec(targets, tokens, device)?;

    type Loss = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;
    let mut results = Vec::new();
    for (name, loss) in [("composed", composed as Loss), ("fused", fused)] {
        let mut best = f64::INFINITY;
        let mut result = None;
        for _ in 0..3 {
            let from = Instant::now();
            let value = loss(&hidden, &head, &targets)?;
            let grads = value.backward()?;
            best = best.min(from.elapsed().as_secs_f64());
            let gradient = |var: &Var| grads.get(var).cloned().expect("a gradient of every variable");
            result = Some((value.to_scalar::<f32>()?, gradient(&hidden), gradient(&head)));
        }
        let (value, dx, dw) = result.expect("three runs");
        println!("{name:9} loss {value:.5}, forward and backward {:.1} ms", best * 1e3);
        results.push((value, dx, dw));
    }

    let [(loss, dx, dw), (loss_fused, dx_fused, dw_fused)] = &results[..] else { unreachable!("two forms") };
    let apart = |a: &Tensor, b: &Tensor| -> Result<f32> {
        let largest = a.abs()?.max_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
        Ok((a - b)?.abs()?.max_all()?.to_scalar::<f32>()? / largest)
    };
    let (x, w) = (apart(dx, dx_fused)?, apart(dw, dw_fused)?);
    println!("gradients differ by {x:.1e} (hidden) and {w:.1e} (head) of their largest element");
    assert!((loss - loss_fused).abs() < 1e-4 && x < 1e-4 && w < 1e-4);
    println!("logits the composed form keeps: {:.1} MB", (tokens * words * 4) as f64 / 1e6);
    Ok(())
}
