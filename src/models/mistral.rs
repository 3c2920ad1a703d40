//! Mistral 7B: Llama with a sliding window.
//!
//! Jiang et al., [Mistral 7B](https://arxiv.org/abs/2310.06825).

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
            intermediate_size: 14_336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(8),
            head_dim: None,
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
        },
    )?;
    config.ropes = vec![rope(raw, config.head_dim, config.max_position_embeddings, &RopeRules::LLAMA)?];
    // A null is "no window" (v0.2 and later); a missing field is the first model's.
    let window =
        if raw.fields.contains_key("sliding_window") { raw.size("sliding_window")? } else { Some(4096) };
    Ok(config.windowed(window))
}
