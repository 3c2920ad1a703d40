//! One layer of the decoder: attention and a feed-forward block, each added to the residual stream.

use candle_core::{Result, Tensor};

use super::Context;
use crate::nn::{LayerCache, Linear, Mlp, RmsNorm, SelfAttention};
use crate::ops;

/// One layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Mixes positions.
    pub self_attn: SelfAttention,
    /// Mixes features.
    pub mlp: Mlp,
    /// Before the attention.
    pub input_layernorm: RmsNorm,
    /// Before the feed-forward block; in Gemma, after the attention.
    pub post_attention_layernorm: RmsNorm,
    /// Gemma's norms around the feed-forward block.
    pub feedforward_layernorms: Option<FeedforwardNorms>,
    pub(super) rope: usize,
}

/// Gemma's norms around the feed-forward block.
#[derive(Debug, Clone)]
pub struct FeedforwardNorms {
    /// Before it.
    pub pre_feedforward_layernorm: RmsNorm,
    /// After it.
    pub post_feedforward_layernorm: RmsNorm,
}

impl Layer {
    /// Applies the layer to `x` (B, T, hidden).
    ///
    /// # Errors
    ///
    /// When `x` is not of the context's batch.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        self.apply(x, context, None)
    }

    /// As [`Layer::forward`], for tokens that follow `at` others whose keys and values are in `cache`.
    ///
    /// # Errors
    ///
    /// As [`Layer::forward`], and when the cache is of another batch.
    pub fn forward_cached(
        &self,
        x: &Tensor,
        context: &Context,
        cache: &mut LayerCache,
        at: usize,
    ) -> Result<Tensor> {
        self.apply(x, context, Some((cache, at)))
    }

    fn apply(
        &self,
        x: &Tensor,
        context: &Context,
        cache: Option<(&mut LayerCache, usize)>,
    ) -> Result<Tensor> {
        let (rotation, pass) = (&context.rotations[self.rope], context.pass);
        let h = self.input_layernorm.forward(x, pass)?;
        let h = self.self_attn.forward(&h, rotation, &context.keys, pass, cache)?;
        match &self.feedforward_layernorms {
            None => {
                let (x, h) = self.post_attention_layernorm.add(&h, x, pass)?;
                ops::add(&x, &self.mlp.forward(&h, pass)?)
            }
            Some(norms) => {
                let h = self.post_attention_layernorm.forward(&h, pass)?;
                let (x, h) = norms.pre_feedforward_layernorm.add(&h, x, pass)?;
                ops::add(&x, &norms.post_feedforward_layernorm.forward(&self.mlp.forward(&h, pass)?, pass)?)
            }
        }
    }

    /// The linear layers by their paths in this layer.
    pub fn linears(&self) -> Vec<(String, &Linear)> {
        let attention =
            self.self_attn.linears().into_iter().map(|(name, l)| (format!("self_attn.{name}"), l));
        let mlp = self.mlp.linears().into_iter().map(|(name, l)| (format!("mlp.{name}"), l));
        attention.chain(mlp).collect()
    }

    /// The linear layers by their paths in this layer, to be changed.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let attention =
            self.self_attn.linears_mut().into_iter().map(|(name, l)| (format!("self_attn.{name}"), l));
        let mlp = self.mlp.linears_mut().into_iter().map(|(name, l)| (format!("mlp.{name}"), l));
        attention.chain(mlp).collect()
    }

    /// Whether a variable is among the layer's weights or LoRA factors.
    pub fn is_trained(&self) -> bool {
        let linear = |l: &Linear| l.lora.is_some() || l.weight.is_variable();
        self.linears().iter().any(|(_, l)| linear(l))
            || self.norms().iter().any(|(_, n)| n.weight().is_variable())
    }

    /// The norms by their paths in this layer.
    pub(super) fn norms(&self) -> Vec<(&'static str, &RmsNorm)> {
        let mut norms = vec![
            ("input_layernorm", &self.input_layernorm),
            ("post_attention_layernorm", &self.post_attention_layernorm),
        ];
        norms.extend(self.self_attn.q_norm.as_ref().map(|norm| ("self_attn.q_norm", norm)));
        norms.extend(self.self_attn.k_norm.as_ref().map(|norm| ("self_attn.k_norm", norm)));
        if let Some(around) = &self.feedforward_layernorms {
            norms.push(("pre_feedforward_layernorm", &around.pre_feedforward_layernorm));
            norms.push(("post_feedforward_layernorm", &around.post_feedforward_layernorm));
        }
        norms
    }

    pub(super) fn norms_mut(&mut self) -> Vec<(&'static str, &mut RmsNorm)> {
        let mut norms = vec![
            ("input_layernorm", &mut self.input_layernorm),
            ("post_attention_layernorm", &mut self.post_attention_layernorm),
        ];
        norms.extend(self.self_attn.q_norm.as_mut().map(|norm| ("self_attn.q_norm", norm)));
        norms.extend(self.self_attn.k_norm.as_mut().map(|norm| ("self_attn.k_norm", norm)));
        if let Some(around) = &mut self.feedforward_layernorms {
            norms.push(("pre_feedforward_layernorm", &mut around.pre_feedforward_layernorm));
            norms.push(("post_feedforward_layernorm", &mut around.post_feedforward_layernorm));
        }
        norms
    }
}
