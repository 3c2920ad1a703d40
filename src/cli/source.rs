//! Where the models and adapters that the flags name come from.

use crate::load::{Adapter, ModelDir, adapter};
use std::path::Path;

/// The model of `--model`.
pub fn model(given: &str) -> anyhow::Result<ModelDir> {
    Ok(ModelDir::resolve(given)?)
}

/// The adapter of `--adapter`.
pub fn adapter(given: &Path) -> anyhow::Result<Adapter> {
    Ok(adapter::read(given)?)
}
