//! Llama 2 and 3, and models built like them (TinyLlama, SmolLM).
//!
//! ```text
//! x += attention(norm(x))        rotary positions, grouped queries
//! x += mlp(norm(x))              silu(gate) * up
//! ```
//!
//! Touvron et al., [Llama 2](https://arxiv.org/abs/2307.09288).

use super::config::{Config, Defaults};
use super::raw::Raw;
use super::rope::{RopeRules, rope};
use crate::Result;

pub(super) fn config(raw: &Raw) -> Result<Config> {
    let mut config = Config::base(
        raw,
        &Defaults {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
        },
    )?;
    config.qkv_bias = raw.bool("attention_bias")?.unwrap_or(false);
    config.output_bias = config.qkv_bias;
    config.mlp_bias = raw.bool("mlp_bias")?.unwrap_or(false);
    config.ropes = vec![rope(raw, config.head_dim, config.max_position_embeddings, &RopeRules::LLAMA)?];
    Ok(config)
}
