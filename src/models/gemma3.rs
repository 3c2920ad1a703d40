//! The text model of Gemma 3: norms on both sides of each block, queries and keys normalized by head, layers
//! with a sliding window between layers without.
//!
//! ```text
//! x += norm(attention(norm(x)))  local layers rotate with their own base
//! x += norm(mlp(norm(x)))        gelu(gate) * up
//! ```
//!
//! Gemma Team, [Gemma 3 Technical Report](https://arxiv.org/abs/2503.19786).

use serde_json::{Map, Value};

use super::config::{Config, Defaults, LayerConfig, activation, sliding};
use super::raw::Raw;
use super::rope::{RopeRules, scaled};
use crate::Result;
use crate::nn::Activation;

pub(super) fn config(raw: &Raw) -> Result<Config> {
    let Some(text) = raw.object("text_config")? else { return text_config(raw) };
    // The multimodal checkpoint: what the text's part does not say stands outside of it.
    let mut fields: Map<String, Value> = text.clone();
    for (name, value) in raw.fields {
        fields.entry(name).or_insert_with(|| value.clone());
    }
    let what = format!("{}: text_config", raw.what);
    let mut config = text_config(&Raw { what: &what, fields: &fields })?;
    config.prefix = "model.language_model".to_string();
    Ok(config)
}

fn text_config(raw: &Raw) -> Result<Config> {
    for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if raw.get(field).is_some() {
            return Err(raw.wants(field, "null: soft caps are Gemma 2's"));
        }
    }
    if raw.bool("use_bidirectional_attention")? == Some(true) {
        return Err(raw.wants("use_bidirectional_attention", "false: a model that generates"));
    }
    let mut config = Config::base(
        raw,
        &Defaults {
            vocab_size: 262_208,
            hidden_size: 2304,
            intermediate_size: 9216,
            num_hidden_layers: 26,
            num_attention_heads: 8,
            num_key_value_heads: Some(4),
            head_dim: Some(256),
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
        },
    )?;
    if !raw.fields.contains_key("pad_token_id") {
        config.pad_token_id = Some(0);
    }
    config.gemma = true;
    config.qk_norm = true;
    config.activation = activation(raw, "hidden_activation")?.unwrap_or(Activation::GeluTanh);
    config.qkv_bias = raw.bool("attention_bias")?.unwrap_or(false);
    config.output_bias = config.qkv_bias;
    config.attention_scale = raw.positive("query_pre_attn_scalar")?.unwrap_or(256.).powf(-0.5) as f32;

    let parameters = raw.object("rope_parameters")?;
    let rope = |kind: &str, scaling: Option<&Map<String, Value>>, theta: f64| {
        let inner = parameters.and_then(|all| all.get(kind)).and_then(Value::as_object);
        let field =
            if inner.is_some() { format!("rope_parameters: {kind}") } else { "rope_scaling".to_string() };
        let (head_dim, max) = (config.head_dim, config.max_position_embeddings);
        scaled(raw, &field, inner.or(scaling), theta, head_dim, max, &RopeRules::LLAMA)
    };
    let global = raw.positive("rope_theta")?.unwrap_or(1_000_000.);
    let local = raw.positive("rope_local_base_freq")?.unwrap_or(10_000.);
    // The stretch of the old form is the global layers' alone.
    config.ropes = vec![
        rope("full_attention", raw.object("rope_scaling")?, global)?,
        rope("sliding_attention", None, local)?,
    ];

    let pattern = raw.size("sliding_window_pattern")?.or(raw.size("_sliding_window_pattern")?).unwrap_or(6);
    let window =
        if raw.fields.contains_key("sliding_window") { raw.size("sliding_window")? } else { Some(4096) };
    let slides = sliding(raw, config.layers.len(), |i| (i + 1) % pattern != 0)?;
    let layer = |slides: bool| LayerConfig { window: window.filter(|_| slides), rope: usize::from(slides) };
    config.layers = slides.into_iter().map(layer).collect();
    Ok(config)
}
