//! From bytes to tensors and tokens: the files of a Hugging Face model directory and of a PEFT adapter.
//!
//! Nothing here knows of models or training. Every part can be built from a directory or from bytes
//!, and every bad file is one error that names it.

pub mod atomic;
mod json;
pub mod safetensors;

pub use safetensors::Weights;
