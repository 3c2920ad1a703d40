//! One line of a Candle model changed: `use candle_nn::...` becomes `use metal_candle::ops::...`.
//!
//! Candle's fused ops run backward without an error and lose the gradient of everything before them. Ours keep it.
//!
//!     cargo run --release --example swap_candle_ops

use candle_core::{DType, Device, Result, Tensor, Var};
use metal_candle::ops::grad_coverage;

/// One attention layer, as anyone would write it with Candle.
macro_rules! layer {
    () => {
        /// `x` is (tokens, 32); four heads of 8.
        pub fn layer(x: &Tensor, weights: &[Var; 5], cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
            let [norm, q, k, v, o] = weights;
            let heads = |x: Tensor| x.reshape((1, x.dim(0)?, 4, 8))?.transpose(1, 2)?.contiguous();
            let h = rms_norm(x, norm, 1e-6)?;
            let q = rope(&heads(h.matmul(q)?)?, cos, sin)?;
            let k = rope(&heads(h.matmul(k)?)?, cos, sin)?;
            let v = heads(h.matmul(v)?)?;
            let scores = (q.matmul(&k.t()?.contiguous()?)? * 8f64.powf(-0.5))?;
            let mixed = softmax_last_dim(&scores)?.matmul(&v)?;
            x + mixed.transpose(1, 2)?.reshape(x.shape())?.matmul(o)?
        }
    };
}

mod before {
    use candle_core::{Result, Tensor, Var};
    use candle_nn::{ops::rms_norm, ops::softmax_last_dim, rotary_emb::rope};
    layer!();
}

mod after {
    use candle_core::{Result, Tensor, Var};
    use metal_candle::ops::{rms_norm, rope, softmax_last_dim};
    layer!();
}

fn main() -> metal_candle::Result<()> {
    let device = &Device::Cpu;
    let names = ["norm", "q_proj", "k_proj", "v_proj", "o_proj"];
    let square = || Var::randn(0f32, 0.2, (32, 32), device);
    let weights = [Var::ones(32, DType::F32, device)?, square()?, square()?, square()?, square()?];
    let x = Tensor::randn(0f32, 1.0, (16, 32), device)?;
    let angle = Tensor::arange(0f32, 16.0, device)?
        .unsqueeze(1)?
        .broadcast_mul(&Tensor::new(&[1f32, 0.1, 0.01, 1e-3], device)?)?;
    let (cos, sin) = (angle.cos()?, angle.sin()?);

    let y = [before::layer(&x, &weights, &cos, &sin)?, after::layer(&x, &weights, &cos, &sin)?];
    let apart = (&y[0] - &y[1])?.abs()?.max_all()?.to_scalar::<f32>()?;
    println!("Outputs differ by {apart:.1e} at most.\n");
    assert!(apart < 1e-5);

    let losses = [y[0].sqr()?.mean_all()?, y[1].sqr()?.mean_all()?];
    let grads = [losses[0].backward()?, losses[1].backward()?];
    println!("{:10}{:>18}{:>22}", "gradient", "candle_nn::ops", "metal_candle::ops");
    for (name, var) in names.iter().zip(&weights) {
        let norm = |grad: Option<&Tensor>| -> Result<Option<f32>> {
            grad.map(|grad| grad.sqr()?.sum_all()?.sqrt()?.to_scalar()).transpose()
        };
        let shown = |norm: Option<f32>| norm.map_or("none".to_string(), |norm| format!("{norm:.5}"));
        let [theirs, ours] = [norm(grads[0].get(var))?, norm(grads[1].get(var))?];
        println!("{name:10}{:>18}{:>22}", shown(theirs), shown(ours));
        assert_eq!(theirs.is_none(), ["norm", "q_proj", "k_proj"].contains(name));
        assert!(ours.is_some_and(|norm| norm > 0.0));
    }

    let vars: Vec<_> = names.iter().map(|name| name.to_string()).zip(weights).collect();
    let error = grad_coverage(&losses[0], &vars).map(|_| ()).unwrap_err();
    println!("\ngrad_coverage says so of the first: {error}");
    grad_coverage(&losses[1], &vars)?;
    Ok(())
}
