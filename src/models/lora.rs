//! Adapters on a model: choosing the modules, starting, loading, switching them off.
//!
//! An adapter is low-rank updates of linear layers and weights that replace the model's (`modules_to_save`). As in
//! PEFT, a tied embedding and head come apart when an adapter replaces one of them: the other stays as it was.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Model;
use super::weights::variable;
use crate::load::adapter::{self, Adapter, LoraPair, PeftConfig, TargetModules, module_of};
use crate::nn::Lora;
use crate::{Error, Result, ops};

const HEAD: &str = "lm_head.weight";

/// An adapter whose tensors are on a model's device, in the types it computes with.
#[derive(Debug, Clone)]
pub struct ReadyAdapter {
    loras: BTreeMap<String, Lora>,
    saved: BTreeMap<String, Tensor>,
}

impl Model {
    /// Adds a LoRA to the modules that `config` chooses, and returns their paths; the weights of its
    /// `modules_to_save` become f32 variables. An adapter that was there is replaced.
    ///
    /// A is uniform in `±1/sqrt(in)`, B zero and DoRA's magnitude the norm of each row of the weight, as PEFT
    /// starts: the model computes what it did. Equal seeds give equal A.
    ///
    /// # Errors
    ///
    /// When a target or a module to save names no module of the model, or nothing is chosen.
    pub fn add_lora(&mut self, config: &PeftConfig, seed: u64) -> Result<Vec<String>> {
        let chosen = self.choose(config)?;
        self.check_saved_names(config)?;
        let device = self.device.clone();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        self.detach_adapter();
        let mut ready = ReadyAdapter { loras: BTreeMap::new(), saved: BTreeMap::new() };
        for (path, linear) in self.linears() {
            if !chosen.contains(&path) {
                continue;
            }
            let (inputs, outputs, rank) = (linear.in_features(), linear.out_features(), config.rank(&path)?);
            let bound = (inputs as f32).powf(-0.5);
            let a: Vec<f32> = (0..rank * inputs).map(|_| rng.random_range(-bound..bound)).collect();
            let a = Var::from_vec(a, (rank, inputs), &device)?;
            let b = Var::zeros((outputs, rank), DType::F32, &device)?;
            let mut lora = Lora::new(a, b, config.scale(&path)?, config.lora_dropout as f32, &path);
            if config.use_dora {
                let norms = ops::dora_norms(&linear.weight, &lora.a, &lora.b, lora.scale)?;
                lora.magnitude = Some(Var::from_tensor(&norms)?);
            }
            ready.loras.insert(path, lora);
        }
        for (name, weight) in self.saveable() {
            if config.saves(module_of(&name)) {
                ready.saved.insert(name, variable(&weight)?);
            }
        }
        self.attach_adapter(&ready);
        Ok(chosen)
    }

    /// Puts an adapter that was read from disk on the model, ready to be trained on: all of it is f32 variables.
    /// One that was there is replaced.
    ///
    /// # Errors
    ///
    /// As [`Model::prepare_adapter`].
    pub fn load_lora(&mut self, adapter: &Adapter) -> Result<()> {
        let mut ready = self.prepare_adapter(adapter)?;
        for (name, weight) in &adapter.saved {
            ready.saved.insert(name.clone(), variable(&weight.to_device(&self.device)?)?);
        }
        self.attach_adapter(&ready);
        Ok(())
    }

    /// An adapter's tensors as this model computes with them. Several can be held at once and attached in turn:
    /// neither copies a weight of the model.
    ///
    /// # Errors
    ///
    /// When the adapter has tensors the model has no place for, of other sizes, or lacks some that its
    /// configuration promises for this model: all are listed.
    pub fn prepare_adapter(&self, adapter: &Adapter) -> Result<ReadyAdapter> {
        adapter::refuse(Path::new("adapter"), self.misfits(adapter)?)?;
        let variable =
            |tensor: &Tensor| Var::from_tensor(&tensor.to_device(&self.device)?.to_dtype(DType::F32)?);
        let dropout = adapter.config.lora_dropout as f32;
        let lora = |(path, pair): (&String, &LoraPair)| {
            let (a, b) = (variable(&pair.a)?, variable(&pair.b)?);
            let mut lora = Lora::new(a, b, adapter.config.scale(path)?, dropout, path);
            lora.magnitude = pair.magnitude.as_ref().map(variable).transpose()?;
            Ok((path.clone(), lora))
        };
        let weight = |(name, weight): (&String, &Tensor)| {
            Ok((name.clone(), weight.to_device(&self.device)?.to_dtype(self.dtype)?))
        };
        Ok(ReadyAdapter {
            loras: adapter.tensors.iter().map(lora).collect::<Result<_>>()?,
            saved: adapter.saved.iter().map(weight).collect::<Result<_>>()?,
        })
    }

    /// Reads an adapter directory for this model.
    ///
    /// # Errors
    ///
    /// As [`adapter::read`] and [`Model::prepare_adapter`], with all tensors that are wrong in one error.
    pub fn read_adapter(&self, dir: &Path) -> Result<Adapter> {
        adapter::read_and(dir, |adapter| self.misfits(adapter))
    }

    /// Puts an adapter that [`Model::prepare_adapter`] made for this model on it, in place of one that is there.
    pub fn attach_adapter(&mut self, adapter: &ReadyAdapter) {
        self.detach_adapter();
        for (path, linear) in self.linears_mut() {
            linear.lora = adapter.loras.get(&path).cloned();
        }
        self.replaced = adapter.saved.clone();
        self.swap_replaced();
    }

    /// The updates by the paths of their modules.
    pub fn loras(&self) -> Vec<(String, &Lora)> {
        self.linears().into_iter().filter_map(|(path, linear)| Some((path, linear.lora.as_ref()?))).collect()
    }

    /// The adapter that is on the model, to be written with its configuration. Its tensors have no graph.
    pub fn adapter(&self, config: &PeftConfig) -> Adapter {
        let pair = |lora: &Lora| LoraPair {
            a: lora.a.as_detached_tensor(),
            b: lora.b.as_detached_tensor(),
            magnitude: lora.magnitude.as_ref().map(Var::as_detached_tensor),
        };
        let saved = self.named_tensors().into_iter().filter(|(name, _)| config.saves(module_of(name)));
        Adapter {
            config: config.clone(),
            tensors: self.loras().into_iter().map(|(path, lora)| (path, pair(lora))).collect(),
            saved: saved.map(|(name, tensor)| (name, tensor.detach())).collect(),
        }
    }

    /// Takes the adapter off: the model is the one it started from.
    pub fn detach_adapter(&mut self) {
        self.set_lora_enabled(true);
        self.swap_replaced();
        self.replaced.clear();
        self.linears_mut().into_iter().for_each(|(_, linear)| linear.lora = None);
    }

    /// Switches the adapter on or off: the model with it, or the one it started from.
    pub fn set_lora_enabled(&mut self, enabled: bool) {
        if self.adapter_off == enabled {
            self.adapter_off = !enabled;
            self.swap_replaced();
        }
        for (_, linear) in self.linears_mut() {
            linear.lora.iter_mut().for_each(|lora| lora.enabled = enabled);
        }
    }

    /// Whether an adapter that is on the model replaces weights of it.
    pub fn has_replaced_weights(&self) -> bool {
        !self.replaced.is_empty()
    }

    /// Exchanges the adapter's weights and the model's own.
    fn swap_replaced(&mut self) {
        let table = format!("{}.embed_tokens.weight", self.config.prefix);
        let apart = self.replaced.contains_key(HEAD) || self.replaced.contains_key(&table);
        if apart && self.lm_head.is_none() {
            self.lm_head = Some(self.embed_tokens.weight.clone());
        }
        let new = std::mem::take(&mut self.replaced);
        self.replaced = self.exchange(new);
        let head = self.lm_head.as_ref().map(Tensor::id);
        if self.config.tie_word_embeddings && head == Some(self.embed_tokens.weight.id()) {
            self.lm_head = None;
        }
    }

    /// The weights that an adapter can replace. A tied head is one.
    fn saveable(&self) -> Vec<(String, Tensor)> {
        let mut weights = self.named_tensors();
        if self.lm_head.is_none() {
            weights.push((HEAD.to_string(), self.head().clone()));
        }
        weights
    }

    /// What of an adapter does not fit the model, by module or weight.
    fn misfits(&self, adapter: &Adapter) -> Result<Vec<(String, String)>> {
        let Adapter { config, tensors, saved } = adapter;
        let mut problems = Vec::new();
        let mut problem = |name: &str, problem: String| problems.push((name.to_string(), problem));
        let linears: BTreeMap<_, _> = self.linears().into_iter().collect();
        for (path, pair) in tensors {
            let Some(linear) = linears.get(path) else {
                problem(path, "wants a linear layer of the model, got no such module".into());
                continue;
            };
            let size = (linear.in_features(), linear.out_features());
            if let Some(shapes) = adapter::shape_problem(config, path, pair.shapes(), Some(size))? {
                problem(path, shapes);
            } else if !config.targets(path)? {
                problem(path, "wants a module of target_modules, got one that it leaves out".into());
            }
        }
        for path in linears.keys() {
            if !tensors.contains_key(path) && config.targets(path)? {
                problem(path, "wants lora_A and lora_B, being in target_modules, got none".into());
            }
        }
        let weights: BTreeMap<_, _> = self.saveable().into_iter().collect();
        for (name, tensor) in saved {
            match weights.get(name) {
                None => problem(name, "wants a weight of the model, got no such weight".into()),
                Some(weight) if weight.dims() != tensor.dims() => {
                    problem(name, format!("wants shape {:?}, got {:?}", weight.dims(), tensor.dims()))
                }
                Some(_) => {}
            }
        }
        for name in weights.keys() {
            if !saved.contains_key(name) && config.saves(module_of(name)) {
                problem(name, "wants a weight, being in modules_to_save, got none".into());
            }
        }
        Ok(problems)
    }

    /// Every module to save must be one of the model.
    fn check_saved_names(&self, config: &PeftConfig) -> Result<()> {
        let weights = self.saveable();
        let unknown = config.unknown_saved(weights.iter().map(|(name, _)| module_of(name)));
        if unknown.is_empty() {
            return Ok(());
        }
        let mut names: Vec<_> =
            weights.iter().filter_map(|(name, _)| module_of(name).rsplit('.').next()).collect();
        names.sort_unstable();
        names.dedup();
        let wants = format!("modules of the model ({})", names.join(", "));
        Err(Error::wants("modules_to_save", wants, unknown.join(", ")))
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
