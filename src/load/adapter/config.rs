//! `adapter_config.json`: read strictly, written as PEFT writes it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// A LoRA configuration in PEFT's terms.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftConfig {
    /// The model that was adapted.
    pub base_model_name_or_path: Option<String>,
    /// The rank of modules that `rank_pattern` does not name.
    pub r: usize,
    /// The alpha of modules that `alpha_pattern` does not name.
    pub lora_alpha: f64,
    /// The dropout on x in training.
    pub lora_dropout: f64,
    /// Whether the scale is alpha / √r instead of alpha / r.
    pub use_rslora: bool,
    /// The modules that were chosen for adaptation.
    pub target_modules: TargetModules,
    /// Modules that were not, although `target_modules` has them.
    pub exclude_modules: Option<TargetModules>,
    /// The layers that were chosen, if not all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// The names of the list of layers, such as `layers`; empty means any.
    pub layers_pattern: Vec<String>,
    /// Ranks by pattern; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas by pattern; the first that matches counts.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Whether each update has a magnitude: DoRA.
    pub use_dora: bool,
    /// The ends of the paths of modules that were trained whole.
    pub modules_to_save: Vec<String>,
}

/// A choice of modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// Names; a module is chosen if its path is one of them or ends in `.name`.
    Names(Vec<String>),
    /// A regular expression that must match a module's whole path.
    Regex(String),
    /// Every linear layer but the output head (`"all-linear"`).
    AllLinear,
}

impl Default for PeftConfig {
    fn default() -> Self {
        PeftConfig {
            base_model_name_or_path: None,
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            target_modules: TargetModules::AllLinear,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            use_dora: false,
            modules_to_save: Vec::new(),
        }
    }
}

impl TargetModules {
    /// Whether a linear module of this path is chosen.
    pub fn matches(&self, module: &str) -> Result<bool> {
        let ends = |name: &String| {
            module.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        match self {
            TargetModules::Names(names) => Ok(names.iter().any(ends)),
            TargetModules::Regex(pattern) => {
                is_match("target_modules", &format!(r"\A(?:{pattern})\z"), module)
            }
            TargetModules::AllLinear => Ok(true),
        }
    }

    /// A choice as a user writes it: `all-linear`, or names or one regular expression.
    fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) if text == "all-linear" => Some(TargetModules::AllLinear),
            Value::String(text) => Some(TargetModules::Regex(text.clone())),
            value => strings(value).map(TargetModules::Names),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            TargetModules::Names(names) => json!(sorted(names)),
            TargetModules::Regex(pattern) => json!(pattern),
            TargetModules::AllLinear => json!("all-linear"),
        }
    }
}

impl PeftConfig {
    /// Whether a linear module of this path is to be adapted, as PEFT decides it.
    pub fn targets(&self, module: &str) -> Result<bool> {
        if let Some(exclude) = &self.exclude_modules
            && exclude.matches(module)?
        {
            return Ok(false);
        }
        if self.saves(module) || !self.target_modules.matches(module)? {
            return Ok(false);
        }
        match &self.layers_to_transform {
            // A name given in full, or by an expression, is not filtered by layer.
            Some(layers) if !layers.is_empty() && !self.is_exact(module) => {
                Ok(self.layer(module)?.is_some_and(|layer| layers.contains(&layer)))
            }
            _ => Ok(true),
        }
    }

    /// The rank of a module's update.
    pub fn rank(&self, module: &str) -> Result<usize> {
        Ok(first_match("rank_pattern", &self.rank_pattern, module)?.unwrap_or(self.r))
    }

    /// The factor of a module's update: alpha / r, or alpha / √r with `use_rslora`.
    pub fn scale(&self, module: &str) -> Result<f64> {
        let alpha = first_match("alpha_pattern", &self.alpha_pattern, module)?.unwrap_or(self.lora_alpha);
        let rank = self.rank(module)? as f64;
        Ok(alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }

    /// Whether a module of this path is trained whole, or is a part of one that is, as PEFT decides it.
    pub fn saves(&self, module: &str) -> bool {
        self.modules_to_save.iter().any(|name| is_saved(name, module))
    }

    /// The names of `modules_to_save` that mean none of these modules.
    pub(crate) fn unknown_saved<'a>(&self, modules: impl Iterator<Item = &'a str> + Clone) -> Vec<&str> {
        let unknown = |name: &&String| !modules.clone().any(|module| is_saved(name, module));
        self.modules_to_save.iter().filter(unknown).map(String::as_str).collect()
    }

    fn is_exact(&self, module: &str) -> bool {
        match &self.target_modules {
            TargetModules::Names(names) => names.iter().any(|name| name == module),
            TargetModules::Regex(_) => true,
            TargetModules::AllLinear => false,
        }
    }

    /// The index of the layer a module is in.
    fn layer(&self, module: &str) -> Result<Option<usize>> {
        let patterns: Vec<String> = match self.layers_pattern.as_slice() {
            [] => vec![r"\A.*?\.[^.]*\.(\d+)\.".into()],
            names => names.iter().map(|name| format!(r"(?:\A|\A.*?\.){name}\.(\d+)\.")).collect(),
        };
        for pattern in patterns {
            let found = regex("layers_pattern", &pattern)?.captures(module).ok().flatten();
            if let Some(index) = found.and_then(|found| found.get(1)?.as_str().parse().ok()) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Reads a configuration; `path` names it in errors. What PEFT can do and this crate cannot is refused.
    pub fn from_json(path: &Path, map: &Map<String, Value>) -> Result<Self> {
        let fields = Fields { path, map };
        fields.refuse_unsupported()?;
        let default = PeftConfig::default();
        let names = "module names or a regular expression";
        let config = PeftConfig {
            base_model_name_or_path: fields
                .get("base_model_name_or_path", "a string", |v| Some(v.as_str()?.into()))?,
            r: fields.get("r", "a rank above 0", positive)?.unwrap_or(default.r),
            lora_alpha: fields.get("lora_alpha", "a number", Value::as_f64)?.unwrap_or(default.lora_alpha),
            lora_dropout: fields.get("lora_dropout", "a probability", probability)?.unwrap_or(0.0),
            use_rslora: fields.get("use_rslora", "true or false", Value::as_bool)?.unwrap_or(false),
            target_modules: match fields.get("target_modules", names, TargetModules::from_json)? {
                Some(modules) => modules,
                None => return Err(Error::wants(fields.name("target_modules"), names, "null")),
            },
            exclude_modules: fields.get("exclude_modules", names, TargetModules::from_json)?,
            layers_to_transform: fields.get("layers_to_transform", "a layer or a list of layers", indices)?,
            layers_pattern: fields
                .get("layers_pattern", "a name or a list of names", one_or_more)?
                .unwrap_or_default(),
            rank_pattern: fields.patterns("rank_pattern", "ranks above 0", positive)?,
            alpha_pattern: fields.patterns("alpha_pattern", "numbers", Value::as_f64)?,
            use_dora: fields.get("use_dora", "true or false", Value::as_bool)?.unwrap_or(false),
            modules_to_save: fields.get("modules_to_save", "module names", names_of)?.unwrap_or_default(),
        };
        // A broken pattern is found here rather than at the first module.
        config.scale("model")?;
        config.targets("model")?;
        Ok(config)
    }

    /// The text of `adapter_config.json`: sorted keys, indented by two, as PEFT and its readers expect.
    pub fn to_json(&self) -> String {
        let object = |pairs: Vec<(&String, Value)>| {
            Value::Object(pairs.into_iter().map(|(key, value)| (key.clone(), value)).collect())
        };
        let mut keys = json!({
            "alpha_pattern": object(self.alpha_pattern.iter().map(|(k, v)| (k, number(*v))).collect()),
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "exclude_modules": self.exclude_modules.as_ref().map(TargetModules::to_json),
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layer_replication": null,
            "layers_pattern": if self.layers_pattern.is_empty() { Value::Null } else { json!(self.layers_pattern) },
            "layers_to_transform": self.layers_to_transform,
            "loftq_config": {},
            "lora_alpha": number(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": (!self.modules_to_save.is_empty()).then(|| sorted(&self.modules_to_save)),
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": object(self.rank_pattern.iter().map(|(k, v)| (k, json!(v))).collect()),
            "revision": null,
            "target_modules": self.target_modules.to_json(),
            "task_type": "CAUSAL_LM",
            "use_dora": self.use_dora,
            "use_rslora": self.use_rslora,
        });
        if let (None, Some(keys)) = (&self.exclude_modules, keys.as_object_mut()) {
            // PEFT before 0.14 does not know the key, and refuses what it does not know.
            keys.remove("exclude_modules");
        }
        let keys: BTreeMap<&String, &Value> = keys.as_object().into_iter().flatten().collect();
        serde_json::to_string_pretty(&keys).expect("strings and numbers are JSON")
    }
}

/// PEFT writes sets, in any order; sorted, equal choices are equal files.
fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}

/// The keys that need no support, whatever their value.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// The keys that [`PeftConfig`] or [`Fields::refuse_unsupported`] reads.
const READ: &[&str] = &[
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
];

pub(super) struct Fields<'a> {
    pub path: &'a Path,
    pub map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn refuse_unsupported(&self) -> Result<()> {
        let one_of = |key: &str, accepted: &[Value], wants: &str| match self.map.get(key) {
            Some(value) if !accepted.contains(value) => {
                Err(Error::wants(self.name(key), wants, value.to_string()))
            }
            _ => Ok(()),
        };
        if !self.map.contains_key("peft_type") {
            return Err(Error::wants(self.name("peft_type"), "\"LORA\"", "no such key"));
        }
        one_of("peft_type", &[json!("LORA")], "\"LORA\"")?;
        one_of("bias", &[json!("none"), Value::Null], "\"none\" (trained biases are not supported)")?;
        one_of("task_type", &[json!("CAUSAL_LM"), Value::Null], "\"CAUSAL_LM\"")?;
        // The others (pissa, olora, loftq, corda ...) change the base weights too.
        let initial = [json!(true), json!(false), Value::Null, json!("gaussian"), json!("orthogonal")];
        one_of("init_lora_weights", &initial, "an initialisation that leaves the base model as it is")?;
        for (key, value) in self.map {
            if READ.contains(&key.as_str()) || HARMLESS.contains(&key.as_str()) {
                continue;
            }
            let off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !off {
                let wants = "it off (null, false or empty): it is not supported";
                return Err(Error::wants(self.name(key), wants, value.to_string()));
            }
        }
        Ok(())
    }

    pub fn get<T>(&self, key: &str, wants: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(Error::wants(self.name(key), wants, value.to_string())),
            },
        }
    }

    fn patterns<T>(&self, key: &str, wants: &str, read: fn(&Value) -> Option<T>) -> Result<Vec<(String, T)>> {
        let all = |value: &Value| {
            value.as_object()?.iter().map(|(pattern, value)| Some((pattern.clone(), read(value)?))).collect()
        };
        Ok(self.get(key, &format!("patterns with {wants}"), all)?.unwrap_or_default())
    }

    pub fn name(&self, key: &str) -> String {
        format!("{}: {key}", self.path.display())
    }
}

/// The value of the first pattern that matches the end of a module's path, as PEFT's `get_pattern_key` does.
fn first_match<T: Copy>(key: &str, patterns: &[(String, T)], module: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern == module || is_match(key, &format!(r"\A(.*\.)?({pattern})$"), module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn is_match(key: &str, pattern: &str, module: &str) -> Result<bool> {
    let failed =
        |error: fancy_regex::Error| Error::wants(key, "a regular expression", format!("{pattern}: {error}"));
    regex(key, pattern)?.is_match(module).map_err(failed)
}

fn regex(key: &str, pattern: &str) -> Result<fancy_regex::Regex> {
    fancy_regex::Regex::new(pattern)
        .map_err(|error| Error::wants(key, "a regular expression", format!("{pattern}: {error}")))
}

/// Whether a name of `modules_to_save` means a module or one that it is a part of: any path that ends in the name.
fn is_saved(name: &str, module: &str) -> bool {
    let ancestors = module.match_indices('.').map(|(at, _)| &module[..at]);
    ancestors.chain([module]).any(|path| path.ends_with(name))
}

/// An integer where the value is one: PEFT's alpha is an `int`.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

pub(super) fn positive(value: &Value) -> Option<usize> {
    value.as_u64().filter(|&value| value > 0 && value <= u32::MAX.into()).map(|value| value as usize)
}

pub(super) fn probability(value: &Value) -> Option<f64> {
    value.as_f64().filter(|value| (0.0..1.0).contains(value))
}

pub(super) fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| Some(item.as_str()?.to_string())).collect()
}

/// Names, of which none is empty: an empty one would mean every module.
fn names_of(value: &Value) -> Option<Vec<String>> {
    strings(value).filter(|names| names.iter().all(|name| !name.is_empty()))
}

fn one_or_more(value: &Value) -> Option<Vec<String>> {
    value.as_str().map(|one| vec![one.to_string()]).or_else(|| strings(value))
}

fn indices(value: &Value) -> Option<Vec<usize>> {
    let index = |value: &Value| value.as_u64().map(|value| value as usize);
    match value {
        Value::Array(list) => list.iter().map(index).collect(),
        one => index(one).map(|one| vec![one]),
    }
}
