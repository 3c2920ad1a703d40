//! LoRA adapters as PEFT keeps them: a directory of `adapter_config.json` and `adapter_model.safetensors`; and as
//! mlx-lm does ([`mlx`]). What is read is the same either way.
//!
//! Tensors are named by the module they adapt: `model.layers.0.self_attn.q_proj`. In the file that is
//! `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` (r, in) and `….lora_B.weight` (out, r), with
//! DoRA also `….lora_magnitude_vector` (out). A module trained whole has its own names: `base_model.model.lm_head.weight`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

pub use combine::{Weighted, combine};
pub use config::{PeftConfig, TargetModules};

use serde_json::{Map, Value};

use super::{Weights, atomic, json, safetensors};
use crate::{Error, Result};

mod combine;
mod config;
mod grid;
mod merge;
pub mod mlx;
mod same;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// An adapter read from disk.
#[derive(Debug)]
pub struct Adapter {
    /// What `adapter_config.json` says.
    pub config: PeftConfig,
    /// The factors of every adapted module, on the CPU in the type they were saved in.
    pub tensors: BTreeMap<String, LoraPair>,
    /// The weights that were trained whole (`modules_to_save`), by their names in the model's checkpoint.
    pub saved: BTreeMap<String, Tensor>,
}

/// The two factors of a low-rank update: y += scale (x Aᵀ) Bᵀ.
#[derive(Clone, Debug)]
pub struct LoraPair {
    /// A, of shape (r, in).
    pub a: Tensor,
    /// B, of shape (out, r).
    pub b: Tensor,
    /// The norm of each row of the weight, of shape (out): DoRA's.
    pub magnitude: Option<Tensor>,
}

/// The forms that adapters have on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PEFT's.
    Peft,
    /// mlx-lm's.
    Mlx,
}

impl Format {
    /// The name of the file with the tensors.
    pub fn tensors(self) -> &'static str {
        match self {
            Format::Peft => TENSORS,
            Format::Mlx => mlx::TENSORS,
        }
    }
}

/// Reads an adapter: a directory of PEFT or mlx-lm, or a file of tensors with its `adapter_config.json` beside it.
///
/// Errors: what the configuration asks for and is not supported, by name; every tensor that is unknown, missing
/// or of the wrong shape, all in one error.
pub fn read(path: &Path) -> Result<Adapter> {
    read_and(path, |_| Ok(Vec::new()))
}

/// As [`read`]; what `check` finds, by module, is in the same error.
pub(crate) fn read_and(
    path: &Path,
    check: impl FnOnce(&Adapter) -> Result<Vec<(String, String)>>,
) -> Result<Adapter> {
    let (config_path, map, path) = locate(path)?;
    let (adapter, mut problems) = match format(&map) {
        Format::Peft => collect(PeftConfig::from_json(&config_path, &map)?, &Weights::open_file(&path)?)?,
        Format::Mlx => mlx::collect(&config_path, &map, &path)?,
    };
    for (module, problem) in check(&adapter)? {
        // A module whose tensors are broken lacks them too: once is enough.
        if !problems.iter().any(|(known, _)| *known == module) {
            problems.push((module, problem));
        }
    }
    refuse(&path, problems)?;
    Ok(adapter)
}

/// The configuration's path and contents, and the path of the tensors.
fn locate(path: &Path) -> Result<(PathBuf, Map<String, Value>, PathBuf)> {
    let wants = "an adapter directory of PEFT or mlx-lm";
    if !path.exists() {
        return Err(Error::wants(path.display().to_string(), wants, "no such directory"));
    }
    let dir = if path.is_file() { path.parent().unwrap_or(Path::new("")) } else { path };
    let config_path = dir.join(CONFIG);
    if !config_path.is_file() {
        let wants = format!("{CONFIG} with {TENSORS} or {}", mlx::TENSORS);
        return Err(Error::wants(dir.display().to_string(), wants, format!("no {CONFIG}")));
    }
    let map: Map<String, Value> = json::read(&config_path, "an adapter's configuration")?;
    if path.is_file() {
        return Ok((config_path, map, path.to_path_buf()));
    }
    let tensors = dir.join(format(&map).tensors());
    if !tensors.is_file() {
        let other = ["adapter_model.bin", TENSORS, mlx::TENSORS].into_iter().find(|n| dir.join(n).is_file());
        let got = other.map_or("no such file".to_string(), |name| format!("only {name}"));
        return Err(Error::wants(dir.display().to_string(), format(&map).tensors(), got));
    }
    Ok((config_path, map, tensors))
}

/// The form that a configuration is of.
fn format(map: &Map<String, Value>) -> Format {
    let mlx = ["lora_parameters", "fine_tune_type", "num_layers"].iter().any(|key| map.contains_key(*key));
    if mlx && !map.contains_key("peft_type") { Format::Mlx } else { Format::Peft }
}

/// The error of all `problems`, if there are any.
pub(crate) fn refuse(what: &Path, problems: Vec<(String, String)>) -> Result<()> {
    let problems: Vec<_> = problems.into_iter().map(|(name, problem)| format!("{name}: {problem}")).collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::Tensors { what: what.display().to_string(), problems }),
    }
}

/// The tensors of a file by module, and what is wrong with them.
fn collect(config: PeftConfig, weights: &Weights) -> Result<(Adapter, Vec<(String, String)>)> {
    let mut problems = Vec::new();
    let mut modules: BTreeMap<&str, [Option<&str>; 3]> = BTreeMap::new();
    let mut saved: BTreeMap<String, &str> = BTreeMap::new();
    for name in weights.names() {
        let other = match Place::of(name, &config) {
            Some(Place::Factor(module, which)) => modules.entry(module).or_default()[which].replace(name),
            Some(Place::Saved(weight)) => saved.insert(weight, name),
            None => {
                let whole =
                    if config.modules_to_save.is_empty() { "" } else { " or a weight of modules_to_save" };
                let wants = format!("wants {PREFIX}<module>.lora_A.weight or lora_B.weight{whole}, got this");
                problems.push((name.to_string(), wants));
                None
            }
        };
        if let Some(other) = other {
            problems.push((name.to_string(), format!("wants one tensor for its place, got also {other}")));
        }
    }
    let wanted = if config.use_dora { &FACTORS[..] } else { &FACTORS[..2] };
    let mut tensors = BTreeMap::new();
    for (module, names) in modules {
        if names.iter().zip(FACTORS).any(|(name, factor)| name.is_some() != wanted.contains(&factor)) {
            let there = names.iter().zip(FACTORS).filter_map(|(name, factor)| name.map(|_| factor));
            let got = there.collect::<Vec<_>>().join(" and ");
            problems.push((module.to_string(), format!("wants {}, got {got}", wanted.join(" and "))));
            continue;
        }
        let load = |which: usize| names[which].map(|name| weights.load(name, &Device::Cpu)).transpose();
        let shapes = names.map(|name| name.and_then(|name| weights.shape(name)));
        if let Some(problem) = shape_problem(&config, module, shapes, None)? {
            problems.push((module.to_string(), problem));
        } else if let [Some(a), Some(b), magnitude] = [load(0)?, load(1)?, load(2)?] {
            tensors.insert(module.to_string(), LoraPair { a, b, magnitude });
        }
    }
    let load = |(weight, name)| Ok((weight, weights.load(name, &Device::Cpu)?));
    let saved: BTreeMap<_, _> = saved.into_iter().map(load).collect::<Result<_>>()?;
    if problems.is_empty() && tensors.is_empty() && saved.is_empty() {
        problems
            .push((format!("{PREFIX}<module>.lora_A.weight"), "wants such tensors, got none".to_string()));
    }
    Ok((Adapter { config, tensors, saved }, problems))
}

/// Writes an adapter in a form; `layers` is as in [`mlx::write`].
///
/// Errors: as [`write()`] and [`mlx::write`].
pub fn write_as(dir: &Path, adapter: &Adapter, format: Format, layers: Option<usize>) -> Result<()> {
    match format {
        Format::Peft => write(dir, adapter),
        Format::Mlx => mlx::write(dir, adapter, layers),
    }
}

/// Writes a PEFT adapter directory, creating it if need be.
///
/// Both files are complete on disk before either takes its name, so an adapter that was there before is
/// never left half overwritten; other files in the directory are left alone.
///
/// Errors: tensors that do not fit the configuration (all are listed), a directory that cannot be written.
pub fn write(dir: &Path, adapter: &Adapter) -> Result<()> {
    let Adapter { config, tensors, saved } = adapter;
    let mut problems = Vec::new();
    for (module, pair) in tensors {
        let problem = shape_problem(config, module, pair.shapes(), None)?;
        problems.extend(problem.map(|problem| (module.clone(), problem)));
    }
    let unnamed = saved.keys().filter(|weight| !config.saves(module_of(weight)));
    problems
        .extend(unnamed.map(|weight| (weight.clone(), "wants its module in modules_to_save".to_string())));
    refuse(&dir.join(TENSORS), problems)?;
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let factors = tensors.iter().flat_map(|(module, pair)| {
        let tensors = [
            ("lora_A.weight", Some(&pair.a)),
            ("lora_B.weight", Some(&pair.b)),
            (FACTORS[2], pair.magnitude.as_ref()),
        ];
        tensors.map(|(name, tensor)| Some((format!("{PREFIX}{module}.{name}"), tensor?.clone())))
    });
    let whole = saved.iter().map(|(weight, tensor)| (format!("{PREFIX}{weight}"), tensor.clone()));
    let weights = safetensors::stage(&dir.join(TENSORS), factors.flatten().chain(whole), &[])?;
    let path = dir.join(CONFIG);
    let mut config = config.clone();
    if config.layers_to_transform.is_some() && !matches!(config.target_modules, TargetModules::Names(_)) {
        // PEFT takes layers beside names only.
        (config.target_modules, config.layers_to_transform) = grid::choice(tensors.keys(), true);
    }
    let text = config.to_json();
    let config = atomic::stage(&path, |temporary| std::fs::write(temporary, text).map_err(Error::io(&path)))?;
    weights.commit()?;
    config.commit()
}

/// What an adapted module has, the last with DoRA only.
const FACTORS: [&str; 3] = ["lora_A", "lora_B", "lora_magnitude_vector"];

/// Where a tensor of the file belongs.
enum Place<'a> {
    /// A module, and which of [`FACTORS`].
    Factor(&'a str, usize),
    /// A weight that replaces the model's.
    Saved(String),
}

impl<'a> Place<'a> {
    /// The place that a tensor's name gives it. Some writers leave the adapter's name, `default`, in it.
    fn of(name: &'a str, config: &PeftConfig) -> Option<Self> {
        let name = name.strip_prefix(PREFIX)?;
        let (path, end) = name.rsplit_once('.')?;
        let whole = if end == "weight" { path } else { name };
        let stem = whole.strip_suffix(".default").unwrap_or(whole);
        for (which, factor) in FACTORS.into_iter().enumerate() {
            let module = stem.strip_suffix(factor).and_then(|path| path.strip_suffix('.'));
            if let Some(module) = module
                && !module.is_empty()
                && (which == 2 || end == "weight")
            {
                return Some(Place::Factor(module, which));
            }
        }
        let module = path.strip_suffix(".default").unwrap_or(path);
        let module = module.strip_suffix(".modules_to_save").unwrap_or(module);
        let is_weight = matches!(end, "weight" | "bias") && !module.contains("lora_");
        (is_weight && config.saves(module)).then(|| Place::Saved(format!("{module}.{end}")))
    }
}

/// The module of a weight.
pub(crate) fn module_of(weight: &str) -> &str {
    weight.rsplit_once('.').map_or(weight, |(module, _)| module)
}

/// What is wrong with the shapes of a module's A, B and magnitude, for a module of `(in, out)` if that is known.
pub(crate) fn shape_problem(
    config: &PeftConfig,
    module: &str,
    shapes: [Option<&[usize]>; 3],
    size: Option<(usize, usize)>,
) -> Result<Option<String>> {
    let rank = config.rank(module)?;
    if let [Some(&[r, inputs]), Some(&[outputs, s]), magnitude] = shapes
        && (r, s) == (rank, rank)
        && size.is_none_or(|size| size == (inputs, outputs))
        && magnitude.is_none_or(|m| m == [outputs])
        && magnitude.is_some() == config.use_dora
    {
        return Ok(None);
    }
    let (inputs, outputs) = match size {
        Some((inputs, outputs)) => (inputs.to_string(), outputs.to_string()),
        None => ("in".to_string(), "out".to_string()),
    };
    let magnitude = if config.use_dora { format!(" and a magnitude ({outputs})") } else { String::new() };
    let got: Vec<_> = shapes.into_iter().flatten().map(|dims| format!("{dims:?}")).collect();
    let got = got.join(" and ");
    Ok(Some(format!("wants A ({rank}, {inputs}) and B ({outputs}, {rank}){magnitude}, got {got}")))
}

impl LoraPair {
    /// The shapes of A, B and the magnitude.
    pub(crate) fn shapes(&self) -> [Option<&[usize]>; 3] {
        [Some(&self.a), Some(&self.b), self.magnitude.as_ref()].map(|tensor| tensor.map(Tensor::dims))
    }
}

#[cfg(test)]
mod tests;
