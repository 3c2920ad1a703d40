//! Qwen3: Llama with a norm on each head of queries and keys.
//!
//! Yang et al., [Qwen3 Technical Report](https://arxiv.org/abs/2505.09388).

use super::config::{Config, Defaults, qwen_windows};
use super::raw::Raw;
use super::rope::{RopeRules, rope};
use crate::Result;

pub(super) fn config(raw: &Raw) -> Result<Config> {
    let mut config = Config::base(
        raw,
        &Defaults {
            vocab_size: 151_936,
            hidden_size: 4096,
            intermediate_size: 22_016,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(32),
            head_dim: Some(128),
            max_position_embeddings: 32_768,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
        },
    )?;
    config.qk_norm = true;
    config.qkv_bias = raw.bool("attention_bias")?.unwrap_or(false);
    config.output_bias = config.qkv_bias;
    config.ropes = vec![rope(raw, config.head_dim, config.max_position_embeddings, &RopeRules::LLAMA)?];
    qwen_windows(raw, &mut config.layers)?;
    Ok(config)
}
