//! From bytes to tensors and tokens: the files of a Hugging Face model directory and of a PEFT adapter.
//!
//! [`hub`] finds and downloads models and adapters; [`ModelDir`] is where a model's files are: a directory, or a list of files embedded in the binary. Nothing
//! here knows of models or training, and every bad file is an error that names it.

pub mod adapter;
pub mod atomic;
pub mod chat;
pub mod hub;
mod json;
mod model_dir;
pub mod safetensors;
pub mod tokenizer;

pub use adapter::{Adapter, LoraPair, PeftConfig, TargetModules};
pub use chat::ChatTemplate;
pub(crate) use model_dir::is_companion;
pub use model_dir::{GenerationConfig, ModelDir};
pub use safetensors::Weights;
pub use tokenizer::{DecodeStream, Tokenizer};
