//! Where a model's files are: a directory, a snapshot in the Hugging Face cache, or the binary itself.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::hub::{Files, Hub, Repository};
use super::{ChatTemplate, Tokenizer, Weights, json};
use crate::{Error, Result};

/// The files of one model.
#[derive(Clone, Debug)]
pub struct ModelDir {
    /// The directory; for an embedded model a name that stands for it in errors.
    pub path: PathBuf,
    embedded: Option<&'static [(&'static str, &'static [u8])]>,
}

/// What `generation_config.json` asks of sampling; `None` where it is silent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Whether to sample at all; greedy otherwise.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f64>,
    /// Keeps the most probable tokens up to this mass.
    pub top_p: Option<f64>,
    /// Keeps this many tokens; 0 keeps all.
    pub top_k: Option<usize>,
    /// Keeps tokens at least this probable relative to the best.
    pub min_p: Option<f64>,
    /// Divides positive logits of tokens seen before, multiplies negative ones.
    pub repetition_penalty: Option<f64>,
    /// The most tokens to generate.
    pub max_new_tokens: Option<usize>,
    /// The ids that end a generation, from `config.json` if only that has them.
    pub eos_token_id: Vec<u32>,
    /// Texts that end a generation.
    pub stop_strings: Vec<String>,
}

impl ModelDir {
    /// A model given by the user: a directory, or the name (`org/name`) of a model that is already in the
    /// Hugging Face cache, in the revision `main`. Nothing is downloaded: `Hub::fetch` does that.
    pub fn resolve(model: &str) -> Result<Self> {
        match Self::directory(model)? {
            Some(dir) => Ok(dir),
            None => Ok(Self::at(Hub::from_env()?.cached(&Repository::new(model, None, Files::Model)?)?)),
        }
    }

    /// The model in the directory `model`; `None` if there is none, and it could be a name on the hub.
    pub fn directory(model: &str) -> Result<Option<Self>> {
        let path = Path::new(model);
        if path.is_dir() {
            return Ok(Some(Self::at(path)));
        }
        let got = match path.exists() {
            true => "a file",
            false if Repository::is_id(model) => return Ok(None),
            false => "no such directory",
        };
        let wants =
            "a model directory (config.json, tokenizer.json, model.safetensors or its shards), or org/name";
        Err(Error::wants(model, wants, got))
    }

    /// The model in this directory.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        ModelDir { path: path.into(), embedded: None }
    }

    /// A model whose files are in the binary: pairs of a file name and `include_bytes!` of it. Weights are
    /// one `model.safetensors`, read in place.
    pub fn embedded(name: &str, files: &'static [(&'static str, &'static [u8])]) -> Self {
        ModelDir { path: PathBuf::from(name), embedded: Some(files) }
    }

    /// What to call the model: its directory, or `org/name` if that is a snapshot of the hub's cache.
    pub fn name(&self) -> String {
        let part = |up: usize| self.path.ancestors().nth(up)?.file_name()?.to_str();
        let repository = part(2).filter(|_| part(1) == Some("snapshots"));
        match repository.and_then(|name| name.strip_prefix("models--")) {
            Some(name) => name.replace("--", "/"),
            None => self.path.display().to_string(),
        }
    }

    /// The contents of a file; `None` if there is no such file.
    pub fn bytes(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>> {
        if let Some(files) = self.embedded {
            return Ok(files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| Cow::Borrowed(*bytes)));
        }
        let path = self.path.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(path)(error)),
        }
    }

    /// A JSON object; `None` if there is no such file.
    pub fn object(&self, name: &str) -> Result<Option<Map<String, Value>>> {
        let bytes = self.bytes(name)?;
        bytes.map(|bytes| json::parse(&self.path.join(name), &bytes, "a JSON object")).transpose()
    }

    /// `config.json`.
    pub fn config_json(&self) -> Result<Value> {
        match self.object("config.json")? {
            Some(config) => Ok(Value::Object(config)),
            None => Err(Error::wants(self.path.display().to_string(), "a config.json", "none")),
        }
    }

    /// `generation_config.json`, or what `config.json` says if there is none.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let config = self.object("config.json")?.unwrap_or_default();
        let name = "generation_config.json";
        let generation = self.object(name)?;
        let fields = Fields { path: self.path.join(name), map: generation.unwrap_or_default() };
        let mut eos_token_id = fields.token_ids("eos_token_id")?;
        if eos_token_id.is_empty() {
            let config = Fields { path: self.path.join("config.json"), map: config };
            eos_token_id = config.token_ids("eos_token_id")?;
        }
        Ok(GenerationConfig {
            do_sample: fields.get("do_sample", "true or false", Value::as_bool)?,
            temperature: fields.get("temperature", "a number", Value::as_f64)?,
            top_p: fields.get("top_p", "a number", Value::as_f64)?,
            top_k: fields.get("top_k", "a count", as_usize)?,
            min_p: fields.get("min_p", "a number", Value::as_f64)?,
            repetition_penalty: fields.get("repetition_penalty", "a number", Value::as_f64)?,
            max_new_tokens: fields.get("max_new_tokens", "a count", as_usize)?,
            eos_token_id,
            stop_strings: fields
                .get("stop_strings", "a string or a list of them", strings)?
                .unwrap_or_default(),
        })
    }

    /// The names of the files beside the weights that make the model whole: configurations, the tokenizer's files,
    /// chat templates, code, licences.
    pub fn companions(&self) -> Result<Vec<String>> {
        let listed: Vec<String> = match self.embedded {
            Some(files) => files.iter().map(|(name, _)| name.to_string()).collect(),
            None => std::fs::read_dir(&self.path)
                .map_err(Error::io(&self.path))?
                .flatten()
                .filter(|entry| entry.path().is_file())
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect(),
        };
        let mut names: Vec<String> = listed.into_iter().filter(|name| is_companion(name)).collect();
        names.sort();
        Ok(names)
    }

    /// The weights.
    pub fn weights(&self) -> Result<Weights> {
        if self.embedded.is_none() {
            return Weights::open(&self.path);
        }
        match self.bytes("model.safetensors")? {
            Some(bytes) => Weights::from_bytes(&self.path.join("model.safetensors").to_string_lossy(), bytes),
            None => {
                Err(Error::wants(self.path.display().to_string(), "an embedded model.safetensors", "none"))
            }
        }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::load(self)
    }

    /// The chat template, if the model has one.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        ChatTemplate::load(self)
    }
}

/// A JSON object whose fields are read by name, null being absent.
struct Fields {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Fields {
    fn get<T>(&self, key: &str, wants: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                read(value).map(Some).ok_or_else(|| Error::wants(self.name(key), wants, value.to_string()))
            }
        }
    }

    fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        json::token_ids(|| self.name(key), self.map.get(key))
    }

    fn name(&self, key: &str) -> String {
        format!("{}: {key}", self.path.display())
    }
}

/// Whether a file of this name is one of [`ModelDir::companions`].
pub(crate) fn is_companion(name: &str) -> bool {
    let licence = ["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"].iter().any(|start| name.starts_with(start));
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    let kind = ["json", "jinja", "model", "txt", "tiktoken", "py"].contains(&end);
    let other = name.ends_with(".index.json") || name == "adapter_config.json" || name.starts_with('.');
    (licence || kind) && !other
}

fn as_usize(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|value| usize::try_from(value).ok())
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(list) => list.iter().map(|item| item.as_str().map(str::to_string)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_a_directory_or_a_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_str().unwrap();
        assert_eq!(ModelDir::directory(path).unwrap().unwrap().path, root.path());
        assert!(ModelDir::directory("org/name").unwrap().is_none());
        for outside in ["../x", "a/../b", "/no/such", "a/b/c", "", "name", "a/b--c"] {
            let error = ModelDir::directory(outside).unwrap_err().to_string();
            assert!(error.contains("no such directory"), "{outside}: {error}");
        }
    }

    #[test]
    fn generation_config_reads_every_form_of_eos() {
        static FILES: &[(&str, &[u8])] = &[
            ("config.json", br#"{"eos_token_id": 7}"#),
            (
                "generation_config.json",
                br#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": null}"#,
            ),
        ];
        let config = ModelDir::embedded("tiny", FILES).generation_config().unwrap();
        assert_eq!(config.eos_token_id, [7]);
        assert_eq!((config.temperature, config.top_k, config.top_p), (Some(0.6), Some(20), None));

        static LIST: &[(&str, &[u8])] = &[("generation_config.json", br#"{"eos_token_id": [1, 2]}"#)];
        assert_eq!(ModelDir::embedded("tiny", LIST).generation_config().unwrap().eos_token_id, [1, 2]);
        static BAD: &[(&str, &[u8])] = &[("generation_config.json", br#"{"eos_token_id": "x"}"#)];
        let error = ModelDir::embedded("tiny", BAD).generation_config().unwrap_err().to_string();
        assert_eq!(
            error,
            "tiny/generation_config.json: eos_token_id: wants a token id or a list of token ids, got \"x\""
        );
    }
}
