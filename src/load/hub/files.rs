//! Which files of a repository are wanted.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::load::json;
use crate::{Error, Result};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const CONFIG: &str = "config.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Weights of adapters: PEFT's, mlx-lm's.
const ADAPTER_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapters.safetensors"];

/// What is beside the weights of a model.
const COMPANIONS: &[&str] = &[
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// What is wanted of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// A model: configurations, tokenizer, chat templates, safetensors.
    Model,
    /// A LoRA adapter, PEFT's or mlx-lm's: its configuration and its safetensors.
    Adapter,
}

impl Files {
    /// The wanted ones of a repository's files: first those beside the weights, then the weights; of sharded
    /// weights the index stands among the first, and [`shards`] has the rest.
    ///
    /// # Errors
    ///
    /// When they would make no model, or no adapter.
    pub(super) fn of(self, what: &str, listed: &[&str]) -> Result<(Vec<String>, Vec<String>)> {
        let has = |name: &str| listed.contains(&name);
        let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let (config, weights): (_, &[&str]) = match self {
            Files::Model => (CONFIG, &[WEIGHTS, INDEX]),
            Files::Adapter => (ADAPTER_CONFIG, &ADAPTER_WEIGHTS),
        };
        if !has(config) {
            let got = match self {
                Files::Model if has(ADAPTER_CONFIG) => "an adapter (adapter_config.json)",
                Files::Adapter if has(CONFIG) => "a model (config.json)",
                _ => "a repository without it",
            };
            return Err(Error::wants(what, format!("{} ({config})", self.name()), got));
        }
        let Some(weights) = weights.iter().find(|name| has(name)) else {
            let other = |name: &&&str| {
                [".bin", ".safetensors", ".gguf", ".pth", ".npz"].iter().any(|end| name.ends_with(end))
            };
            let got: Vec<&str> = listed.iter().filter(other).take(3).copied().collect();
            let got =
                if got.is_empty() { "no weights".to_string() } else { format!("only {}", got.join(", ")) };
            return Err(Error::wants(what, weights.join(" or "), got));
        };
        let beside: Vec<&str> = match self {
            Files::Adapter => vec![ADAPTER_CONFIG],
            Files::Model => {
                let wanted = |name: &str| {
                    let template = name.strip_prefix("additional_chat_templates/");
                    let template = template.and_then(|name| name.strip_suffix(".jinja"));
                    COMPANIONS.contains(&name) || template.is_some_and(plain)
                };
                listed.iter().copied().filter(|name| wanted(name)).collect()
            }
        };
        match *weights {
            INDEX => Ok((owned(&[&beside[..], &[INDEX]].concat()), Vec::new())),
            weights => Ok((owned(&beside), owned(&[weights]))),
        }
    }

    /// The files without which a snapshot is of no use, that are not in it.
    pub(super) fn missing(self, snapshot: &Path) -> Vec<String> {
        let has = |name: &str| snapshot.join(name).is_file();
        let lacking = |name: &str| (!has(name)).then(|| name.to_string());
        match self {
            Files::Adapter => {
                let weights = ADAPTER_WEIGHTS.iter().any(|name| has(name));
                let weights = (!weights).then(|| ADAPTER_WEIGHTS[0].to_string());
                lacking(ADAPTER_CONFIG).into_iter().chain(weights).collect()
            }
            Files::Model => {
                let tokenizer = if has("tokenizer.model") { None } else { lacking("tokenizer.json") };
                let weights = match () {
                    _ if has(WEIGHTS) => Vec::new(),
                    _ if !has(INDEX) => vec![WEIGHTS.to_string()],
                    _ => match shards(snapshot) {
                        Ok(shards) => shards.into_iter().filter(|name| !has(name)).collect(),
                        Err(_) => vec![INDEX.to_string()],
                    },
                };
                lacking(CONFIG).into_iter().chain(tokenizer).chain(weights).collect()
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Files::Model => "a model",
            Files::Adapter => "an adapter",
        }
    }
}

/// The files that the index in `snapshot` names; none if the weights are one file.
pub(super) fn shards(snapshot: &Path) -> Result<Vec<String>> {
    let path = snapshot.join(INDEX);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let index: Value = json::read(&path, "a weight_map from tensor names to files")?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let names: Option<BTreeSet<&str>> =
        map.and_then(|map| map.values().map(|name| name.as_str().filter(|name| plain(name))).collect());
    match names.filter(|names| !names.is_empty()) {
        Some(names) => Ok(names.into_iter().map(str::to_string).collect()),
        None => {
            let wants = "a weight_map from tensor names to files beside it";
            Err(Error::wants(path.display().to_string(), wants, "another"))
        }
    }
}

/// Whether a name is that of a file in the directory itself.
fn plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_needed_files_are_wanted() {
        let listed = [
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model.fp16.safetensors",
            "model.safetensors",
            "pytorch_model.bin",
            "model.gguf",
            "onnx/model.onnx",
            "tokenizer.json",
            "additional_chat_templates/tool_use.jinja",
            "additional_chat_templates/../../x.jinja",
            "original/params.json",
        ];
        let (beside, weights) = Files::Model.of("org/name", &listed).unwrap();
        assert_eq!(beside, ["config.json", "tokenizer.json", "additional_chat_templates/tool_use.jinja"]);
        assert_eq!(weights, ["model.safetensors"]);
        let (beside, weights) =
            Files::Model.of("org/name", &["config.json", INDEX, "model-1.safetensors"]).unwrap();
        assert_eq!((beside.as_slice(), weights.len()), (&["config.json".to_string(), INDEX.into()][..], 0));
        let listed = [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "tokenizer.json",
            "optimizer.pt",
        ];
        let (beside, weights) = Files::Adapter.of("org/name", &listed).unwrap();
        assert_eq!(
            (beside, weights),
            (vec!["adapter_config.json".into()], vec!["adapter_model.safetensors".into()])
        );
    }

    #[test]
    fn what_is_no_model_says_what_it_is() {
        let error = |files: Files, listed: &[&str]| files.of("org/name", listed).unwrap_err().to_string();
        assert_eq!(
            error(Files::Model, &["config.json", "pytorch_model.bin"]),
            "org/name: wants model.safetensors or model.safetensors.index.json, got only pytorch_model.bin"
        );
        assert_eq!(
            error(Files::Model, &["adapter_config.json"]),
            "org/name: wants a model (config.json), got an adapter (adapter_config.json)"
        );
        assert!(error(Files::Adapter, &["config.json"]).ends_with("got a model (config.json)"));
    }

    #[test]
    fn an_index_cannot_lead_out_of_the_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        for bad in
            [r#"{"weight_map": {"w": "../x"}}"#, r#"{"weight_map": {}}"#, r#"{"weight_map": {"w": 1}}"#]
        {
            std::fs::write(dir.path().join(INDEX), bad).unwrap();
            assert!(shards(dir.path()).unwrap_err().to_string().contains("files beside it"), "{bad}");
        }
    }
}
