//! A linear layer `y = x Wᵀ + b`, and the low-rank update a LoRA adds to it: `y += scale (dropout(x) Aᵀ) Bᵀ`.
//!
//! Hu et al., [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685); with a
//! magnitude, Liu et al., [DoRA: Weight-Decomposed Low-Rank Adaptation](https://arxiv.org/abs/2402.09353). The
//! weight is frozen unless it is a variable; a frozen one costs nothing in the backward pass.

use std::sync::{Arc, Mutex};

use candle_core::{Result, Tensor, Var};

use super::Pass;
use crate::ops;

/// A linear layer, with or without a LoRA.
#[derive(Debug, Clone)]
pub struct Linear {
    /// (out, in).
    pub weight: Tensor,
    /// (out).
    pub bias: Option<Tensor>,
    /// The low-rank update that is trained instead of the weight.
    pub lora: Option<Lora>,
}

/// A low-rank update of a linear layer.
#[derive(Debug, Clone)]
pub struct Lora {
    /// (rank, in), f32.
    pub a: Var,
    /// (out, rank), f32.
    pub b: Var,
    /// (out), f32: the norm of each row of the adapted weight, trained beside its direction ([`ops::dora_linear`]).
    pub magnitude: Option<Var>,
    /// What the update is multiplied by: PEFT's `lora_alpha / r`.
    pub scale: f64,
    /// The probability with which an element of the input is dropped in training.
    pub dropout: f32,
    /// Sets this layer's dropout apart from that of others in the same step.
    pub salt: u64,
    /// Whether the update is applied.
    pub enabled: bool,
    /// The norms that the magnitude takes the place of, shared by clones as A and B are. They are kept from the
    /// first pass without gradients to the next one with them, after which A and B may be others.
    norms: Arc<Mutex<Option<Tensor>>>,
}

impl Lora {
    /// An update that is applied, for the module at `path`.
    pub fn new(a: Var, b: Var, scale: f64, dropout: f32, path: &str) -> Self {
        let norms = Arc::default();
        Lora { a, b, magnitude: None, scale, dropout, salt: fnv1a(path), enabled: true, norms }
    }

    /// The norms of the rows of `weight` with the update.
    fn norms(&self, weight: &Tensor, pass: Pass) -> Result<Tensor> {
        let mut kept = self.norms.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if pass.gradients {
            *kept = None;
        } else if let Some(norms) = &*kept {
            return Ok(norms.clone());
        }
        let norms = ops::dora_norms(weight, &self.a, &self.b, self.scale)?;
        if !pass.gradients {
            *kept = Some(norms.clone());
        }
        Ok(norms)
    }
}

impl Linear {
    /// A layer of `weight` (out, in) and `bias` (out).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Linear { weight, bias, lora: None }
    }

    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// `x` is (..., in); the result is (..., out).
    ///
    /// # Errors
    ///
    /// When the last dimension of `x` is not `in`, or its dtype has no kernel.
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let weight = pass.tensor(&self.weight);
        let bias = self.bias.as_ref().map(|bias| pass.tensor(bias));
        let Some(lora) = self.lora.as_ref().filter(|lora| lora.enabled) else {
            return ops::linear(x, &weight, bias.as_ref());
        };
        let dropout = match pass.dropout_seed {
            Some(seed) if lora.dropout > 0. => {
                Some(ops::Dropout { p: lora.dropout, seed: mix(seed ^ lora.salt) })
            }
            _ => None,
        };
        let base = ops::LoraLinear { weight, bias, scale: lora.scale, dropout };
        let (a, b) = (pass.tensor(&lora.a), pass.tensor(&lora.b));
        match &lora.magnitude {
            None => ops::lora_linear(x, &a, &b, &base),
            Some(magnitude) => {
                let norms = lora.norms(&base.weight, pass)?;
                ops::dora_linear(x, &a, &b, &pass.tensor(magnitude), &norms, &base)
            }
        }
    }

    /// `x` through the layer, plus `onto`, in one step where the device has one.
    ///
    /// # Errors
    ///
    /// As [`Linear::forward`], and when `onto` is not of the result's shape and dtype.
    pub(crate) fn forward_onto(&self, x: &Tensor, onto: &Tensor, pass: Pass) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(y) =
            super::joined::product(&[self], &self.weight, self.bias.as_ref(), x, pass, Some(onto))?
        {
            return Ok(y);
        }
        ops::add(&self.forward(x, pass)?, onto)
    }

    /// The size of the input's last dimension.
    pub fn in_features(&self) -> usize {
        self.weight.dims()[1]
    }

    /// The size of the output's last dimension.
    pub fn out_features(&self) -> usize {
        self.weight.dims()[0]
    }
}

/// The FNV-1a hash: the same on every machine and in every run.
pub(crate) fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// SplitMix64's finalizer: seeds that differ in a bit give unrelated streams.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn layer(path: &str) -> Linear {
        let dev = &Device::Cpu;
        let mut linear = Linear::new(Tensor::zeros((8, 16), DType::F32, dev).unwrap(), None);
        let a = Var::ones((2, 16), DType::F32, dev).unwrap();
        let b = Var::ones((8, 2), DType::F32, dev).unwrap();
        linear.lora = Some(Lora::new(a, b, 0.5, 0.5, path));
        linear
    }

    fn values(linear: &Linear, dropout_seed: Option<u64>) -> Vec<f32> {
        let x = Tensor::arange(0f32, 64., &Device::Cpu).unwrap().reshape((4, 16)).unwrap();
        let y = linear.forward(&x, Pass { gradients: true, dropout_seed }).unwrap();
        y.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn dropout_depends_on_step_and_layer_and_repeats() {
        let (q, k) = (layer("q_proj"), layer("k_proj"));
        assert_eq!(values(&q, Some(1)), values(&q, Some(1)));
        assert_ne!(values(&q, Some(1)), values(&q, Some(2)));
        assert_ne!(values(&q, Some(1)), values(&k, Some(1)));
        assert_ne!(values(&q, Some(1)), values(&q, None));
    }

    #[test]
    fn inference_keeps_no_graph_and_a_disabled_lora_adds_nothing() {
        let mut linear = layer("q_proj");
        let x = Tensor::ones((1, 16), DType::F32, &Device::Cpu).unwrap();
        assert!(!linear.forward(&x, Pass::default()).unwrap().track_op());
        assert!(linear.forward(&x, Pass { gradients: true, dropout_seed: None }).unwrap().track_op());
        assert!(values(&linear, None).iter().any(|&y| y != 0.));
        linear.lora.as_mut().unwrap().enabled = false;
        assert!(values(&linear, None).iter().all(|&y| y == 0.));
    }
}
