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
        let keys = &context.keys;
        if self.feedforward_layernorms.is_none() && x.device().is_cuda() {
            // What a block adds to the residual stream, its last product adds.
            let x = self.self_attn.forward_onto(x, &self.input_layernorm, rotation, keys, pass, cache)?;
            return self.mlp.forward_onto(&x, &self.post_attention_layernorm, pass);
        }
        let h = self.input_layernorm.forward(x, pass)?;
        let h = self.self_attn.forward(&h, rotation, keys, pass, cache)?;
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

    /// Makes one product of projections of one input.
    #[cfg(feature = "cuda")]
    pub(super) fn join(&mut self) -> Result<()> {
        self.self_attn.join()?;
        self.mlp.join()
    }

    /// Lets go of joined weights that are not the projections' own any more.
    #[cfg(feature = "cuda")]
    pub(super) fn drop_stale_joins(&mut self) {
        self.self_attn.drop_stale_join();
        self.mlp.drop_stale_join();
    }

    /// The linear layers of the attention and of the feed-forward block, without their names: each token asks.
    pub(crate) fn blocks(&self) -> [Vec<&Linear>; 2] {
        [self.self_attn.linears(), self.mlp.linears()]
            .map(|linears| linears.into_iter().map(|(_, linear)| linear).collect())
    }

    /// LoRA's factors in the order in which joined products want them: those of A of one input, then those of B.
    pub(crate) fn factors(&self) -> Vec<&Tensor> {
        let [mut attention, mut mlp] = self.blocks();
        // The last of each block takes the block's own input.
        let last = [attention.pop(), mlp.pop()];
        let groups = [attention, mlp].into_iter().chain(last.map(|linear| linear.into_iter().collect()));
        groups.flat_map(factors).collect()
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

/// Every A of these layers, then every B.
fn factors(linears: Vec<&Linear>) -> Vec<&Tensor> {
    let loras = || linears.iter().filter_map(|linear| linear.lora.as_ref());
    loras().map(|lora| lora.a.as_tensor()).chain(loras().map(|lora| lora.b.as_tensor())).collect()
}
