//! Where the models and adapters that the flags name come from.

use crate::load::adapter::{self, Weighted};
use crate::load::{Adapter, ModelDir};
use crate::models::Model;
use anyhow::ensure;
use std::fmt;
use std::path::{Path, PathBuf};

/// The model of `--model`.
pub fn model(given: &str) -> anyhow::Result<ModelDir> {
    Ok(ModelDir::resolve(given)?)
}

/// The adapter of `--adapter`; for this model, if it is there.
pub fn adapter(given: &Path, model: Option<&Model>) -> anyhow::Result<Adapter> {
    Ok(match model {
        Some(model) => model.read_adapter(given)?,
        None => adapter::read(given)?,
    })
}

/// `--adapter` where several may be given.
#[derive(Clone, Debug, clap::Args)]
pub struct AdapterArgs {
    /// An adapter to put on the model, PEFT's or mlx-lm's; may be repeated: their updates add up
    #[arg(long, alias = "adapter-path", value_name = "DIR")]
    pub adapter: Vec<PathBuf>,
    /// What each adapter's update is multiplied by, in their order [default: 1 each]
    #[arg(long, alias = "weights", value_name = "W,W", value_delimiter = ',', allow_negative_numbers = true)]
    adapter_weights: Vec<f64>,
}

impl AdapterArgs {
    /// The weights, one for each adapter.
    pub fn weights(&self) -> anyhow::Result<Vec<f64>> {
        if self.adapter_weights.is_empty() {
            return Ok(vec![1.0; self.adapter.len()]);
        }
        let (wants, got) = (self.adapter.len(), self.adapter_weights.len());
        ensure!(wants == got, "--adapter-weights: wants one for each --adapter ({wants}), got {got}");
        Ok(self.adapter_weights.clone())
    }

    /// The adapter that they are together; none if none is given.
    pub fn read(&self, model: Option<&Model>) -> anyhow::Result<Option<Adapter>> {
        let weights = self.weights()?;
        if self.adapter.is_empty() {
            return Ok(None);
        }
        let read = |(path, weight): (&PathBuf, f64)| -> anyhow::Result<Weighted> {
            Ok(Weighted { name: path.display().to_string(), adapter: adapter(path, model)?, weight })
        };
        let adapters = self.adapter.iter().zip(weights).map(read).collect::<anyhow::Result<_>>()?;
        Ok(Some(adapter::combine(adapters)?))
    }
}

impl fmt::Display for AdapterArgs {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, path) in self.adapter.iter().enumerate() {
            write!(f, "{}{}", if i > 0 { " and " } else { "" }, path.display())?;
        }
        Ok(())
    }
}
