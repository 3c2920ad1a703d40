//! Where the models and adapters that the flags name come from.

use super::precision::Precision;
use crate::load::{Adapter, ModelDir, adapter};
use crate::models::{Config, Model};
use anyhow::Context;
use candle_core::Device;
use std::path::Path;

/// The model of `--model`.
pub fn model(given: &str) -> anyhow::Result<ModelDir> {
    Ok(ModelDir::resolve(given)?)
}

/// The adapter of `--adapter`.
pub fn adapter(given: &Path) -> anyhow::Result<Adapter> {
    Ok(adapter::read(given)?)
}

/// The weights of a model, with an adapter if one is given.
pub fn model_with(
    dir: &ModelDir,
    config: &Config,
    precision: Precision,
    given: Option<&Path>,
) -> anyhow::Result<Model> {
    let mut model = Model::load(config, &dir.weights()?, precision.dtype(config.dtype), &Device::Cpu)?;
    if let Some(path) = given {
        let on = || format!("{} on {}", path.display(), dir.path.display());
        model.load_lora(&adapter(path)?).with_context(on)?;
    }
    Ok(model)
}
