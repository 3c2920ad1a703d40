//! Candle's own: decoding with candle-transformers' Llama as its example does it (a KV cache, no flash attention),
//! and a training step in plain Candle. The system's allocator.

#[path = "../../../worker/protocol.rs"]
#[allow(dead_code, reason = "other workers use the rest")]
mod protocol;
mod train;

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use protocol::Decoder;
use serde_json::Value;
use std::path::Path;
use train::Trainer;

struct Reader {
    model: Llama,
    config: Config,
    dtype: DType,
    cache: Cache,
}

/// The configuration and the weights of a model directory.
fn open(request: &Value) -> Result<(Config, VarBuilder<'static>)> {
    let text = |field: &str| request[field].as_str().unwrap_or_default();
    let dir = Path::new(text("model"));
    let json = std::fs::read(dir.join("config.json"))?;
    let config: LlamaConfig = serde_json::from_slice(&json).map_err(candle_core::Error::wrap)?;
    let weights = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu)?;
    let weights = VarBuilder::from_tensors(weights, protocol::dtype(text("dtype"))?, &Device::Cpu);
    Ok((config.into_config(false), weights))
}

impl Reader {
    fn new((config, weights): (Config, VarBuilder)) -> Result<Self> {
        let dtype = weights.dtype();
        let model = Llama::load(weights, &config)?;
        let cache = Cache::new(true, dtype, &config, &Device::Cpu)?;
        Ok(Reader { model, config, dtype, cache })
    }
}

impl Decoder for Reader {
    fn vocabulary(&self) -> u32 {
        self.config.vocab_size as u32
    }

    fn reset(&mut self) -> Result<()> {
        self.cache = Cache::new(true, self.dtype, &self.config, &Device::Cpu)?;
        Ok(())
    }

    fn read(&mut self, ids: &[u32], at: usize) -> Result<Tensor> {
        self.model.forward(&Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?, at, &mut self.cache)
    }
}

fn main() -> Result<()> {
    let (mut reader, mut trainer) = (None, None);
    protocol::serve(|request: &Value| match request["job"].as_str() {
        Some("decode") => {
            let new = match reader.take() {
                Some(reader) => reader,
                None => Reader::new(open(request)?)?,
            };
            protocol::decode(request, reader.insert(new))
        }
        Some("train") => {
            let new = match trainer.take() {
                Some(trainer) => trainer,
                None => {
                    let (config, weights) = open(request)?;
                    Trainer::new(config, weights, request)?
                }
            };
            trainer.insert(new).answer(request)
        }
        _ => bail!("wants the job train or decode, got {request}"),
    })
}
