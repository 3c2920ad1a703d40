//! The gated feed-forward block: `down(act(gate(x)) * up(x))`.
//!
//! Shazeer, [GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202).

use candle_core::{Result, Tensor};

use super::{Linear, Pass};
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
}

impl Mlp {
    /// Applies the block to `x` (..., hidden).
    ///
    /// # Errors
    ///
    /// When the last dimension of `x` is not the block's.
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let gated = match (&self.gate_up, self.activation) {
            (GateUp::Split { gate_proj, up_proj }, activation) => {
                let (gate, up) = (gate_proj.forward(x, pass)?, up_proj.forward(x, pass)?);
                match activation {
                    Activation::Silu => ops::silu_mul(&gate, &up)?,
                    Activation::GeluTanh => ops::gelu_mul(&gate, &up)?,
                }
            }
            (GateUp::Fused { gate_up_proj }, Activation::Silu) => {
                ops::swiglu(&gate_up_proj.forward(x, pass)?)?
            }
            (GateUp::Fused { gate_up_proj }, Activation::GeluTanh) => {
                ops::geglu(&gate_up_proj.forward(x, pass)?)?
            }
        };
        self.down_proj.forward(&gated, pass)
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
