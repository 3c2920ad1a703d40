//! llama.cpp: decoding with the library that llama-cli and llama-bench are made of. The weights are a GGUF file of the
//! model in the dtype asked for; its cache is f16, as is its default.

#[path = "../../../worker/protocol.rs"]
#[allow(dead_code, reason = "other workers use the rest")]
mod protocol;

use candle_core::{Device, Error, Result, Tensor, bail};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use protocol::Decoder;
use serde_json::Value;
use std::num::NonZeroU32;
use std::path::Path;

struct Reader {
    context: LlamaContext<'static>,
    vocabulary: usize,
    batch: LlamaBatch<'static>,
}

impl Reader {
    fn new(request: &Value) -> Result<Self> {
        let text = |field: &str| request[field].as_str().unwrap_or_default();
        let size = |field: &str| request[field].as_u64().unwrap_or(1) as u32;
        let file = Path::new(text("model")).join(format!("{}.gguf", text("dtype")));
        let threads: i32 = std::env::var("OMP_NUM_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
        // The process ends with them.
        let backend = Box::leak(Box::new(LlamaBackend::init().map_err(Error::wrap)?));
        backend.void_logs();
        let model = LlamaModel::load_from_file(backend, file, &LlamaModelParams::default()).map_err(Error::wrap)?;
        let model: &'static LlamaModel = Box::leak(Box::new(model));
        let length = size("prompt") + size("tokens") + 1;
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(length))
            .with_n_batch(size("prompt"))
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        let context = model.new_context(backend, params).map_err(Error::wrap)?;
        let batch = LlamaBatch::new(size("prompt") as usize, 1);
        Ok(Reader { context, vocabulary: model.n_vocab() as usize, batch })
    }
}

impl Decoder for Reader {
    fn vocabulary(&self) -> u32 {
        self.vocabulary as u32
    }

    fn reset(&mut self) -> Result<()> {
        self.context.clear_kv_cache();
        Ok(())
    }

    fn read(&mut self, ids: &[u32], at: usize) -> Result<Tensor> {
        self.batch.clear();
        for (i, id) in ids.iter().enumerate() {
            let last = i + 1 == ids.len();
            self.batch.add(LlamaToken(*id as i32), (at + i) as i32, &[0], last).map_err(Error::wrap)?;
        }
        self.context.decode(&mut self.batch).map_err(Error::wrap)?;
        let logits = self.context.get_logits_ith(ids.len() as i32 - 1);
        Tensor::from_slice(logits, logits.len(), &Device::Cpu)
    }
}

fn main() -> Result<()> {
    let mut reader = None;
    protocol::serve(|request: &Value| match request["job"].as_str() {
        Some("decode") => {
            let new = match reader.take() {
                Some(reader) => reader,
                None => Reader::new(request)?,
            };
            protocol::decode(request, reader.insert(new))
        }
        _ => bail!("wants the job decode, got {request}"),
    })
}
