//! Layers: structs that own tensors and call the fused ops. A field carries its checkpoint's name.

mod attention;
mod embedding;
#[cfg(feature = "cuda")]
mod joined;
mod kv_cache;
mod linear;
mod mlp;
#[cfg(feature = "cuda")]
mod replay;
mod rms_norm;
mod rope;

pub use attention::{Projections, SelfAttention};
pub use embedding::Embedding;
#[cfg(feature = "cuda")]
pub(crate) use joined::Joined;
pub use kv_cache::{KvCache, LayerCache};
pub use linear::{Linear, Lora};
pub use mlp::{Activation, GateUp, Mlp};
#[cfg(feature = "cuda")]
pub(crate) use replay::{MadeOf, Replay};
pub use rms_norm::RmsNorm;
pub use rope::{Rope, RopeConfig, RopeScaling, Rotation};

use candle_core::Tensor;

/// How a forward pass runs. The default is inference: no gradients, no dropout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pass {
    /// Whether variables are tracked. Without it no graph is kept, and activations are freed as they are used.
    pub gradients: bool,
    /// Turns LoRA dropout on. Passes with one seed drop the same elements, so that a layer whose forward is
    /// computed again for its gradient computes the same values.
    pub dropout_seed: Option<u64>,
}

impl Pass {
    /// The tensor as this pass uses it: without its place in the graph if there are no gradients to take.
    fn tensor(self, tensor: &Tensor) -> Tensor {
        if self.gradients { tensor.clone() } else { tensor.detach() }
    }
}
