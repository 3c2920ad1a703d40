//! Adapters as mlx-lm keeps them: `adapter_config.json` and `adapters.safetensors`.
//!
//! | mlx-lm | shape | PEFT |
//! |---|---|---|
//! | `<module>.lora_a` | (in, r) | `lora_A`, transposed |
//! | `<module>.lora_b` | (r, out) | `lora_B`, transposed |
//! | `<module>.m` | (out) | `lora_magnitude_vector` |
//!
//! There is no alpha: `scale` multiplies the update as it is.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use serde_json::{Map, Value, json};

use super::config::{Fields, positive, probability, strings};
use super::grid::{self, Grid};
use super::{Adapter, CONFIG, LoraPair, PeftConfig};
use crate::load::{Weights, atomic, safetensors};
use crate::{Error, Result};

pub(super) const TENSORS: &str = "adapters.safetensors";

/// Where mlx-lm and transformers keep the decoder of a multimodal model.
const MULTIMODAL: [&str; 2] = ["language_model.model.", "model.language_model."];

/// The ends of a module's tensors.
const LEAVES: [&str; 3] = ["lora_a", "lora_b", "m"];

/// `lora_parameters`, and whether the adapter is a DoRA.
struct Parameters {
    rank: usize,
    scale: f64,
    dropout: f64,
    /// Paths in a block, or in the model.
    keys: Option<Vec<String>>,
    dora: bool,
}

/// An adapter and what is wrong with its tensors, by module.
pub(super) fn collect(
    config_path: &Path,
    map: &Map<String, Value>,
    path: &Path,
) -> Result<(Adapter, Vec<(String, String)>)> {
    let fields = Fields { path: config_path, map };
    let parameters = Parameters::read(&fields)?;
    let weights = Weights::open_file(path)?;
    let mut problems = Vec::new();
    let mut modules: BTreeMap<&str, [Option<&str>; 3]> = BTreeMap::new();
    let leaves = if parameters.dora { &LEAVES[..] } else { &LEAVES[..2] };
    for name in weights.names() {
        let found = name.rsplit_once('.').and_then(|(module, leaf)| {
            let which = leaves.iter().position(|known| *known == leaf)?;
            Some((module, which)).filter(|(module, _)| !module.is_empty())
        });
        match found {
            Some((module, which)) => modules.entry(module).or_default()[which] = Some(name),
            None => problems
                .push((name.to_string(), format!("wants <module>.{}, got this", leaves.join(" or .")))),
        }
    }
    let mut tensors = BTreeMap::new();
    for (module, names) in modules {
        let path = renamed(module, MULTIMODAL);
        if let Some(problem) = parameters.problem(module, &names, &weights) {
            problems.push((path, problem));
            continue;
        }
        let load = |which: usize| names[which].map(|name| weights.load(name, &Device::Cpu)).transpose();
        if let [Some(a), Some(b), magnitude] = [load(0)?, load(1)?, load(2)?] {
            let (a, b) = (a.t()?.contiguous()?, b.t()?.contiguous()?);
            tensors.insert(path, LoraPair { a, b, magnitude });
        }
    }
    if problems.is_empty() && tensors.is_empty() {
        problems.push(("<module>.lora_a".to_string(), "wants such tensors, got none".to_string()));
    }
    let by_path = |keys: &Vec<String>| keys.iter().any(|key| grid::split(key).is_some());
    let (target_modules, layers) =
        grid::choice(tensors.keys(), parameters.keys.as_ref().is_some_and(by_path));
    let config = PeftConfig {
        base_model_name_or_path: fields.get("model", "a string", text)?,
        r: parameters.rank,
        lora_alpha: parameters.scale * parameters.rank as f64,
        lora_dropout: parameters.dropout,
        target_modules,
        layers_to_transform: layers,
        use_dora: parameters.dora,
        ..PeftConfig::default()
    };
    Ok((Adapter { config, tensors, saved: BTreeMap::new() }, problems))
}

/// Writes an adapter in mlx-lm's form, creating the directory if need be; other files in it are left alone.
///
/// `layers` is how many the model has, if that is known: the last few of them are then written as such rather
/// than by path.
///
/// # Errors
///
/// When mlx-lm has no word for the adapter: ranks or scales that differ between modules, modules that were
/// trained whole.
pub fn write(dir: &Path, adapter: &Adapter, layers: Option<usize>) -> Result<()> {
    let config = &adapter.config;
    let what = |key: &str| format!("{}: {key}", dir.display());
    if let Some(name) = adapter.saved.keys().next() {
        let got = format!("{name}, trained whole");
        return Err(Error::wants(what("modules_to_save"), "low-rank updates alone for mlx-lm", got));
    }
    let scales = adapter.tensors.keys().map(|module| config.scale(module)).collect::<Result<Vec<_>>>()?;
    let ranks = adapter.tensors.keys().map(|module| config.rank(module)).collect::<Result<Vec<_>>>()?;
    let (Some(&rank), Some(&scale)) = (ranks.first(), scales.first()) else {
        return Err(Error::wants(dir.display().to_string(), "an adapter with tensors", "none"));
    };
    let modules = || adapter.tensors.keys();
    if let Some((module, other)) = modules().zip(&ranks).find(|(_, other)| **other != rank) {
        let got = format!("{rank} and, of {module}, {other}");
        return Err(Error::wants(what("rank_pattern"), "one rank for mlx-lm", got));
    }
    if let Some((module, other)) = modules().zip(&scales).find(|(_, other)| **other != scale) {
        let got = format!("{scale} and, of {module}, {other}");
        return Err(Error::wants(what("alpha_pattern"), "one scale for mlx-lm", got));
    }

    let (num_layers, keys) = keys(adapter, layers);
    let text = to_json(&json!({
        "fine_tune_type": if config.use_dora { "dora" } else { "lora" },
        "lora_parameters": { "dropout": config.lora_dropout, "keys": keys, "rank": rank, "scale": scale },
        "model": config.base_model_name_or_path,
        "num_layers": num_layers,
    }));
    let mut named = BTreeMap::new();
    for (module, pair) in &adapter.tensors {
        let module = renamed(module, [MULTIMODAL[1], MULTIMODAL[0]]);
        named.insert(format!("{module}.lora_a"), pair.a.t()?.contiguous()?);
        named.insert(format!("{module}.lora_b"), pair.b.t()?.contiguous()?);
        if let Some(magnitude) = &pair.magnitude {
            named.insert(format!("{module}.m"), magnitude.clone());
        }
    }
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let weights = safetensors::stage(&dir.join(TENSORS), named, &[("format", "mlx")])?;
    let path = dir.join(CONFIG);
    let config = atomic::stage(&path, |temporary| std::fs::write(temporary, text).map_err(Error::io(&path)))?;
    weights.commit()?;
    config.commit()
}

/// The layers and names by which mlx-lm puts an update on these modules and no others: names in a block where
/// all layers or the last ones are meant, else paths in the model.
fn keys(adapter: &Adapter, layers: Option<usize>) -> (i64, Vec<String>) {
    if let Some(grid) = Grid::of(adapter.tensors.keys()) {
        let (count, first) = (grid.layers.len(), grid.layers[0]);
        let contiguous = grid.layers[count - 1] + 1 == first + count;
        match layers {
            Some(layers) if contiguous && first + count == layers => {
                return (if first == 0 { -1 } else { count as i64 }, grid.names);
            }
            None if contiguous && first == 0 && adapter.config.layers_to_transform.is_none() => {
                return (-1, grid.names);
            }
            _ => {}
        }
    }
    let path = |module: &String| renamed(module, [MULTIMODAL[1], MULTIMODAL[0]]);
    (-1, adapter.tensors.keys().map(path).collect())
}

impl Parameters {
    fn read(fields: &Fields) -> Result<Self> {
        let kind = fields.get("fine_tune_type", "\"lora\" or \"dora\"", text)?;
        let dora = match kind.as_deref() {
            None | Some("lora") => false,
            Some("dora") => true,
            Some(other) => {
                let wants = "\"lora\" or \"dora\" (whole weights make a model: mlx_lm.fuse)";
                return Err(Error::wants(fields.name("fine_tune_type"), wants, format!("{other:?}")));
            }
        };
        let name = fields.name("lora_parameters");
        let Some(map) = fields.get("lora_parameters", "an object", |v| v.as_object().cloned())? else {
            return Err(Error::wants(name, "rank and scale", "none"));
        };
        let inner = Fields { path: Path::new(&name), map: &map };
        for key in map.keys() {
            if !["alpha", "dropout", "keys", "rank", "scale"].contains(&key.as_str()) {
                return Err(Error::wants(inner.name(key), "a key that mlx-lm has", "this"));
            }
        }
        let needed = |key: &str, wants: &str| Error::wants(inner.name(key), wants, "none");
        let wants = "a rank above 0";
        let rank = inner.get("rank", wants, positive)?.ok_or_else(|| needed("rank", wants))?;
        let wants = "the factor of the update";
        let scale = inner.get("scale", wants, Value::as_f64)?.ok_or_else(|| needed("scale", wants))?;
        // Early versions multiplied by alpha / rank as well; later ones do not read it.
        if let Some(alpha) = inner.get("alpha", "a number", Value::as_f64)?
            && alpha != rank as f64
        {
            let wants = "none, or the rank: versions of mlx-lm differ in what it means";
            return Err(Error::wants(inner.name("alpha"), wants, alpha.to_string()));
        }
        Ok(Parameters {
            rank,
            scale,
            dropout: inner.get("dropout", "a probability", probability)?.unwrap_or(0.0),
            keys: inner.get("keys", "a list of module paths", strings)?,
            dora,
        })
    }

    /// What is wrong with a module's tensors.
    fn problem(&self, module: &str, names: &[Option<&str>; 3], weights: &Weights) -> Option<String> {
        if module.rsplit('.').next() == Some("embed_tokens") {
            return Some("wants a linear layer, got the embedding".to_string());
        }
        let in_block = grid::split(module).map(|(_, _, name)| name);
        let named =
            |keys: &Vec<String>| keys.iter().any(|key| key == module || Some(key.as_str()) == in_block);
        if !self.keys.as_ref().is_none_or(named) {
            return Some("wants a module that lora_parameters: keys names, got this".to_string());
        }
        let rank = self.rank;
        let shapes = names.map(|name| name.and_then(|name| weights.shape(name)));
        match shapes {
            [Some(&[_, r]), Some(&[s, _]), None] if (r, s) == (rank, rank) && !self.dora => return None,
            [Some(&[_, r]), Some(&[s, out]), Some(&[m])] if (r, s, m) == (rank, rank, out) => return None,
            _ => {}
        }
        let magnitude = if self.dora { " and m (out)" } else { "" };
        let got =
            shapes.iter().zip(LEAVES).filter_map(|(shape, leaf)| Some(format!("{leaf} {:?}", (*shape)?)));
        let got: Vec<_> = got.collect();
        Some(format!(
            "wants lora_a (in, {rank}) and lora_b ({rank}, out){magnitude}, got {}",
            got.join(" and ")
        ))
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

fn renamed(module: &str, [from, to]: [&str; 2]) -> String {
    module.strip_prefix(from).map_or_else(|| module.to_string(), |rest| format!("{to}{rest}"))
}

/// Four spaces and sorted keys, as Python's `json.dump(..., indent=4)` of a sorted dictionary.
fn to_json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut writer).expect("strings and numbers are JSON");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests;
