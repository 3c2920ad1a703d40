//! What a model needs, and how fast it can be on this machine.

use super::gb;
use super::measure::Speed;
use crate::cli::compute::Precision;
use crate::load::ModelDir;
use crate::models::Config;
use candle_core::{DType, Device};
use serde::Serialize;

/// A model's needs.
#[derive(Serialize)]
pub struct ModelFacts {
    model_type: String,
    parameters: usize,
    stored: String,
    computed: String,
    chat_template: bool,
    context: usize,
    weight_bytes: u64,
    cache_bytes_per_token: u64,
    /// Tokens per second that reading the weights allows; what is measured is lower.
    decode_tokens_per_s_at_most: Option<f64>,
    fits: Option<bool>,
}

impl ModelFacts {
    /// Reads what can be known without loading the weights.
    pub fn read(dir: &ModelDir, device: &Device) -> crate::Result<Self> {
        let config = Config::open(dir)?;
        let stored_bytes = dir.weights()?.bytes() as u64;
        dir.tokenizer()?;
        let dtype = Precision::Auto.dtype(config.dtype, device);
        let parameters = config.parameter_count();
        let name = |dtype: DType| format!("{dtype:?}").to_lowercase();
        let heads = 2 * config.num_key_value_heads * config.head_dim * config.layers.len();
        Ok(ModelFacts {
            stored: match config.dtype {
                Some(dtype) => format!("{}, {}", name(dtype), gb(stored_bytes)),
                None => gb(stored_bytes),
            },
            model_type: config.model_type,
            parameters,
            computed: name(dtype),
            chat_template: dir.chat_template()?.is_some(),
            context: config.max_position_embeddings,
            weight_bytes: (parameters * dtype.size_in_bytes()) as u64,
            cache_bytes_per_token: (heads * dtype.size_in_bytes()) as u64,
            decode_tokens_per_s_at_most: None,
            fits: None,
        })
    }

    /// With what the device that computes makes of it, whose memory has so many bytes left.
    pub fn at(mut self, speed: Option<&Speed>, available: Option<u64>) -> Self {
        self.decode_tokens_per_s_at_most =
            speed.map(|speed| speed.read_gb_per_s * 1e9 / self.weight_bytes as f64);
        self.fits = available.map(|bytes| self.weight_bytes < bytes);
        self
    }

    /// The lines that are shown.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let template = if self.chat_template { "chat template" } else { "no chat template" };
        let mut lines = vec![
            (
                "type",
                format!(
                    "{}, {:.3} M parameters, {} tokens of context, {template}",
                    self.model_type,
                    self.parameters as f64 / 1e6,
                    self.context
                ),
            ),
            ("stored", self.stored.clone()),
            (
                "needs",
                format!(
                    "{:.3} GB of weights in {}, {:.1} MB of cache for 1000 tokens{}",
                    self.weight_bytes as f64 / 1e9,
                    self.computed,
                    self.cache_bytes_per_token as f64 / 1e3,
                    if self.fits == Some(false) { ": more than the memory that is available" } else { "" }
                ),
            ),
        ];
        if let Some(rate) = self.decode_tokens_per_s_at_most {
            lines.push((
                "decoding",
                format!("at most {rate:.0} tokens/s, by the speed at which weights are read"),
            ));
        }
        lines
    }
}
