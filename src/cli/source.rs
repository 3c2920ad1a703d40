//! Where the models and adapters that the flags name come from.

use crate::load::{Adapter, ModelDir};
use crate::models::Model;
use std::path::Path;

/// The model of `--model`.
pub fn model(given: &str) -> anyhow::Result<ModelDir> {
    Ok(ModelDir::resolve(given)?)
}

/// The adapter of `--adapter`, for this model.
pub fn adapter(given: &Path, model: &Model) -> anyhow::Result<Adapter> {
    Ok(model.read_adapter(given)?)
}
