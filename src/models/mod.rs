//! Decoders of open checkpoints, by `model_type`: llama, mistral, qwen2, qwen3, gemma3, phi3.
//!
//! They are one decoder ([`Model`]); an architecture's file says which parts it is made of and what
//! `config.json` leaves unsaid.

mod build;
mod by_layer;
pub mod compare;
mod config;
mod context;
mod fingerprint;
pub mod fuse;
mod gemma3;
mod layer;
mod llama;
mod lora;
mod mistral;
mod model;
mod phi3;
mod qwen2;
mod qwen3;
mod raw;
#[cfg(feature = "cuda")]
mod replay;
mod rope;
mod weights;

pub use config::{Config, LayerConfig};
pub use context::Context;
pub use layer::Layer;
pub use lora::ReadyAdapter;
pub use model::Model;
