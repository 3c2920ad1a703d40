//! Prompt caches on disk: a safetensors file of the tokens and of every layer's keys and values.
//!
//! Its metadata tell of which model, adapter and type they are, so that no other reads them, and have a checksum.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::View;

use super::prompt_cache::PromptCache;
use crate::load::{Weights, safetensors as files};
use crate::models::Model;
use crate::nn::KvCache;
use crate::{Error, Result};

const KIND: (&str, &str) = ("kind", "metal-candle prompt cache 1");

impl PromptCache<Model> {
    /// Writes the cache, which `model` has filled as it is now, and `notes` of the caller's beside it.
    pub fn save(&self, path: &Path, model: &Model, notes: &[(&str, &str)]) -> Result<()> {
        let Some(cache) = self.cache.as_ref().filter(|_| !self.tokens.is_empty()) else {
            return Err(Error::wants(
                path.display().to_string(),
                "a prompt cache that holds tokens",
                "an empty one",
            ));
        };
        let layers = cache.tensors()?;
        let tokens = Tensor::from_slice(&self.tokens, self.tokens.len(), model.device())?;
        let mut tensors = vec![("tokens".to_string(), tokens)];
        for (i, (k, v)) in layers.into_iter().enumerate() {
            let [keys, values] = names(i);
            tensors.extend([(keys, k.contiguous()?), (values, v.contiguous()?)]);
        }
        let mut metadata = identity(model)?;
        // Which of the model's rotary frequencies the keys were rotated with.
        metadata.push(("regime", cache.regime.to_string()));
        metadata.push(("checksum", checksum(&tensors)));
        let metadata = metadata.iter().map(|(key, value)| (*key, value.as_str()));
        let metadata: Vec<(&str, &str)> = metadata.chain([KIND]).chain(notes.iter().copied()).collect();
        files::save(path, tensors, &metadata)
    }

    /// Reads a cache that was saved for this model, adapter and type, and the notes beside it. Anything else, and a
    /// damaged file, is one error.
    pub fn load(path: &Path, model: &Model) -> Result<(Self, HashMap<String, String>)> {
        let what = path.display().to_string();
        let (weights, notes) = open(path)?;
        for (key, wanted) in identity(model)? {
            let got = notes.get(key).map_or("none", String::as_str);
            if got != wanted {
                let wants = format!("a prompt cache of this {key} ({wanted})");
                return Err(Error::wants(what, wants, format!("one of another ({got})")));
            }
        }
        let (config, device) = (&model.config, model.device());
        let damaged = |got: &str| Error::wants(what.clone(), "a whole prompt cache", got);
        let len = weights
            .shape("tokens")
            .and_then(|dims| dims.first().copied())
            .ok_or(damaged("one without tokens"))?;
        let tokens = weights.get("tokens", len, DType::U32, device)?;
        let mut tensors = vec![("tokens".to_string(), tokens.clone())];
        let shape = (1, len, config.num_key_value_heads, config.head_dim);
        for name in (0..config.layers.len()).flat_map(names) {
            let tensor = weights.get(&name, shape, model.dtype(), device)?;
            tensors.push((name, tensor));
        }
        if notes.get("checksum") != Some(&checksum(&tensors)) {
            return Err(damaged("a damaged one: its checksum is another"));
        }
        let tokens = tokens.to_vec1::<u32>()?;
        let layers = tensors[1..].chunks(2).map(|pair| (pair[0].1.clone(), pair[1].1.clone())).collect();
        let mut cache = KvCache::of_row(layers, tokens.clone())?;
        cache.regime =
            notes.get("regime").and_then(|text| text.parse().ok()).ok_or(damaged("one without regime"))?;
        Ok((PromptCache::of(cache, tokens), notes))
    }
}

/// The notes beside a saved prompt cache, whichever model it is of.
pub fn cache_notes(path: &Path) -> Result<HashMap<String, String>> {
    Ok(open(path)?.1)
}

fn open(path: &Path) -> Result<(Weights, HashMap<String, String>)> {
    let weights = Weights::open_file(path)?;
    let notes = weights.metadata();
    if notes.get(KIND.0).map(String::as_str) != Some(KIND.1) {
        let got = notes.get(KIND.0).map_or("a safetensors file of something else", String::as_str);
        return Err(Error::wants(path.display().to_string(), "a prompt cache", got));
    }
    Ok((weights, notes))
}

/// What must be equal for a cache to be of use, most telling first.
fn identity(model: &Model) -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("dtype", format!("{:?}", model.dtype())),
        ("model", model.fingerprint()?),
        ("adapter", model.adapter_fingerprint()?.unwrap_or_else(|| "none".to_string())),
    ])
}

fn names(layer: usize) -> [String; 2] {
    ["keys", "values"].map(|name| format!("layers.{layer}.{name}"))
}

fn checksum(tensors: &[(String, Tensor)]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    for (name, tensor) in tensors {
        hasher.update(name.as_bytes());
        hasher.update(&tensor.data());
    }
    format!("{:08x}", hasher.finalize())
}
