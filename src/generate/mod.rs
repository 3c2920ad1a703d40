//! Text from a model: the choice of tokens and of the end.
mod sampler;
mod stop;
pub use sampler::{Sampled, Sampler, SamplerConfig, top_logprobs};
pub use stop::{FinishReason, Released, StopStrings};
