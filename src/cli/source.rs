//! Where the models and adapters that the flags name come from: directories, or the Hugging Face hub.

use super::compute::Compute;
use super::download::fetch;
use crate::load::adapter::{self, Weighted};
use crate::load::hub::{Files, Repository};
use crate::load::{Adapter, ModelDir};
use crate::models::{Config, Model};
use anyhow::{Context, ensure};
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// `--model` and its `--revision`.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// The model: a Hugging Face directory, or org/name of the hub
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// The branch, tag or commit of a model of the hub [default: main]
    #[arg(long, value_name = "REV")]
    revision: Option<String>,
}

impl ModelArgs {
    /// The model.
    pub fn resolve(&self) -> anyhow::Result<ModelDir> {
        model(&self.model, self.revision.as_deref())
    }
}

/// The model of `--model`, in the revision of `--revision`.
pub fn model(given: &str, revision: Option<&str>) -> anyhow::Result<ModelDir> {
    if let Some(dir) = ModelDir::directory(given)? {
        ensure!(
            revision.is_none(),
            "--revision: wants a model of the hub (org/name), got the directory {given}"
        );
        return Ok(dir);
    }
    Ok(ModelDir::at(fetch(Repository::new(given, revision, Files::Model)?)?))
}

/// The adapter of `--adapter`; for this model, if it is there.
pub fn adapter(given: &Path, model: Option<&Model>) -> anyhow::Result<Adapter> {
    let path = match given.to_str() {
        Some(id) if !given.exists() && Repository::is_id(id) => {
            Cow::Owned(fetch(Repository::new(id, None, Files::Adapter)?)?)
        }
        _ => Cow::Borrowed(given),
    };
    Ok(match model {
        Some(model) => model.read_adapter(&path)?,
        None => adapter::read(&path)?,
    })
}

/// `--adapter` where several may be given.
#[derive(Clone, Debug, clap::Args)]
pub struct AdapterArgs {
    /// An adapter to put on the model, PEFT's or mlx-lm's: a directory, or org/name of the hub; may be repeated:
    /// their updates add up
    #[arg(long, alias = "adapter-path", value_name = "ADAPTER")]
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

/// The weights of a model, with the adapters that are given.
pub fn model_with(
    dir: &ModelDir,
    config: &Config,
    compute: Compute,
    adapters: &AdapterArgs,
) -> anyhow::Result<Model> {
    let device = compute.device.open()?;
    let mut model =
        Model::load(config, &dir.weights()?, compute.dtype.dtype(config.dtype, &device), &device)?;
    if let Some(adapter) = adapters.read(Some(&model))? {
        let on = || format!("{adapters} on {}", dir.path.display());
        let ready = model.prepare_adapter(&adapter).with_context(on)?;
        model.attach_adapter(&ready);
    }
    Ok(model)
}
