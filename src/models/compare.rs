//! Whether two checkpoints, or a model with two adapters, say the same: their logits on some fixed texts.

use candle_core::{DType, Tensor};

use super::Config;
use crate::load::Tokenizer;
use crate::{Error, Result};

/// Texts of several kinds; what a model says to them need not make sense.
const TEXTS: [&str; 4] = [
    "The quick brown fox jumps over the lazy dog, and then the two of them have a long rest.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
    "Question: what is 12 * 7?\nAnswer: 84, for 10 * 7 is 70, and 2 * 7 is 14.",
    "Größe, 東京, мир, سلام, 🙂",
];

/// The most tokens of a text that are read.
const TOKENS: usize = 32;

/// The texts that logits are compared on, as tokens of a model.
///
/// # Errors
///
/// When the tokenizer fails, or makes nothing of them.
pub fn prompts(config: &Config, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
    let mut prompts = Vec::new();
    for text in TEXTS {
        let mut ids = tokenizer.encode(text, true)?;
        ids.truncate(TOKENS.min(config.max_position_embeddings));
        prompts.extend((!ids.is_empty()).then_some(ids));
    }
    match prompts.is_empty() {
        true => Err(Error::wants("tokenizer", "tokens of a plain text", "none")),
        false => Ok(prompts),
    }
}

/// How far logits are from those they should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The largest difference of two logits; infinite if one is not a number.
    pub largest: f32,
    /// The largest logit there should be, by its absolute value.
    pub logit: f32,
}

impl Difference {
    /// Compares what [`Config::logits_by_layer`] gave twice.
    ///
    /// # Errors
    ///
    /// When the two are not of the same prompts.
    pub fn of(wanted: &[Tensor], got: &[Tensor]) -> Result<Self> {
        let mut difference = Difference { largest: 0.0, logit: 0.0 };
        let largest = |tensor: Tensor| -> Result<f32> {
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            let abs = |value: f32| if value.is_nan() { f32::INFINITY } else { value.abs() };
            Ok(values.into_iter().map(abs).fold(0.0, f32::max))
        };
        for (wanted, got) in wanted.iter().zip(got) {
            difference.largest = difference.largest.max(largest((wanted - got)?)?);
            difference.logit = difference.logit.max(largest(wanted.clone())?);
        }
        Ok(difference)
    }

    /// Whether the difference is not larger than `limit`.
    pub fn within(&self, limit: f32) -> bool {
        self.largest.is_finite() && self.largest <= limit
    }

    /// What storing merged weights in `dtype` may make of the difference, for a model of this configuration.
    ///
    /// Rounding moves a weight by up to the type's unit roundoff u of itself, and so a product by about as much;
    /// over n products, independent of one another, that grows as √n. Twice this, of the largest logit, is what
    /// is allowed. For f32 it is not the rounding of the weights that counts but that of sums over thousands of
    /// terms, taken in another order: its u is 2⁷ times 2⁻²⁴.
    pub fn allowed(&self, config: &Config, dtype: DType) -> f32 {
        let roundoff = match dtype {
            DType::BF16 => 2f32.powi(-8),
            DType::F16 => 2f32.powi(-11),
            _ => 2f32.powi(-17),
        };
        let matrices = config.tensors().iter().filter(|(_, shape)| shape.rank() == 2).count();
        2.0 * roundoff * (matrices as f32).sqrt() * self.logit
    }
}
