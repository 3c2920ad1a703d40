//! The token embedding: a row of a table for each token id.

use candle_core::{DType, Result, Tensor};

use super::Pass;
use crate::ops;

/// A table of vectors, looked up by token id.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// (vocabulary, hidden).
    pub weight: Tensor,
    /// What the vectors are multiplied by, rounded to the compute dtype first.
    pub scale: Option<f64>,
    /// The id whose vector is not trained: PyTorch's `padding_idx`.
    pub padding: Option<u32>,
}

impl Embedding {
    /// The vectors of `ids` in `dtype`.
    ///
    /// # Shapes
    ///
    /// `ids` is (B, T), u32; the result is (B, T, hidden).
    ///
    /// # Errors
    ///
    /// When an id on the CPU is outside the table. Ids on a GPU are not read back: one outside gives a row of NaN.
    pub fn forward(&self, ids: &Tensor, dtype: DType, pass: Pass) -> Result<Tensor> {
        let weight = pass.tensor(&self.weight);
        match self.scale {
            Some(scale) if weight.dtype() != dtype => {
                let x = ops::embedding_padded(ids, &weight, self.padding)?;
                ops::affine(&ops::cast(&x, dtype)?, scale, 0.)
            }
            scale => {
                let x = ops::embedding_scaled(ids, &weight, self.padding, scale.unwrap_or(1.))?;
                ops::cast(&x, dtype)
            }
        }
    }
}
