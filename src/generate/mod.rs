//! Text from a model: prefill in chunks, then token after token, streamed as whole characters.
//!
//! [`generate`] answers one prompt, [`generate_batch`] several at once with the same result for each. The model is
//! anything that implements [`CausalLm`]; tokens are chosen by a [`Sampler`]; an answer ends at a stop token, a stop
//! string or a length.

mod engine;
mod options;
mod sampler;
mod stop;

pub use engine::{CausalLm, Event, Generation, StoppedBy, generate, generate_batch};
pub use options::GenerateOptions;
pub use sampler::{Sampled, Sampler, SamplerConfig, top_logprobs};
pub use stop::{FinishReason, Released, StopStrings};
