//! Low-rank adapters on a model: choosing the modules, starting, loading, switching them off.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Model;
use crate::load::adapter::{Adapter, LoraPair, PeftConfig, TargetModules};
use crate::nn::{Linear, Lora};
use crate::{Error, Result};

/// An adapter whose tensors are on a model's device, in the types it computes with.
#[derive(Debug, Clone)]
pub struct ReadyAdapter {
    loras: BTreeMap<String, Lora>,
}

impl Model {
    /// Adds a LoRA to the modules that `config` chooses, and returns their paths. A LoRA that was there is
    /// replaced.
    ///
    /// A is uniform in `±1/sqrt(in)` and B zero, as PEFT starts: the model computes what it did. Equal seeds
    /// give equal A.
    ///
    /// # Errors
    ///
    /// When a target names no module of the model, or nothing is chosen.
    pub fn add_lora(&mut self, config: &PeftConfig, seed: u64) -> Result<Vec<String>> {
        let chosen = self.choose(config)?;
        let device = self.device.clone();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        self.detach_adapter();
        for (path, linear) in self.linears_mut() {
            if !chosen.contains(&path) {
                continue;
            }
            let (inputs, outputs, rank) = (linear.in_features(), linear.out_features(), config.rank(&path)?);
            let bound = (inputs as f32).powf(-0.5);
            let a: Vec<f32> = (0..rank * inputs).map(|_| rng.random_range(-bound..bound)).collect();
            let a = Var::from_vec(a, (rank, inputs), &device)?;
            let b = Var::zeros((outputs, rank), DType::F32, &device)?;
            linear.lora = Some(Lora::new(a, b, config.scale(&path)?, config.lora_dropout as f32, &path));
        }
        Ok(chosen)
    }

    /// Puts an adapter that was read from disk on the model, ready to run or to be trained on. One that was
    /// there is replaced.
    ///
    /// # Errors
    ///
    /// As [`Model::prepare_adapter`].
    pub fn load_lora(&mut self, adapter: &Adapter) -> Result<()> {
        let ready = self.prepare_adapter(adapter)?;
        self.attach_adapter(&ready);
        Ok(())
    }

    /// An adapter's tensors as this model computes with them. Several can be held at once and attached in turn:
    /// neither copies a weight of the model.
    ///
    /// # Errors
    ///
    /// When the adapter has modules the model lacks, or of other sizes: all are listed.
    pub fn prepare_adapter(&self, adapter: &Adapter) -> Result<ReadyAdapter> {
        let mut problems = Vec::new();
        let linears = self.linears();
        for (path, pair) in &adapter.tensors {
            let (a, b) = (pair.a.dims(), pair.b.dims());
            match linears.iter().find(|(name, _)| name == path) {
                None => {
                    problems.push(format!("{path}: wants a linear layer of the model, got no such module"))
                }
                Some((_, linear)) => {
                    let (inputs, outputs) = (linear.in_features(), linear.out_features());
                    if a.last() != Some(&inputs) || b.first() != Some(&outputs) {
                        problems.push(format!(
                            "{path}: wants A (r, {inputs}) and B ({outputs}, r), got {a:?} and {b:?}"
                        ));
                    }
                }
            }
        }
        if !problems.is_empty() {
            return Err(Error::Tensors { what: "adapter".to_string(), problems });
        }
        let variable =
            |tensor: &Tensor| Var::from_tensor(&tensor.to_device(&self.device)?.to_dtype(DType::F32)?);
        let dropout = adapter.config.lora_dropout as f32;
        let lora = |(path, pair): (&String, &LoraPair)| {
            let (a, b) = (variable(&pair.a)?, variable(&pair.b)?);
            Ok((path.clone(), Lora::new(a, b, adapter.config.scale(path)?, dropout, path)))
        };
        Ok(ReadyAdapter { loras: adapter.tensors.iter().map(lora).collect::<Result<_>>()? })
    }

    /// Puts an adapter that [`Model::prepare_adapter`] made for this model on it, in place of one that is there.
    pub fn attach_adapter(&mut self, adapter: &ReadyAdapter) {
        for (path, linear) in self.linears_mut() {
            linear.lora = adapter.loras.get(&path).cloned();
        }
    }

    /// The A (rank, in) and B (out, rank) of each module that has a LoRA, with the module's path.
    pub fn lora_tensors(&self) -> Vec<(String, Var, Var)> {
        let of = |(path, linear): (String, &Linear)| {
            let lora = linear.lora.as_ref()?;
            Some((path, lora.a.clone(), lora.b.clone()))
        };
        self.linears().into_iter().filter_map(of).collect()
    }

    /// Takes the adapter off: the model is the one it started from.
    pub fn detach_adapter(&mut self) {
        self.linears_mut().into_iter().for_each(|(_, linear)| linear.lora = None);
    }

    /// Switches the LoRA on or off: the model with it, or the one it started from.
    pub fn set_lora_enabled(&mut self, enabled: bool) {
        for (_, linear) in self.linears_mut() {
            linear.lora.iter_mut().for_each(|lora| lora.enabled = enabled);
        }
    }

    /// The paths that are meant; the error names the target that means none.
    fn choose(&self, config: &PeftConfig) -> Result<Vec<String>> {
        let paths: Vec<String> = self.linears().into_iter().map(|(path, _)| path).collect();
        let mut chosen = Vec::new();
        for path in &paths {
            if config.targets(path)? {
                chosen.push(path.clone());
            }
        }
        let mut unknown = Vec::new();
        if let TargetModules::Names(names) = &config.target_modules {
            for name in names {
                let one = TargetModules::Names(vec![name.clone()]);
                let mut matches = paths.iter().map(|path| one.matches(path));
                if !matches.try_fold(false, |any, matches| Ok::<_, Error>(any | matches?))? {
                    unknown.push(format!("{name:?}"));
                }
            }
        }
        if chosen.is_empty() || !unknown.is_empty() {
            let mut names: Vec<_> = paths.iter().filter_map(|path| path.rsplit('.').next()).collect();
            names.sort_unstable();
            names.dedup();
            let wants = format!("linear layers of the model ({})", names.join(", "));
            let got = if unknown.is_empty() { "a choice of none".to_string() } else { unknown.join(", ") };
            return Err(Error::wants("target_modules", wants, got));
        }
        Ok(chosen)
    }
}
