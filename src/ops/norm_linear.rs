//! A norm, a linear layer and a gate in one kernel, for a few rows on a GPU: what a token goes through in decoding.

use super::gated::Activation;
use super::linear::Few;
use crate::kernels::{Held, gpu, tape::tracked};
use candle_core::{D, Result, Tensor, bail};

const OP: &str = "norm_linear";

/// `linear(rms_norm(x))`, through a gate if there is one, of a few rows `x` `(.., in)` in one kernel on a GPU, without gradients:
/// `weight` `(out, in)`, `bias` `(out)`, a norm's weight `(in)` and epsilon. What is between is not rounded. None where it
/// is no such product.
///
/// # Errors
///
/// When a shape does not fit, or the GPU has no room.
pub(crate) fn norm_linear(
    x: &Tensor,
    (norm, eps): (&Tensor, f32),
    weight: &Tensor,
    bias: Option<&Tensor>,
    gate: Option<Activation>,
) -> Result<Option<Tensor>> {
    let (n, k) = weight.dims2()?;
    if x.dim(D::Minus1)? != k || norm.dims() != [k] || (gate.is_some() && n % 2 != 0) {
        bail!("{OP}: wants x (.., {k}) and a norm ({k}) for a weight ({n}, {k}), got {x:?} and {norm:?}")
    }
    let inputs = [Some(x), Some(norm), Some(weight), bias];
    if weight.dtype() != x.dtype() || !x.is_contiguous() || inputs.into_iter().flatten().any(tracked) {
        return Ok(None);
    }
    let held = inputs.map(|x| x.map(Held::new));
    let made = gpu::on(x, |gpu| {
        let [Some(x), Some(norm), Some(w), bias] =
            held.each_ref().map(|held| held.as_ref().map(|held| held.input(OP)))
        else {
            bail!("{OP}: wants x, a norm and a weight")
        };
        match Few::fits(gpu, x, w)? {
            true => Few { bias, norm: Some((norm, eps)), gate, ..Few::of(x, w) }
                .run(gpu)
                .map(|y| Some(y.tensor())),
            false => Ok(None),
        }
    });
    made.unwrap_or(Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::{Backend, with_backend};
    use crate::ops::near::{noise, off};
    use crate::ops::{geglu, linear, rms_norm, swiglu};
    use candle_core::{DType, Device};

    /// On `METAL_CANDLE_TEST_DEVICE`, or by the host's kernels.
    #[test]
    fn a_norm_and_a_gate_in_the_product_are_as_near_as_apart() -> Result<()> {
        let device =
            crate::device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into()))?;
        let has_kernels = gpu::on(&Tensor::zeros(1, DType::F32, &device)?, |_| Ok(())).is_some();
        let gates = [None, Some(Activation::Silu), Some(Activation::Gelu)];
        for (rows, n, k) in [(1, 6, 64), (1, 512, 4096), (2, 34, 33), (3, 8, 1), (4, 130, 256)] {
            for (gate, biased) in gates.iter().flat_map(|gate| [(*gate, false), (*gate, true)]) {
                let run = |dtype: DType, device: &Device, together: bool| -> Result<Option<Tensor>> {
                    let of = |x: Tensor, dtype| x.to_dtype(DType::BF16)?.to_dtype(dtype)?.to_device(device);
                    let x = of(noise(&[1, rows, k][..], 5.0, 1)?, dtype)?;
                    let weight = of((noise(&[n, k][..], 1.0, 2)? / (k as f64).sqrt())?, dtype)?;
                    let norm = of(noise(&[k][..], 1.0, 3)?, if n == 34 { DType::F32 } else { dtype })?;
                    let bias = of(noise(&[n][..], 1.0, 4)?, dtype)?;
                    let bias = biased.then_some(&bias);
                    if together {
                        let run = || norm_linear(&x, (&norm, 1e-5), &weight, bias, gate);
                        return with_backend(Backend::Fused, run);
                    }
                    let y = linear(&rms_norm(&x, &norm, 1e-5)?, &weight, bias)?;
                    Ok(Some(match gate {
                        None => y,
                        Some(Activation::Silu) => swiglu(&y)?,
                        Some(Activation::Gelu) => geglu(&y)?,
                    }))
                };
                let right = run(DType::F32, &Device::Cpu, false)?;
                for dtype in [DType::F32, DType::BF16, DType::F16] {
                    let Some(together) = run(dtype, &device, true)? else {
                        assert!(!has_kernels, "{rows} {n} {k} {gate:?} {dtype:?}");
                        continue;
                    };
                    let (Some(apart), Some(right)) = (run(dtype, &device, false)?, &right) else { continue };
                    let (together, apart) = (off(&together, right)?, off(&apart, right)?);
                    let least = if dtype == DType::F32 { 1e-6 } else { 1e-3 };
                    assert!(
                        together <= (2.0 * apart).max(least),
                        "{rows} {n} {k} {gate:?} {dtype:?}: {together}, and {apart} apart"
                    );
                }
            }
        }
        Ok(())
    }
}
