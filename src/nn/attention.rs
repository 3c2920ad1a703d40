//! Self-attention with grouped queries: `o(softmax(rope(q) rope(k)ᵀ scale + mask) v)`.
//!
//! Ainslie et al., [GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
//! Checkpoints](https://arxiv.org/abs/2305.13245). Heads stay in their places, (B, T, heads, dim), from the
//! projections to the output: nothing is transposed.

use candle_core::{Result, Tensor, bail};

#[cfg(feature = "cuda")]
use super::{Joined, joined::of_few};
use super::{LayerCache, Linear, Pass, RmsNorm, Rotation};
#[cfg(feature = "cuda")]
use crate::ops::rope_attention::{Heads, rope_attention};
#[cfg(feature = "cuda")]
use crate::ops::turn_append::Place;
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
    /// The projections as one product.
    #[cfg(feature = "cuda")]
    pub(crate) joined: Option<Joined>,
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
        let joined = self.joined(x, pass)?;
        self.o_proj.forward(&self.heads(x, joined, rotation, keys, pass, cache)?, pass)
    }

    /// What [`SelfAttention::forward`] gives of `norm(x)`, plus `x`.
    pub(crate) fn forward_onto(
        &self,
        x: &Tensor,
        norm: &RmsNorm,
        rotation: &Rotation,
        keys: &Keys,
        pass: Pass,
        cache: Option<(&mut LayerCache, usize)>,
    ) -> Result<Tensor> {
        let heads = match self.joined_few(x, norm, pass)? {
            Some(joined) => self.heads(x, Some(joined), rotation, keys, pass, cache)?,
            None => {
                let x = norm.forward(x, pass)?;
                let joined = self.joined(&x, pass)?;
                self.heads(&x, joined, rotation, keys, pass, cache)?
            }
        };
        self.o_proj.forward_onto(&heads, x, pass)
    }

    /// The heads' outputs, (B, T, heads x dim), with what one product has made of queries, keys and values, if one has.
    fn heads(
        &self,
        x: &Tensor,
        joined: Option<Tensor>,
        rotation: &Rotation,
        keys: &Keys,
        pass: Pass,
        #[cfg_attr(not(feature = "cuda"), allow(unused_mut))] mut cache: Option<(&mut LayerCache, usize)>,
    ) -> Result<Tensor> {
        let (batch, len, _) = x.dims3()?;
        let options = ops::Attention {
            scale: self.scale,
            causal: true,
            window: self.window,
            softcap: None,
            keys: keys.clone(),
        };
        #[cfg(feature = "cuda")]
        if let (Some(qkv), Some((cache, at))) = (&joined, &mut cache)
            && len == 1
            && !pass.gradients
            && let Some((q, k, v)) = self.turn_append(qkv, rotation, keys, cache, *at)?
        {
            let y = ops::attention_thd(&q, &k, &v, &options)?;
            return ops::reshape(&y, (batch, len, self.heads * y.dim(3)?));
        }
        #[cfg(feature = "cuda")]
        if let (Some(qkv), None, None, None) = (&joined, &cache, &self.q_norm, &self.k_norm) {
            let dim = qkv.dim(2)? / (self.heads + 2 * self.kv_heads);
            let heads = Heads { queries: self.heads, keys: self.kv_heads, dim };
            if let Some(y) = rope_attention(qkv, [&rotation.cos, &rotation.sin], heads, &options)? {
                return ops::reshape(&y, (batch, len, self.heads * dim));
            }
        }
        let (q, k, v) = match (&self.projections, joined) {
            (_, Some(qkv)) => {
                let (h, kv) = (self.heads, self.kv_heads);
                let d = qkv.dim(2)? / (h + 2 * kv);
                let qkv = ops::reshape(&qkv, (batch, len, h + 2 * kv, d))?;
                let v = ops::narrow(&qkv, 2, h + kv, kv)?;
                match (&self.q_norm, &self.k_norm) {
                    (None, None) => {
                        let both = self.rotate(ops::narrow(&qkv, 2, 0, h + kv)?, &None, rotation, pass)?;
                        (ops::narrow(&both, 2, 0, h)?, ops::narrow(&both, 2, h, kv)?, v)
                    }
                    _ => {
                        let q = self.rotate(ops::narrow(&qkv, 2, 0, h)?, &self.q_norm, rotation, pass)?;
                        let k = self.rotate(ops::narrow(&qkv, 2, h, kv)?, &self.k_norm, rotation, pass)?;
                        (q, k, v)
                    }
                }
            }
            (Projections::Split { q_proj, k_proj, v_proj }, None) => {
                let split = |x: &Tensor, heads: usize| {
                    ops::reshape(x, (batch, len, heads, x.elem_count() / (batch * len * heads)))
                };
                let heads = |proj: &Linear, heads| split(&proj.forward(x, pass)?, heads);
                let q = self.rotate(heads(q_proj, self.heads)?, &self.q_norm, rotation, pass)?;
                let k = self.rotate(heads(k_proj, self.kv_heads)?, &self.k_norm, rotation, pass)?;
                (q, k, heads(v_proj, self.kv_heads)?)
            }
            (Projections::Fused { .. }, None) => bail!("attention: wants its projection, got none"),
        };
        let (k, v) = match cache {
            Some((cache, at)) => match keys {
                Keys::OnDevice(ranges) => cache.append_at(&k, &v, ranges)?,
                _ => cache.append(&k, &v, at)?,
            },
            None => (k, v),
        };
        let y = ops::attention_thd(&q, &k, &v, &options)?;
        let width = y.dim(2)? * y.dim(3)?;
        ops::reshape(&y, (batch, len, width))
    }

    /// Queries of a token a row, turned in `qkv`, and all keys and values, to which the token's are appended; none where
    /// no kernel does it.
    #[cfg(feature = "cuda")]
    fn turn_append(
        &self,
        qkv: &Tensor,
        rotation: &Rotation,
        keys: &Keys,
        cache: &mut LayerCache,
        at: usize,
    ) -> Result<Option<(Tensor, Tensor, Tensor)>> {
        let (batch, _, width) = qkv.dims3()?;
        let heads = self.heads + 2 * self.kv_heads;
        let norms = match (&self.q_norm, &self.k_norm) {
            (None, None) => None,
            (Some(q), Some(k)) => Some([q.plain()?, k.plain()?]),
            _ => return Ok(None),
        };
        let norms = norms.as_ref().map(|norms| norms.each_ref().map(|(weight, eps)| (weight, *eps)));
        let place = match keys {
            Keys::OnDevice(ranges) => Place::Ends(ranges),
            _ => Place::At(at),
        };
        let split = qkv.detach().reshape((batch, 1, heads, width / heads))?;
        let of = split.narrow(2, self.heads, self.kv_heads)?;
        let tables = [&rotation.cos, &rotation.sin];
        let appended = cache.append_turned(&qkv.detach(), &of, tables, norms, place, &self.o_proj.weight)?;
        appended.map(|(k, v)| Ok((split.narrow(2, 0, self.heads)?, k, v))).transpose()
    }

    /// [`SelfAttention::joined`] of `norm(x)` in one kernel, if there is one.
    #[cfg(feature = "cuda")]
    fn joined_few(&self, x: &Tensor, norm: &RmsNorm, pass: Pass) -> Result<Option<Tensor>> {
        match &self.projections {
            Projections::Fused { qkv_proj } => of_few(&[qkv_proj], None, x, norm, None, pass),
            Projections::Split { q_proj, k_proj, v_proj } => {
                of_few(&[q_proj, k_proj, v_proj], self.joined.as_ref(), x, norm, None, pass)
            }
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn joined_few(&self, _: &Tensor, _: &RmsNorm, _: Pass) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Queries, keys and values one after the other, (B, T, (heads + 2 kv_heads) dim), if one product makes them.
    fn joined(&self, x: &Tensor, pass: Pass) -> Result<Option<Tensor>> {
        match &self.projections {
            Projections::Fused { qkv_proj } => qkv_proj.forward(x, pass).map(Some),
            #[cfg(feature = "cuda")]
            Projections::Split { q_proj, k_proj, v_proj } => match &self.joined {
                // Norms of the heads want queries and keys apart, but where they are kernels' that turn them.
                Some(_) if self.q_norm.is_some() && (pass.gradients || x.dim(1)? != 1) => Ok(None),
                Some(joined) => joined.forward(&[q_proj, k_proj, v_proj], x, pass),
                None => Ok(None),
            },
            #[cfg(not(feature = "cuda"))]
            Projections::Split { .. } => Ok(None),
        }
    }

    /// Makes one product of the projections.
    #[cfg(feature = "cuda")]
    pub(crate) fn join(&mut self) -> Result<()> {
        if let Projections::Split { q_proj, k_proj, v_proj } = &mut self.projections {
            self.joined = Joined::new(&mut [q_proj, k_proj, v_proj])?;
        }
        Ok(())
    }

    /// Lets go of the joined weights if they are not the projections' own any more.
    #[cfg(feature = "cuda")]
    pub(crate) fn drop_stale_join(&mut self) {
        if let Projections::Split { q_proj, k_proj, v_proj } = &self.projections
            && self.joined.as_ref().is_some_and(|joined| !joined.is_of(&[q_proj, k_proj, v_proj]))
        {
            self.joined = None;
        }
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
