//! What a model is made of, resolved from `config.json` in the form of transformers 4 (`rope_theta`,
//! `rope_scaling`, `torch_dtype`) or 5 (`rope_parameters`, `dtype`, `layer_types`).
//!
//! Dropout of attention and residuals (`attention_dropout`, `resid_pdrop`) is not applied: the checkpoints of
//! these architectures have none.

use candle_core::DType;
use serde_json::{Map, Value};

use super::raw::Raw;
use super::{gemma3, llama, mistral, phi3, qwen2, qwen3};
use crate::load::ModelDir;
use crate::nn::{Activation, RopeConfig};
use crate::{Error, Result};

/// Reads one architecture's configuration.
type Read = fn(&Raw) -> Result<Config>;

/// Every architecture by its `model_type`.
pub(super) const ARCHITECTURES: &[(&str, Read)] = &[
    ("llama", llama::config),
    ("mistral", mistral::config),
    ("qwen2", qwen2::config),
    ("qwen3", qwen3::config),
    ("gemma3_text", gemma3::config),
    ("gemma3", gemma3::config),
    ("phi3", phi3::config),
];

/// A model's parts and their sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The architecture, as checkpoints name it.
    pub model_type: String,
    /// Token ids the model can read and predict.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The width of the feed-forward blocks.
    pub intermediate_size: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values.
    pub num_key_value_heads: usize,
    /// The size of a head.
    pub head_dim: usize,
    /// The length the model was made for.
    pub max_position_embeddings: usize,
    /// The epsilon of the norms.
    pub rms_norm_eps: f32,
    /// The standard deviation of a new model's weights.
    pub initializer_range: f64,
    /// Whether the embedding is the head, too.
    pub tie_word_embeddings: bool,
    /// The token whose embedding is not trained.
    pub pad_token_id: Option<u32>,
    /// The type the checkpoint says it is stored in.
    pub dtype: Option<DType>,
    /// The function that gates the feed-forward blocks.
    pub activation: Activation,
    /// Whether the projections to queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the projection of the attention's output has a bias.
    pub output_bias: bool,
    /// Whether the projections of the feed-forward blocks have a bias.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalized by head.
    pub qk_norm: bool,
    /// Whether q, k, v and gate, up are one product each (`qkv_proj`, `gate_up_proj`).
    pub fused_projections: bool,
    /// Gemma's norms: `1 + w`, before and after each block; and its embedding, times `sqrt(hidden_size)`.
    pub gemma: bool,
    /// What the products of queries and keys are multiplied by.
    pub attention_scale: f32,
    /// The distinct rotations of the model.
    pub ropes: Vec<RopeConfig>,
    /// The layers, from the first to the last.
    pub layers: Vec<LayerConfig>,
    /// The path of the decoder in the checkpoint: `model`, or where it lies in a multimodal one.
    pub prefix: String,
    json: Map<String, Value>,
}

/// In what one layer differs from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// How many keys a query sees, its own position's included; all before it if there is none.
    pub window: Option<usize>,
    /// Its rotation, by index in [`Config::ropes`].
    pub rope: usize,
}

/// What transformers takes where `config.json` is silent.
pub(super) struct Defaults {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// The number of query heads if none.
    pub num_key_value_heads: Option<usize>,
    /// The hidden size by the number of heads if none.
    pub head_dim: Option<usize>,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub tie_word_embeddings: bool,
}

impl Config {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    ///
    /// When there is no such file, it is no JSON, or it describes a model that is not supported: the error names
    /// the field, what is supported and what is there.
    pub fn open(dir: &ModelDir) -> Result<Self> {
        let what = dir.path.join("config.json").display().to_string();
        match dir.object("config.json")? {
            Some(json) => Self::from_json(&what, json),
            None => Err(Error::wants(dir.path.display().to_string(), "a config.json", "none")),
        }
    }

    /// Resolves the fields of a `config.json`; `what` names it in errors.
    ///
    /// # Errors
    ///
    /// As [`Config::open`].
    pub fn from_json(what: &str, json: Map<String, Value>) -> Result<Self> {
        let raw = Raw { what, fields: &json };
        if let Some(quantization) = raw.get("quantization_config") {
            let method =
                quantization.get("quant_method").and_then(Value::as_str).unwrap_or("of an unnamed method");
            let wants = "weights in f32, f16 or bf16";
            return Err(Error::wants(
                format!("{what}: quantization_config"),
                wants,
                format!("{method} weights"),
            ));
        }
        let model_type = raw.text("model_type")?.unwrap_or_default();
        let Some((_, read)) = ARCHITECTURES.iter().find(|(name, _)| *name == model_type) else {
            let names: Vec<_> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
            return Err(raw.wants("model_type", format!("one of {}", names.join(", "))));
        };
        let mut config = read(&raw)?;
        config.model_type = model_type.to_string();
        config.json = json;
        Ok(config)
    }

    /// The fields as they were read, to be written beside a checkpoint of this model.
    pub fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// The same model, without the fields as they were read: what two forms of a `config.json` have in common.
    pub fn without_json(mut self) -> Self {
        self.json = Map::new();
        self
    }

    /// The parts all architectures share: Llama's, with no biases.
    pub(super) fn base(raw: &Raw, defaults: &Defaults) -> Result<Self> {
        // Bounds that keep a nonsensical file from taking all memory before its weights are looked at.
        let size = |field, default| Ok::<_, Error>(raw.width(field, 1 << 24)?.unwrap_or(default));
        let num_attention_heads = size("num_attention_heads", defaults.num_attention_heads)?;
        let num_key_value_heads =
            size("num_key_value_heads", defaults.num_key_value_heads.unwrap_or(num_attention_heads))?;
        if num_attention_heads % num_key_value_heads != 0 {
            let wants = format!("a divisor of num_attention_heads ({num_attention_heads})");
            return Err(raw.wants("num_key_value_heads", wants));
        }
        let hidden_size = size("hidden_size", defaults.hidden_size)?;
        let head_dim = match raw.width("head_dim", 1 << 16)?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
            None => {
                let wants =
                    format!("a multiple of num_attention_heads ({num_attention_heads}), or a head_dim");
                return Err(raw.wants("hidden_size", wants));
            }
        };
        let layers = raw.width("num_hidden_layers", 4096)?.unwrap_or(defaults.num_hidden_layers);
        Ok(Config {
            model_type: String::new(),
            vocab_size: size("vocab_size", defaults.vocab_size)?,
            hidden_size,
            intermediate_size: size("intermediate_size", defaults.intermediate_size)?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: raw
                .size("max_position_embeddings")?
                .unwrap_or(defaults.max_position_embeddings),
            rms_norm_eps: raw.positive("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps) as f32,
            initializer_range: raw.positive("initializer_range")?.unwrap_or(0.02),
            tie_word_embeddings: raw.bool("tie_word_embeddings")?.unwrap_or(defaults.tie_word_embeddings),
            pad_token_id: pad_token_id(raw, size("vocab_size", defaults.vocab_size)?),
            dtype: dtype(raw)?,
            activation: activation(raw, "hidden_act")?.unwrap_or(Activation::Silu),
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            fused_projections: false,
            gemma: false,
            attention_scale: (head_dim as f32).powf(-0.5),
            ropes: Vec::new(),
            layers: vec![LayerConfig { window: None, rope: 0 }; layers],
            prefix: "model".to_string(),
            json: Map::new(),
        })
    }

    /// Gives every layer the same window.
    pub(super) fn windowed(mut self, window: Option<usize>) -> Self {
        self.layers.iter_mut().for_each(|layer| layer.window = window);
        self
    }
}

/// A negative id counts from the end of the vocabulary, as in PyTorch; one outside it means none.
fn pad_token_id(raw: &Raw, vocab_size: usize) -> Option<u32> {
    let id = raw.get("pad_token_id")?.as_i64()?;
    let id = if id < 0 { id + vocab_size as i64 } else { id };
    u32::try_from(id).ok().filter(|id| (*id as usize) < vocab_size)
}

fn dtype(raw: &Raw) -> Result<Option<DType>> {
    let field = if raw.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    match raw.text(field)?.map(|name| name.trim_start_matches("torch.")) {
        None | Some("auto") => Ok(None),
        Some("float32") => Ok(Some(DType::F32)),
        Some("float16") => Ok(Some(DType::F16)),
        Some("bfloat16") => Ok(Some(DType::BF16)),
        Some(_) => Err(raw.wants(field, "float32, float16 or bfloat16")),
    }
}

/// The activation that `field` names.
pub(super) fn activation(raw: &Raw, field: &str) -> Result<Option<Activation>> {
    match raw.text(field)? {
        None => Ok(None),
        Some("silu" | "swish") => Ok(Some(Activation::Silu)),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Some(Activation::GeluTanh)),
        Some(_) => Err(raw.wants(field, "silu or gelu_pytorch_tanh")),
    }
}

/// Which layers slide, by `layer_types` or, where that is missing, by `slides`.
pub(super) fn sliding(raw: &Raw, count: usize, slides: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
    let Some(types) = raw.texts("layer_types")? else { return Ok((0..count).map(slides).collect()) };
    let wants = format!("{count} of full_attention or sliding_attention");
    if types.len() != count {
        return Err(raw.wants("layer_types", wants));
    }
    let one = |name: &str| match name {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        _ => Err(raw.wants("layer_types", wants.as_str())),
    };
    types.into_iter().map(one).collect()
}

/// Qwen's windows: the layers from `max_window_layers` on slide, if `use_sliding_window` says so.
pub(super) fn qwen_windows(raw: &Raw, layers: &mut [LayerConfig]) -> Result<()> {
    let first = match raw.get("max_window_layers").and_then(Value::as_u64) {
        Some(0) => 0,
        _ => raw.size("max_window_layers")?.unwrap_or(28),
    };
    let window = match (raw.bool("use_sliding_window")?, raw.fields.get("sliding_window")) {
        (Some(true), None) => Some(4096),
        (Some(true), Some(_)) => raw.size("sliding_window")?,
        _ => None,
    };
    let slides = sliding(raw, layers.len(), |i| window.is_some() && i >= first)?;
    for (layer, slides) in layers.iter_mut().zip(slides) {
        layer.window = window.filter(|_| slides);
    }
    Ok(())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
