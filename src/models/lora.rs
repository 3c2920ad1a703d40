//! Low-rank adapters on a model: choosing the modules, starting, loading, switching them off.

use candle_core::{DType, Tensor, Var};
use fancy_regex::Regex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Model;
use crate::nn::{Linear, Lora};
use crate::{Error, Result};

/// Which modules get a LoRA, as PEFT's `target_modules` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every linear layer but the head.
    AllLinear,
    /// Modules with one of these names, or whose path ends in one: `q_proj`, `self_attn.q_proj`.
    Names(Vec<String>),
    /// Modules whose whole path, `model.layers.0.self_attn.q_proj`, matches.
    Regex(String),
}

/// A LoRA that is to be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraOptions {
    /// The modules.
    pub targets: Targets,
    /// Only in the last so many layers; in all if none.
    pub last_layers: Option<usize>,
    /// The rank.
    pub rank: usize,
    /// What the update is multiplied by: PEFT's `lora_alpha / r`.
    pub scale: f64,
    /// The probability with which an element of a module's input is dropped in training.
    pub dropout: f32,
    /// What A is drawn from.
    pub seed: u64,
}

impl Model {
    /// Adds a LoRA to the chosen modules and returns their paths. A is uniform in `±1/sqrt(in)`, B zero (as
    /// PEFT's default): the model computes what it did. A LoRA that was there is replaced.
    ///
    /// # Errors
    ///
    /// When an option is out of range, or a target names no module of the chosen layers.
    pub fn add_lora(&mut self, options: &LoraOptions) -> Result<Vec<String>> {
        let LoraOptions { rank, scale, dropout, .. } = *options;
        if rank == 0 {
            return Err(Error::wants("LoRA rank", "at least 1", "0"));
        }
        if !scale.is_finite() {
            return Err(Error::wants("LoRA scale", "a finite number", scale.to_string()));
        }
        if !(0. ..1.).contains(&dropout) {
            return Err(Error::wants("LoRA dropout", "at least 0 and below 1", dropout.to_string()));
        }
        let first = options.last_layers.map_or(0, |last| self.layers.len().saturating_sub(last));
        let first = self.linear_index(first);
        let paths: Vec<String> = self.linears().into_iter().skip(first).map(|(path, _)| path).collect();
        let chosen = options.targets.choose(&paths)?;
        let device = self.device.clone();
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        self.unload_lora();
        for (path, linear) in self.linears_mut() {
            if !chosen.contains(&path) {
                continue;
            }
            let (inputs, outputs) = (linear.in_features(), linear.out_features());
            let bound = (inputs as f32).powf(-0.5);
            let a: Vec<f32> = (0..rank * inputs).map(|_| rng.random_range(-bound..bound)).collect();
            let a = Var::from_vec(a, (rank, inputs), &device)?;
            let b = Var::zeros((outputs, rank), DType::F32, &device)?;
            linear.lora = Some(Lora::new(a, b, scale, dropout, &path));
        }
        Ok(chosen)
    }

    /// The A (rank, in) and B (out, rank) of each module that has a LoRA, with the module's path.
    pub fn lora_tensors(&self) -> Vec<(String, Var, Var)> {
        let of = |(path, linear): (String, &Linear)| {
            let lora = linear.lora.as_ref()?;
            Some((path, lora.a.clone(), lora.b.clone()))
        };
        self.linears().into_iter().filter_map(of).collect()
    }

    /// Removes the LoRA.
    pub fn unload_lora(&mut self) {
        self.linears_mut().into_iter().for_each(|(_, linear)| linear.lora = None);
    }

    /// Switches the LoRA on or off: the model with it, or the one it started from.
    pub fn set_lora_enabled(&mut self, enabled: bool) {
        for (_, linear) in self.linears_mut() {
            linear.lora.iter_mut().for_each(|lora| lora.enabled = enabled);
        }
    }

    /// Gives the module at `path` a LoRA of tensors A and B.
    fn set_lora(&mut self, path: &str, a: &Tensor, b: &Tensor, scale: f64) -> Result<()> {
        let device = self.device.clone();
        let variable = |tensor: &Tensor| Var::from_tensor(&tensor.to_device(&device)?.to_dtype(DType::F32)?);
        for (name, linear) in self.linears_mut() {
            if name == path {
                linear.lora = Some(Lora::new(variable(a)?, variable(b)?, scale, 0., path));
            }
        }
        Ok(())
    }

    /// The index among [`Model::linears`] of the first one of a layer.
    fn linear_index(&self, layer: usize) -> usize {
        self.layers[..layer].iter().map(|layer| layer.linears().len()).sum()
    }
}

impl Targets {
    /// The paths that are meant; the error names the target that means none.
    fn choose(&self, paths: &[String]) -> Result<Vec<String>> {
        let is = |path: &str, name: &str| path.strip_suffix(name).is_some_and(|s| s.is_empty() || s.ends_with('.'));
        let wants = || {
            let mut names: Vec<_> = paths.iter().filter_map(|path| path.rsplit('.').next()).collect();
            names.sort_unstable();
            names.dedup();
            format!("linear layers of the model ({})", names.join(", "))
        };
        match self {
            Targets::AllLinear => Ok(paths.to_vec()),
            Targets::Names(names) => {
                let unknown = |name: &&String| name.is_empty() || !paths.iter().any(|path| is(path, name));
                if names.is_empty() || names.iter().any(|name| unknown(&name)) {
                    let got: Vec<_> = names.iter().filter(unknown).map(|name| format!("{name:?}")).collect();
                    let got = if got.is_empty() { "none".to_string() } else { got.join(", ") };
                    return Err(Error::wants("LoRA targets", wants(), got));
                }
                Ok(paths.iter().filter(|path| names.iter().any(|name| is(path, name))).cloned().collect())
            }
            Targets::Regex(pattern) => {
                let bad = |error: fancy_regex::Error| {
                    Error::wants("LoRA targets", "a regular expression", format!("{pattern:?}: {error}"))
                };
                // PEFT matches the whole path.
                let regex = Regex::new(&format!("^(?:{pattern})$")).map_err(bad)?;
                let mut chosen = Vec::new();
                for path in paths {
                    if regex.is_match(path).map_err(bad)? {
                        chosen.push(path.clone());
                    }
                }
                match chosen.is_empty() {
                    true => Err(Error::wants("LoRA targets", wants(), format!("no match of {pattern:?}"))),
                    false => Ok(chosen),
                }
            }
        }
    }
}
