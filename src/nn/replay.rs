//! A pass over one token a row that was captured: what it is made of.

use candle_core::{Tensor, TensorId};

use super::Rotation;
use crate::ops::decode_state::DecodeState;
use crate::ops::graph::Graph;

/// What a captured pass depends on.
#[derive(Debug, PartialEq, Eq)]
pub struct MadeOf {
    /// The tensors it reads and writes by their addresses.
    pub tensors: Vec<TensorId>,
    /// The bits of its constants.
    pub constants: Vec<u64>,
}

/// A pass over one token a row.
#[derive(Debug)]
pub struct Replay {
    /// What it depends on.
    pub made_of: MadeOf,
    /// What changes from token to token.
    pub state: DecodeState,
    /// Where its logits go: (B, V), f32.
    pub logits: Tensor,
    /// The rotations of all positions.
    pub tables: Vec<Rotation>,
    /// None before it was captured.
    pub graph: Option<Graph>,
    /// How often it has run without: then kernels are compiled, and what is kept for later passes is there.
    pub runs: usize,
}
