//! Phi-3, Phi-3.5 and Phi-4-mini: Llama with q, k, v in one product, gate and up in another, and LongRoPE.
//!
//! Abdin et al., [Phi-3 Technical Report](https://arxiv.org/abs/2404.14219).

use super::config::{Config, Defaults};
use super::raw::Raw;
use super::rope::{RopeRules, rope};
use crate::Result;

pub(super) fn config(raw: &Raw) -> Result<Config> {
    let mut config = Config::base(
        raw,
        &Defaults {
            vocab_size: 32_064,
            hidden_size: 3072,
            intermediate_size: 8192,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
        },
    )?;
    if !raw.fields.contains_key("pad_token_id") {
        config.pad_token_id = Some(32_000);
    }
    config.fused_projections = true;
    let rules = RopeRules { phi3: true, original: Some(4096), ..RopeRules::LLAMA };
    config.ropes = vec![rope(raw, config.head_dim, config.max_position_embeddings, &rules)?];
    let window = raw.size("sliding_window")?;
    Ok(config.windowed(window))
}
