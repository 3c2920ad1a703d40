//! What tells one model from another, without reading all of it.

use candle_core::{DType, Result, Tensor};

use super::Model;
use crate::load::digest::Digest;

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
        let mut digest = Digest::new();
        digest.add(format!("{:?}", self.config));
        for (name, tensor) in self.named_tensors() {
            add(&mut digest, &name, &tensor, SAMPLE)?;
        }
        Ok(digest.hex())
    }

    /// The same of the adapter that is on the model, of all its numbers; none if there is no adapter.
    ///
    /// # Errors
    ///
    /// As [`Model::fingerprint`].
    pub fn adapter_fingerprint(&self) -> Result<Option<String>> {
        let mut digest = Digest::new();
        let mut any = false;
        for (path, linear) in self.linears() {
            if let Some(lora) = linear.lora.as_ref().filter(|lora| lora.enabled) {
                digest.add(path).add(lora.scale.to_le_bytes());
                any = true;
            }
        }
        for (name, var) in self.trainable().iter().filter(|_| any) {
            add(&mut digest, name, var, usize::MAX)?;
        }
        Ok(any.then(|| digest.hex()))
    }
}

fn add(digest: &mut Digest, name: &str, tensor: &Tensor, sample: usize) -> Result<()> {
    digest.add(name).add(format!("{:?}", tensor.dims()));
    let flat = tensor.detach().flatten_all()?;
    let (n, count) = (flat.elem_count(), flat.elem_count().min(sample));
    for at in [0, n - count] {
        let part = flat.narrow(0, at, count)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        digest.add(part.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        if count == n {
            break;
        }
    }
    Ok(())
}
