//! The gated feed-forward block: `down(act(gate(x)) * up(x))`.
//!
//! Shazeer, [GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202).

use candle_core::{Result, Tensor, bail};

#[cfg(feature = "cuda")]
use super::{Joined, joined::of_few};
use super::{Linear, Pass, RmsNorm};
use crate::ops;

/// The function that gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// The tanh approximation of the Gaussian error linear unit.
    GeluTanh,
}

/// The first half of the block.
#[derive(Debug, Clone)]
pub enum GateUp {
    /// Two products.
    Split {
        /// Its output goes through the activation.
        gate_proj: Linear,
        /// Its output is gated.
        up_proj: Linear,
    },
    /// One product: the gate's rows stand above the others.
    Fused {
        /// Both at once.
        gate_up_proj: Linear,
    },
}

/// The gated feed-forward block.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// The products before the gate.
    pub gate_up: GateUp,
    /// The product after it.
    pub down_proj: Linear,
    /// The function that gates.
    pub activation: Activation,
    /// Gate and up as one product.
    #[cfg(feature = "cuda")]
    pub(crate) joined: Option<Joined>,
}

impl Mlp {
    /// Applies the block to `x` (..., hidden).
    ///
    /// # Errors
    ///
    /// When the last dimension of `x` is not the block's.
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        self.down_proj.forward(&self.gated(x, pass)?, pass)
    }

    /// What [`Mlp::forward`] gives of `norm(x)`, plus `x`.
    pub(crate) fn forward_onto(&self, x: &Tensor, norm: &RmsNorm, pass: Pass) -> Result<Tensor> {
        let gated = match self.gated_few(x, norm, pass)? {
            Some(gated) => gated,
            None => self.gated(&norm.forward(x, pass)?, pass)?,
        };
        self.down_proj.forward_onto(&gated, x, pass)
    }

    /// [`Mlp::gated`] of `norm(x)` in one kernel, if there is one.
    #[cfg(feature = "cuda")]
    fn gated_few(&self, x: &Tensor, norm: &RmsNorm, pass: Pass) -> Result<Option<Tensor>> {
        let gate = Some(self.activation);
        match &self.gate_up {
            GateUp::Fused { gate_up_proj } => of_few(&[gate_up_proj], None, x, norm, gate, pass),
            GateUp::Split { gate_proj, up_proj } => {
                of_few(&[gate_proj, up_proj], self.joined.as_ref(), x, norm, gate, pass)
            }
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn gated_few(&self, _: &Tensor, _: &RmsNorm, _: Pass) -> Result<Option<Tensor>> {
        Ok(None)
    }

    fn gated(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let both = match &self.gate_up {
            GateUp::Fused { gate_up_proj } => Some(gate_up_proj.forward(x, pass)?),
            #[cfg(feature = "cuda")]
            GateUp::Split { gate_proj, up_proj } => match &self.joined {
                Some(joined) => joined.forward(&[gate_proj, up_proj], x, pass)?,
                None => None,
            },
            #[cfg(not(feature = "cuda"))]
            GateUp::Split { .. } => None,
        };
        match (&self.gate_up, both, self.activation) {
            (_, Some(both), Activation::Silu) => ops::swiglu(&both),
            (_, Some(both), Activation::GeluTanh) => ops::geglu(&both),
            (GateUp::Split { gate_proj, up_proj }, None, activation) => {
                let (gate, up) = (gate_proj.forward(x, pass)?, up_proj.forward(x, pass)?);
                match activation {
                    Activation::Silu => ops::silu_mul(&gate, &up),
                    Activation::GeluTanh => ops::gelu_mul(&gate, &up),
                }
            }
            (GateUp::Fused { .. }, None, _) => bail!("mlp: wants its projection, got none"),
        }
    }

    /// Makes one product of gate and up.
    #[cfg(feature = "cuda")]
    pub(crate) fn join(&mut self) -> Result<()> {
        if let GateUp::Split { gate_proj, up_proj } = &mut self.gate_up {
            self.joined = Joined::new(&mut [gate_proj, up_proj])?;
        }
        Ok(())
    }

    /// Lets go of the joined weights if they are not the projections' own any more.
    #[cfg(feature = "cuda")]
    pub(crate) fn drop_stale_join(&mut self) {
        if let GateUp::Split { gate_proj, up_proj } = &self.gate_up
            && self.joined.as_ref().is_some_and(|joined| !joined.is_of(&[gate_proj, up_proj]))
        {
            self.joined = None;
        }
    }

    /// The linear layers by name.
    pub fn linears(&self) -> Vec<(&'static str, &Linear)> {
        let mut linears = match &self.gate_up {
            GateUp::Split { gate_proj, up_proj } => vec![("gate_proj", gate_proj), ("up_proj", up_proj)],
            GateUp::Fused { gate_up_proj } => vec![("gate_up_proj", gate_up_proj)],
        };
        linears.push(("down_proj", &self.down_proj));
        linears
    }

    /// The linear layers by name, to be changed.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let mut linears = match &mut self.gate_up {
            GateUp::Split { gate_proj, up_proj } => vec![("gate_proj", gate_proj), ("up_proj", up_proj)],
            GateUp::Fused { gate_up_proj } => vec![("gate_up_proj", gate_up_proj)],
        };
        linears.push(("down_proj", &mut self.down_proj));
        linears
    }
}
