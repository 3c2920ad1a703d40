//! Text from a model: prefill in chunks, then token after token, streamed as whole characters.
//!
//! [`generate`] answers one prompt, [`generate_batch`] several at once with the same result for each. The model is
//! anything that implements [`CausalLm`]; tokens are chosen by a [`Sampler`]; an answer ends at a stop token, a stop
//! string or a length.

mod conversation;
mod engine;
mod generation;
mod jobs;
mod logits;
mod model;
mod options;
mod prompt_cache;
mod row;
mod sampler;
mod saved_cache;
mod single;
mod speculative;
mod stop;
mod thinking;
mod tools;

pub use conversation::{Conversation, Fitted};
pub use engine::{Request, generate, generate_batch, generate_each};
pub use generation::{Drafted, Event, Generation, StoppedBy};
pub use jobs::{JobDefaults, Jobs, Outcome};
pub use model::{CausalLm, VERIFIED_TOGETHER};
pub use options::GenerateOptions;
pub use prompt_cache::PromptCache;
pub use sampler::{Sampled, Sampler, SamplerConfig, top_logprobs};
pub use saved_cache::cache_notes;
pub use single::{generate_cached, read_prompt};
pub use speculative::{Draft, generate_speculative};
pub use stop::{FinishReason, Released, StopStrings};
pub use thinking::{Piece, Thinking};
pub use tools::{Said, ToolCall, ToolFormat, ToolParser, check_tools, tool_calls};
