//! Self-attention with grouped queries: `o(softmax(rope(q) rope(k)ᵀ scale + mask) v)`.
//!
//! Ainslie et al., [GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
//! Checkpoints](https://arxiv.org/abs/2305.13245). Heads stay in their places, (B, T, heads, dim), from the
//! projections to the output: nothing is transposed.

use candle_core::{Result, Tensor};

use super::{LayerCache, Linear, Pass, RmsNorm, Rotation};
use crate::ops::{self, Keys};

/// The projections of the input to queries, keys and values.
#[derive(Debug, Clone)]
pub enum Projections {
    /// One product each.
    Split {
        /// Queries.
        q_proj: Linear,
        /// Keys.
        k_proj: Linear,
        /// Values.
        v_proj: Linear,
    },
    /// One product: the rows of queries, keys and values stand in this order.
    Fused {
        /// All three at once.
        qkv_proj: Linear,
    },
}

/// Self-attention.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// To queries, keys and values.
    pub projections: Projections,
    /// From the heads back to the hidden size.
    pub o_proj: Linear,
    /// A norm over each head of the queries, before the rotation.
    pub q_norm: Option<RmsNorm>,
    /// A norm over each head of the keys, before the rotation.
    pub k_norm: Option<RmsNorm>,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` heads of the queries.
    pub kv_heads: usize,
    /// What the products of queries and keys are multiplied by.
    pub scale: f32,
    /// How many keys a query sees, its own position's included; all before it if there is none.
    pub window: Option<usize>,
}

impl SelfAttention {
    /// Applies self-attention.
    ///
    /// With a cache, keys and values are written to it at position `at`, and queries see all that stands before.
    ///
    /// # Shapes
    ///
    /// `x` is (B, T, hidden), and so is the result. `keys` speaks of all `at + T` keys.
    ///
    /// # Errors
    ///
    /// When a shape does not fit the layer, the rotation, the mask or the cache.
    pub fn forward(
        &self,
        x: &Tensor,
        rotation: &Rotation,
        keys: &Keys,
        pass: Pass,
        cache: Option<(&mut LayerCache, usize)>,
    ) -> Result<Tensor> {
        let (batch, len, _) = x.dims3()?;
        let (q, k, v) = match &self.projections {
            Projections::Split { q_proj, k_proj, v_proj } => {
                let split = |x: &Tensor, heads: usize| {
                    ops::reshape(x, (batch, len, heads, x.elem_count() / (batch * len * heads)))
                };
                let heads = |proj: &Linear, heads| split(&proj.forward(x, pass)?, heads);
                let q = self.rotate(heads(q_proj, self.heads)?, &self.q_norm, rotation, pass)?;
                let k = self.rotate(heads(k_proj, self.kv_heads)?, &self.k_norm, rotation, pass)?;
                (q, k, heads(v_proj, self.kv_heads)?)
            }
            Projections::Fused { qkv_proj } => {
                let (h, kv) = (self.heads, self.kv_heads);
                let qkv = qkv_proj.forward(x, pass)?;
                let d = qkv.dim(2)? / (h + 2 * kv);
                let qkv = ops::reshape(&qkv, (batch, len, h + 2 * kv, d))?;
                let q = self.rotate(ops::narrow(&qkv, 2, 0, h)?, &self.q_norm, rotation, pass)?;
                let k = self.rotate(ops::narrow(&qkv, 2, h, kv)?, &self.k_norm, rotation, pass)?;
                (q, k, ops::narrow(&qkv, 2, h + kv, kv)?)
            }
        };
        let (k, v) = match cache {
            Some((cache, at)) => match keys {
                Keys::OnDevice(ranges) => cache.append_at(&k, &v, ranges)?,
                _ => cache.append(&k, &v, at)?,
            },
            None => (k, v),
        };
        let options = ops::Attention {
            scale: self.scale,
            causal: true,
            window: self.window,
            softcap: None,
            keys: keys.clone(),
        };
        let y = ops::attention_thd(&q, &k, &v, &options)?;
        let width = y.dim(2)? * y.dim(3)?;
        self.o_proj.forward(&ops::reshape(&y, (batch, len, width))?, pass)
    }

    fn rotate(&self, x: Tensor, norm: &Option<RmsNorm>, rotation: &Rotation, pass: Pass) -> Result<Tensor> {
        let x = match norm {
            Some(norm) => norm.forward(&x, pass)?,
            None => x,
        };
        ops::rope_thd(&x, &rotation.cos, &rotation.sin)
    }

    /// The linear layers by name.
    pub fn linears(&self) -> Vec<(&'static str, &Linear)> {
        let mut linears = match &self.projections {
            Projections::Split { q_proj, k_proj, v_proj } => {
                vec![("q_proj", q_proj), ("k_proj", k_proj), ("v_proj", v_proj)]
            }
            Projections::Fused { qkv_proj } => vec![("qkv_proj", qkv_proj)],
        };
        linears.push(("o_proj", &self.o_proj));
        linears
    }

    /// The linear layers by name, to be changed.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let mut linears = match &mut self.projections {
            Projections::Split { q_proj, k_proj, v_proj } => {
                vec![("q_proj", q_proj), ("k_proj", k_proj), ("v_proj", v_proj)]
            }
            Projections::Fused { qkv_proj } => vec![("qkv_proj", qkv_proj)],
        };
        linears.push(("o_proj", &mut self.o_proj));
        linears
    }
}
