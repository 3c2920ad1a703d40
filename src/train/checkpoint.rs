//! What a run saves: a PEFT directory of the LoRA, or a whole Hugging Face model directory.

use crate::error::{Error, Result};
use crate::load::{ModelDir, PeftConfig, adapter, atomic, safetensors};
use crate::models::Model;
use candle_core::{DType, Device};
use std::path::Path;

/// What is written.
#[derive(Clone, Debug)]
pub enum Checkpoint {
    /// The LoRA, with this configuration.
    Lora(PeftConfig),
    /// All weights in this dtype, with the other files of the model they came from.
    Full {
        /// Where the configuration and the tokenizer come from.
        source: ModelDir,
        /// What the weights are stored in.
        dtype: DType,
    },
}

impl Checkpoint {
    /// Writes the checkpoint into `dir`, in place of one that is there; a file is whole or is the old one.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written.
    pub fn save(&self, model: &Model, dir: &Path) -> Result<()> {
        match self {
            Checkpoint::Lora(config) => adapter::write(dir, &model.adapter(config)),
            Checkpoint::Full { source, dtype } => {
                std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
                let tensors: Vec<_> = model
                    .named_tensors()
                    .into_iter()
                    // On a GPU there is no room for all of them a second time.
                    .map(|(name, tensor)| {
                        Ok((name, tensor.detach().to_dtype(*dtype)?.to_device(&Device::Cpu)?))
                    })
                    .collect::<Result<_>>()?;
                safetensors::save(&dir.join("model.safetensors"), tensors, &[])?;
                for name in source.companions()? {
                    if let Some(bytes) = source.bytes(&name)? {
                        atomic::write(&dir.join(&name), bytes)?;
                    }
                }
                Ok(())
            }
        }
    }
}
