//! Decoding with candle-transformers' Llama, as its example does it: the default dtype path, a KV cache, no
//! flash attention, the system's allocator.

#[path = "../../../worker/protocol.rs"]
#[allow(dead_code)]
mod protocol;

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use protocol::Decoder;
use serde_json::Value;
use std::path::Path;

struct Reader {
    model: Llama,
    config: Config,
    dtype: DType,
    cache: Cache,
}

impl Reader {
    fn new(dir: &Path, dtype: DType) -> Result<Self> {
        let json = std::fs::read(dir.join("config.json"))?;
        let config: LlamaConfig = serde_json::from_slice(&json).map_err(candle_core::Error::wrap)?;
        let config = config.into_config(false);
        let weights = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu)?;
        let model = Llama::load(VarBuilder::from_tensors(weights, dtype, &Device::Cpu), &config)?;
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
    let mut reader: Option<Reader> = None;
    protocol::serve(|request: &Value| {
        if request["job"] != "decode" {
            bail!("wants the job decode, got {request}")
        }
        let new = match reader.take() {
            Some(reader) => reader,
            None => {
                let dtype = protocol::dtype(request["dtype"].as_str().unwrap_or_default())?;
                Reader::new(Path::new(request["model"].as_str().unwrap_or_default()), dtype)?
            }
        };
        protocol::decode(request, reader.insert(new))
    })
}
