//! LoRA adapters as PEFT keeps them: a directory of `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Tensors are named by the module they adapt: `model.layers.0.self_attn.q_proj`. In the file that is
//! `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` (r, in) and `….lora_B.weight` (out, r).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

pub use config::{PeftConfig, TargetModules};

use super::{Weights, atomic, json, safetensors};
use crate::{Error, Result};

mod config;

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

/// Reads an adapter directory.
///
/// Errors: what the configuration asks for and is not supported, by name; every tensor that is unknown, has
/// no partner or the wrong shape, all in one error.
pub fn read(dir: &Path) -> Result<Adapter> {
    if !dir.is_dir() {
        let got = if dir.exists() { "a file" } else { "no such directory" };
        return Err(Error::wants(dir.display().to_string(), "a PEFT adapter directory", got));
    }
    let path = dir.join(TENSORS);
    if !path.is_file() {
        let got = match () {
            _ if dir.join("adapter_model.bin").is_file() => "only adapter_model.bin",
            _ if dir.join("adapters.safetensors").is_file() => "an mlx-lm adapter (adapters.safetensors)",
            _ => "no such file",
        };
        return Err(Error::wants(dir.display().to_string(), TENSORS, got));
    }
    let config_path = dir.join(CONFIG);
    let config = PeftConfig::from_json(&config_path, &json::read(&config_path, "a PEFT configuration")?)?;
    let weights = Weights::open_file(&path)?;
    let mut problems = Vec::new();
    let mut factors: BTreeMap<&str, [Option<&str>; 2]> = BTreeMap::new();
    for name in weights.names() {
        match factor(name) {
            Some((module, which)) => match &mut factors.entry(module).or_default()[which] {
                Some(other) => {
                    problems.push(format!("{name}: wants one tensor for a factor, got also {other}"))
                }
                none => *none = Some(name),
            },
            None => problems
                .push(format!("{name}: wants {PREFIX}<module>.lora_A.weight or lora_B.weight, got this")),
        }
    }
    let mut tensors = BTreeMap::new();
    for (module, pair) in factors {
        let [Some(a), Some(b)] = pair else {
            let (there, absent) = if pair[0].is_some() { ("A", "B") } else { ("B", "A") };
            problems
                .push(format!("{module}: wants lora_A and lora_B, got lora_{there} without lora_{absent}"));
            continue;
        };
        let shapes = [a, b].map(|name| weights.shape(name).unwrap_or_default().to_vec());
        match shape_problem(&config, module, &shapes)? {
            Some(problem) => problems.push(problem),
            None => {
                let load = |name: &str| weights.load(name, &Device::Cpu);
                tensors.insert(module.to_string(), LoraPair { a: load(a)?, b: load(b)?, magnitude: None });
            }
        }
    }
    if problems.is_empty() && tensors.is_empty() {
        problems.push(format!("wants {PREFIX}<module>.lora_A.weight, got no tensors"));
    }
    if problems.is_empty() {
        return Ok(Adapter { config, tensors, saved: BTreeMap::new() });
    }
    Err(Error::Tensors { what: path.display().to_string(), problems })
}

/// Writes an adapter directory, creating it if need be.
///
/// Both files are complete on disk before either takes its name, so an adapter that was there before is
/// never left half overwritten; other files in the directory are left alone.
pub fn write(dir: &Path, config: &PeftConfig, tensors: &BTreeMap<String, LoraPair>) -> Result<()> {
    let mut problems = Vec::new();
    for (module, pair) in tensors {
        problems.extend(shape_problem(config, module, &[pair.a.dims().to_vec(), pair.b.dims().to_vec()])?);
    }
    if !problems.is_empty() {
        return Err(Error::Tensors { what: dir.join(TENSORS).display().to_string(), problems });
    }
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let named = tensors.iter().flat_map(|(module, pair)| {
        [("A", &pair.a), ("B", &pair.b)]
            .map(|(factor, tensor)| (format!("{PREFIX}{module}.lora_{factor}.weight"), tensor.clone()))
    });
    let weights = safetensors::stage(&dir.join(TENSORS), named, &[])?;
    let path = dir.join(CONFIG);
    let text = config.to_json();
    let config = atomic::stage(&path, |temporary| std::fs::write(temporary, text).map_err(Error::io(&path)))?;
    weights.commit()?;
    config.commit()
}

/// The module and the factor (0 for A, 1 for B) of a tensor's name. Some writers leave the adapter's name,
/// `default`, in it.
fn factor(name: &str) -> Option<(&str, usize)> {
    let name = name.strip_prefix(PREFIX)?.strip_suffix(".weight")?;
    let name = name.strip_suffix(".default").unwrap_or(name);
    let of = |end: &str, which| Some((name.strip_suffix(end)?, which));
    of(".lora_A", 0).or_else(|| of(".lora_B", 1)).filter(|(module, _)| !module.is_empty())
}

fn shape_problem(config: &PeftConfig, module: &str, shapes: &[Vec<usize>; 2]) -> Result<Option<String>> {
    let rank = config.rank(module)?;
    Ok(match (shapes[0].as_slice(), shapes[1].as_slice()) {
        ([r, _], [_, s]) if (*r, *s) == (rank, rank) => None,
        (a, b) => Some(format!("{module}: wants A ({rank}, in) and B (out, {rank}), got {a:?} and {b:?}")),
    })
}

#[cfg(test)]
mod tests;
