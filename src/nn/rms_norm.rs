//! Root mean square norm as a layer. Gemma's multiplies by `1 + w` where others multiply by `w`.

use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::TensorId;
use candle_core::{DType, Result, Tensor};

use super::Pass;
use crate::ops;

/// A norm over the last dimension.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    /// `1 + w` in f32, for a frozen Gemma weight.
    one_plus: OnceLock<Tensor>,
    gemma: bool,
    eps: f32,
}

impl RmsNorm {
    /// A norm that multiplies by `weight`, or by `1 + weight` if `gemma`.
    pub fn new(weight: Tensor, eps: f32, gemma: bool) -> Self {
        RmsNorm { weight, one_plus: OnceLock::new(), gemma, eps }
    }

    /// The checkpoint's tensor.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Replaces the checkpoint's tensor.
    pub fn set_weight(&mut self, weight: Tensor) {
        if weight.id() == self.weight.id() {
            return;
        }
        *self = RmsNorm::new(weight, self.eps, self.gemma);
    }

    fn factor(&self, pass: Pass) -> Result<Tensor> {
        if !self.gemma {
            return Ok(pass.tensor(&self.weight));
        }
        let one_plus = |weight: &Tensor| ops::affine(&ops::cast(weight, DType::F32)?, 1., 1.);
        // A variable changes from step to step: its sum is part of the graph.
        if self.weight.is_variable() {
            return one_plus(&pass.tensor(&self.weight));
        }
        match self.one_plus.get() {
            Some(sum) => Ok(sum.clone()),
            None => one_plus(&self.weight).map(|sum| self.one_plus.get_or_init(|| sum).clone()),
        }
    }

    /// What a pass without gradients reads; none where it is made anew each time.
    #[cfg(feature = "cuda")]
    pub(crate) fn read_by(&self) -> Result<Option<TensorId>> {
        match (self.gemma, self.weight.is_variable()) {
            (true, true) => Ok(None),
            (true, false) => Ok(Some(self.factor(Pass::default())?.id())),
            (false, _) => Ok(Some(self.weight.id())),
        }
    }

    /// The weight and the epsilon of a pass without gradients.
    #[cfg(feature = "cuda")]
    pub(super) fn plain(&self) -> Result<(Tensor, f32)> {
        Ok((self.factor(Pass::default())?, self.eps))
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
