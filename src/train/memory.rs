//! The memory plan: what a run will hold at its peak, told before step 1.

use crate::models::{Config, Model};
use candle_core::DType;
use serde::Serialize;
use std::fmt;

/// Bytes a run is expected to hold at its peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// The model's weights.
    pub weights: usize,
    /// The trainable variables beside the weights: LoRA factors.
    pub adapters: usize,
    /// Gradients of the variables.
    pub gradients: usize,
    /// The optimiser's moments.
    pub optimizer: usize,
    /// What forward keeps for backward at the given batch and length.
    pub activations: usize,
    /// What comes and goes: a layer's gradients, or a chunk of logits.
    pub transient: usize,
}

impl MemoryPlan {
    /// The plan for training `model` on batches of `rows` x `len`.
    pub fn new(model: &Model, rows: usize, len: usize, grad_checkpoint: bool) -> Self {
        let vars = model.trainable();
        let lora: usize = model.lora_tensors().iter().map(|(_, a, b)| a.elem_count() + b.elem_count()).sum();
        let trained: usize = vars.iter().map(|(_, v)| v.elem_count()).sum();
        let weights = model.named_tensors().iter().map(|(_, t)| t.elem_count() * t.dtype().size_in_bytes()).sum();
        let shape = Shape::new(&model.config, model.dtype(), rows * len);
        let trained_layers = match trained > lora {
            true => model.layers().len(),
            false => model.layers().iter().skip_while(|l| !l.is_trained()).count(),
        };
        let kept = if grad_checkpoint { shape.layer_input() } else { shape.layer_kept() };
        let rerun = if grad_checkpoint { shape.layer_kept() } else { 0 };
        let full_head = trained > lora;
        MemoryPlan {
            weights,
            adapters: 4 * lora,
            gradients: 4 * trained,
            optimizer: 8 * trained,
            activations: trained_layers * kept,
            transient: shape.head(full_head).max(rerun + shape.layer_backward()),
        }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.adapters + self.gradients + self.optimizer + self.activations + self.transient
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: usize| bytes as f64 / 1e9;
        write!(
            f,
            "{:.3} GB: weights {:.3}, adapters {:.3}, gradients {:.3}, optimizer {:.3}, activations {:.3}, transient {:.3}",
            gb(self.total()),
            gb(self.weights),
            gb(self.adapters),
            gb(self.gradients),
            gb(self.optimizer),
            gb(self.activations),
            gb(self.transient)
        )
    }
}

/// The sizes that activations are made of.
struct Shape {
    tokens: usize,
    bytes: usize,
    hidden: usize,
    queries: usize,
    keys: usize,
    ffn: usize,
    vocab: usize,
    norms: usize,
    fused: bool,
}

impl Shape {
    fn new(config: &Config, dtype: DType, tokens: usize) -> Self {
        Shape {
            tokens,
            bytes: dtype.size_in_bytes(),
            hidden: config.hidden_size,
            queries: config.num_attention_heads * config.head_dim,
            keys: config.num_key_value_heads * config.head_dim,
            ffn: config.intermediate_size,
            vocab: config.vocab_size,
            norms: if config.qk_norm { 1 } else { 0 },
            fused: config.fused_projections,
        }
    }

    fn layer_input(&self) -> usize {
        self.tokens * self.bytes * self.hidden
    }

    /// Every op's output is kept: input, two norms, the attention's output projection, the sum, the feed-forward
    /// block's output and the layer's; queries and keys as projected, normalized and rotated; values and the
    /// attention; gate, up and their product. A fused projection is kept beside its parts.
    fn layer_kept(&self) -> usize {
        let queries = 3 + self.norms;
        let keys = 3 + self.norms;
        let copies = if self.fused { self.queries + 2 * self.keys } else { 0 };
        self.tokens * self.bytes * (7 * self.hidden + queries * self.queries + keys * self.keys + 3 * self.ffn + copies)
    }

    /// Gradients of the feed-forward block, or the attention's in `f32`, whichever is more.
    fn layer_backward(&self) -> usize {
        let mlp = self.bytes * (3 * self.hidden + 5 * self.ffn);
        let attention = 4 * (4 * self.queries + 4 * self.keys) + self.bytes * (2 * self.queries + 2 * self.keys);
        self.tokens * mlp.max(attention)
    }

    /// A chunk of logits with its gradient, hidden states and theirs; in full fine-tuning the head's gradient.
    fn head(&self, trained: bool) -> usize {
        let rows = ((1 << 24) / self.vocab.max(1)).max(32).min(self.tokens.max(32));
        let head = if trained { 12 * self.vocab * self.hidden } else { 0 };
        rows * self.vocab * (4 + self.bytes) + 3 * self.tokens * self.bytes * self.hidden + head
    }
}
