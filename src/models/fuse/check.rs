//! That every weight of the output has its update in it: rounding hides a small one from the logits, not from here.

use candle_core::{DType, Device, Tensor, Var};

use super::{Content, Plan};
use crate::load::{LoraPair, Weights};
use crate::nn::{Linear, Lora, Pass};
use crate::{Error, Result};

/// Inputs that each layer is tried on.
const INPUTS: usize = 4;
/// What sums in another order may make of a layer's output, of its largest number.
const SUMS: f32 = 1e-4;

impl Plan<'_> {
    /// Compares what was written with the adapter's own arithmetic: the merged weight does to an input what the layer
    /// with its update does, and what is stored is the merged weight, rounded.
    ///
    /// # Errors
    ///
    /// When a weight is another: all are listed.
    pub(super) fn check(&self, what: &str, written: &Weights) -> Result<()> {
        let mut problems = Vec::new();
        for (name, content) in &self.contents {
            if let Content::Merged(source, pair, scale) = content {
                let f32 = |weights: &Weights, name: &str| -> Result<Tensor> {
                    Ok(weights.load(name, &Device::Cpu)?.to_dtype(DType::F32)?)
                };
                let (weight, stored) = (f32(self.weights, source)?, f32(written, name)?);
                let merged = pair.merged(&weight, *scale)?;
                let apart = layers_apart(weight, &merged, pair, *scale)?;
                let dtype = written.dtype(name).unwrap_or(DType::F32);
                if apart.is_nan() || apart > SUMS {
                    problems.push(format!("{name}: wants what its layer gives, got {apart:.1e} of it apart"));
                } else {
                    let off = beyond_rounding(&stored, &merged, dtype)?;
                    if off.is_nan() || off > 0.0 {
                        let got = format!("numbers up to {off:.1e} further off");
                        problems
                            .push(format!("{name}: wants the merged weight rounded to {dtype:?}, got {got}"));
                    }
                }
            }
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::Tensors { what: what.to_string(), problems }),
        }
    }
}

/// How far the outputs of the layer with its update and of the merged weight are apart, of the largest output.
fn layers_apart(weight: Tensor, merged: &Tensor, pair: &LoraPair, scale: f64) -> Result<f32> {
    let variable = |tensor: &Tensor| Var::from_tensor(&tensor.to_dtype(DType::F32)?);
    let mut lora = Lora::new(variable(&pair.a)?, variable(&pair.b)?, scale, 0.0, "");
    lora.magnitude = pair.magnitude.as_ref().map(variable).transpose()?;
    let mut layer = Linear::new(weight, None);
    layer.lora = Some(lora);
    let inputs = layer.in_features();
    // Numbers without a pattern, the same each time.
    let numbers = (0..INPUTS * inputs).map(|i| ((i as f32 + 1.0) * 0.754_877_7).fract() * 2.0 - 1.0);
    let x = Tensor::from_iter(numbers, &Device::Cpu)?.reshape((INPUTS, inputs))?;
    let wanted = layer.forward(&x, Pass::default())?;
    let got = Linear::new(merged.clone(), None).forward(&x, Pass::default())?;
    Ok(largest(&(&wanted - got)?)? / largest(&wanted)?.max(f32::MIN_POSITIVE))
}

/// By how much `stored` is further from `merged` than half a step of `dtype`; zero or less if it is `merged` rounded.
fn beyond_rounding(stored: &Tensor, merged: &Tensor, dtype: DType) -> Result<f32> {
    // The unit roundoff, and half of the smallest number above zero.
    let (unit, least) = match dtype {
        DType::BF16 => (2f64.powi(-8), 0.0),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        _ => (0.0, 0.0),
    };
    let beyond = ((stored - merged)?.abs()? - merged.abs()?.affine(unit, least)?)?;
    Ok(beyond.max_all()?.to_scalar::<f32>()?)
}

fn largest(tensor: &Tensor) -> Result<f32> {
    Ok(tensor.abs()?.max_all()?.to_scalar::<f32>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(magnitude: bool) -> (Tensor, LoraPair) {
        let dev = &Device::Cpu;
        let random = |shape: (usize, usize)| Tensor::randn(0f32, 0.1, shape, dev).unwrap();
        let magnitude = magnitude.then(|| Tensor::rand(0.5f32, 1.5, 24, dev).unwrap());
        (random((24, 33)), LoraPair { a: random((4, 33)), b: random((24, 4)), magnitude })
    }

    #[test]
    fn a_merged_weight_is_its_layer_and_an_unmerged_one_is_not() {
        for dora in [false, true] {
            let (weight, pair) = pair(dora);
            let merged = pair.merged(&weight, 2.0).unwrap();
            assert!(layers_apart(weight.clone(), &merged, &pair, 2.0).unwrap() <= SUMS);
            for other in [weight.clone(), pair.merged(&weight, 1.9).unwrap()] {
                assert!(layers_apart(weight.clone(), &other, &pair, 2.0).unwrap() > 10.0 * SUMS);
            }
        }
    }

    #[test]
    fn a_stored_weight_is_rounded_and_nothing_else() {
        let (weight, pair) = pair(false);
        let merged = pair.merged(&weight, 0.1).unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let stored = |weight: &Tensor| weight.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
            assert!(beyond_rounding(&stored(&merged), &merged, dtype).unwrap() <= 0.0, "{dtype:?}");
            assert!(beyond_rounding(&stored(&weight), &merged, dtype).unwrap() > 0.0, "{dtype:?}");
        }
        let infinite = (&merged * f64::INFINITY).unwrap();
        assert!(beyond_rounding(&infinite, &merged, DType::F16).unwrap() > 0.0);
    }
}
