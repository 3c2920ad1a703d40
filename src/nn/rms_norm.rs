//! Root mean square norm as a layer. Gemma's multiplies by `1 + w` where others multiply by `w`.

use candle_core::{DType, Result, Tensor};

use super::Pass;
use crate::ops;

/// A norm over the last dimension.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    /// `1 + w` in f32, for a frozen Gemma weight.
    one_plus: Option<Tensor>,
    gemma: bool,
    eps: f32,
}

impl RmsNorm {
    /// A norm that multiplies by `weight`, or by `1 + weight` if `gemma`.
    ///
    /// # Errors
    ///
    /// When the weight cannot be converted to f32.
    pub fn new(weight: Tensor, eps: f32, gemma: bool) -> Result<Self> {
        // A variable changes from step to step: its sum is part of the graph.
        let one_plus = match gemma && !weight.is_variable() {
            true => Some((weight.to_dtype(DType::F32)? + 1.)?),
            false => None,
        };
        Ok(RmsNorm { weight, one_plus, gemma, eps })
    }

    /// The checkpoint's tensor.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Replaces the checkpoint's tensor.
    ///
    /// # Errors
    ///
    /// As [`RmsNorm::new`].
    pub fn set_weight(&mut self, weight: Tensor) -> Result<()> {
        *self = RmsNorm::new(weight, self.eps, self.gemma)?;
        Ok(())
    }

    fn factor(&self, pass: Pass) -> Result<Tensor> {
        match &self.one_plus {
            Some(one_plus) => Ok(one_plus.clone()),
            None if self.gemma => ops::affine(&ops::cast(&pass.tensor(&self.weight), DType::F32)?, 1., 1.),
            None => Ok(pass.tensor(&self.weight)),
        }
    }

    /// Normalizes `x` over its last dimension.
    ///
    /// # Errors
    ///
    /// When the last dimension of `x` is not the weight's.
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        ops::rms_norm(x, &self.factor(pass)?, self.eps)
    }

    /// `(x + residual, norm(x + residual))`.
    ///
    /// # Errors
    ///
    /// As [`RmsNorm::forward`], and when `x` and `residual` differ in shape.
    pub fn add(&self, x: &Tensor, residual: &Tensor, pass: Pass) -> Result<(Tensor, Tensor)> {
        ops::add_rms_norm(x, residual, &self.factor(pass)?, self.eps)
    }
}
