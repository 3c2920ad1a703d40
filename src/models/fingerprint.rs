//! What tells one model from another, without reading all of it.

use candle_core::{DType, Result, Tensor};

use super::Model;
use crc32fast::Hasher;

/// Numbers that are read at each end of a weight.
const SAMPLE: usize = 64;

impl Model {
    /// A short text that is equal for equal models: of the configuration, and of the name, shape and first and last
    /// numbers of every weight, as they are computed with. A model that was fine-tuned has another.
    ///
    /// # Errors
    ///
    /// When a weight cannot be read from its device.
    pub fn fingerprint(&self) -> Result<String> {
        let mut digest = Hasher::new();
        digest.update(format!("{:?}", self.config).as_bytes());
        for (name, tensor) in self.named_tensors() {
            add(&mut digest, &name, &tensor, SAMPLE)?;
        }
        Ok(hex(digest))
    }

    /// The same of the adapter that is on the model, of all its numbers; none if there is no adapter.
    ///
    /// # Errors
    ///
    /// As [`Model::fingerprint`].
    pub fn adapter_fingerprint(&self) -> Result<Option<String>> {
        let mut digest = Hasher::new();
        let loras: Vec<_> = self.loras().into_iter().filter(|(_, lora)| lora.enabled).collect();
        for (path, lora) in &loras {
            digest.update(&lora.scale.to_le_bytes());
            for tensor in [Some(&lora.a), Some(&lora.b), lora.magnitude.as_ref()].into_iter().flatten() {
                add(&mut digest, path, tensor, usize::MAX)?;
            }
        }
        Ok((!loras.is_empty()).then(|| hex(digest)))
    }
}

fn add(digest: &mut Hasher, name: &str, tensor: &Tensor, sample: usize) -> Result<()> {
    digest.update(format!("{name} {:?}\n", tensor.dims()).as_bytes());
    let flat = tensor.detach().flatten_all()?;
    let (n, count) = (flat.elem_count(), flat.elem_count().min(sample));
    for at in [0, n - count] {
        let part = flat.narrow(0, at, count)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        part.iter().for_each(|x| digest.update(&x.to_le_bytes()));
        if count == n {
            break;
        }
    }
    Ok(())
}

fn hex(digest: Hasher) -> String {
    format!("{:08x}", digest.finalize())
}
