//! Whole jobs: a LoRA training step, and reading a prompt and decoding after it. A process runs one of them, so
//! that its peak memory is the job's.

use super::protocol::{Decoder, decode, dtype, micros, peak_bytes, tokens};
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use metal_candle::load::adapter::PeftConfig;
use metal_candle::models::Model;
use metal_candle::nn::KvCache;
use metal_candle::train::data::Batch;
use metal_candle::train::optim::{AdamW, AdamWConfig};
use metal_candle::train::step::{Gradients, StepOptions, loss_and_gradients};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// The jobs of this process.
#[derive(Default)]
pub struct Jobs {
    trainer: Option<Trainer>,
    reader: Option<Reader>,
}

impl Jobs {
    /// Does a job `count` times and times each.
    pub fn answer(&mut self, request: &Value) -> Result<Value> {
        let dir = Path::new(request["model"].as_str().unwrap_or_default());
        let dtype = dtype(request["dtype"].as_str().unwrap_or_default())?;
        if !matches!(request["variant"].as_str(), Some("ours" | "ours_backward")) {
            bail!("jobs: wants the variant ours, got {}", request["variant"])
        }
        match request["job"].as_str().unwrap_or_default() {
            "train" => {
                let trainer = match self.trainer.take() {
                    Some(trainer) => trainer,
                    None => Trainer::new(dir, dtype, request)?,
                };
                self.trainer.insert(trainer).answer(request)
            }
            "decode" => {
                let reader = match self.reader.take() {
                    Some(reader) => reader,
                    None => Reader::new(dir, dtype)?,
                };
                decode(request, self.reader.insert(reader))
            }
            other => bail!("jobs: wants train or decode, got {other:?}"),
        }
    }
}

struct Reader {
    model: Model,
    cache: KvCache,
}

impl Reader {
    fn new(dir: &Path, dtype: DType) -> Result<Self> {
        let model = Model::from_dir(dir, dtype, &Device::Cpu).map_err(candle_core::Error::wrap)?;
        let cache = model.cache(&[0]);
        Ok(Reader { model, cache })
    }
}

impl Decoder for Reader {
    fn vocabulary(&self) -> u32 {
        self.model.config.vocab_size as u32
    }

    fn reset(&mut self) -> Result<()> {
        self.cache = self.model.cache(&[0]);
        Ok(())
    }

    fn read(&mut self, ids: &[u32], _: usize) -> Result<Tensor> {
        self.model.forward(&Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?, &mut self.cache)
    }
}

struct Trainer {
    model: Model,
    vars: Vec<(String, Var)>,
    optimizer: AdamW,
    batch: Batch,
}

impl Trainer {
    fn new(dir: &Path, dtype: DType, request: &Value) -> Result<Self> {
        let size = |field: &str| request[field].as_u64().unwrap_or(1) as usize;
        let mut model = Model::from_dir(dir, dtype, &Device::Cpu).map_err(candle_core::Error::wrap)?;
        let lora =
            PeftConfig { r: size("rank"), lora_alpha: 2.0 * size("rank") as f64, ..Default::default() };
        model.add_lora(&lora, 0).map_err(candle_core::Error::wrap)?;
        let vars = model.trainable();
        let optimizer = AdamW::new(AdamWConfig::default(), &vars)?;
        let (rows, len) = (size("batch"), size("length"));
        let batch = Batch::full(tokens(1, model.config.vocab_size as u32, rows * len), len);
        Ok(Trainer { model, vars, optimizer, batch })
    }

    fn answer(&mut self, request: &Value) -> Result<Value> {
        let (mut samples, mut losses) = (Vec::new(), Vec::new());
        for _ in 0..request["count"].as_u64().unwrap_or(1) {
            let start = Instant::now();
            losses.push(self.step()?);
            samples.push(micros(start));
        }
        Ok(json!({ "samples_us": samples, "losses": losses, "peak_bytes": peak_bytes() }))
    }

    fn step(&mut self) -> Result<f32> {
        let (mut gradients, options) = (Gradients::default(), StepOptions::default());
        let loss = loss_and_gradients(&self.model, &self.vars, &self.batch, 1.0, options, &mut gradients)
            .map_err(candle_core::Error::wrap)?;
        self.optimizer.step(&self.vars, &gradients, 1e-4, None)?;
        Ok(loss)
    }
}
