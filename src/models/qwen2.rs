//! Qwen2 and Qwen2.5: Llama with biases on queries, keys and values.
//!
//! Yang et al., [Qwen2 Technical Report](https://arxiv.org/abs/2407.10671).

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
            head_dim: None,
            max_position_embeddings: 32_768,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
        },
    )?;
    config.qkv_bias = true;
    config.ropes = vec![rope(raw, config.head_dim, config.max_position_embeddings, &RopeRules::LLAMA)?];
    qwen_windows(raw, &mut config.layers)?;
    Ok(config)
}
