//! An adapter in its model's weights: a complete Hugging Face directory that needs no adapter.
//!
//! Each weight is merged in f32 and stored in the type it had; everything else is copied bit for bit, into files
//! of the same names. One tensor at a time is in memory, and for the check of the logits one layer.

mod check;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use ::safetensors::tensor::{Dtype, View};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use super::Config;
use super::build::Names;
use super::compare::{Difference, prompts};
use crate::load::atomic::NewDirectory;
use crate::load::safetensors::{self, Weights};
use crate::load::{Adapter, LoraPair, ModelDir};
use crate::{Error, Result};

/// How [`fuse`] writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseOptions {
    /// What all floats are stored in; as they were, if not given.
    pub dtype: Option<DType>,
    /// The largest difference of logits that is allowed; [`Difference::allowed`], if not given.
    pub tolerance: Option<f32>,
    /// Whether a model directory that is there may be replaced.
    pub replace: bool,
}

/// What [`fuse`] made.
#[derive(Clone, Copy, Debug)]
pub struct Fused {
    /// How many weights have an update in them.
    pub merged: usize,
    /// How many weights are the adapter's own (`modules_to_save`).
    pub replaced: usize,
    /// The type of the changed weights; the coarsest, if they differ.
    pub dtype: DType,
    /// The size of all tensors in bytes.
    pub bytes: u64,
    /// How far the logits are from those of the model with the adapter.
    pub difference: Difference,
    /// What of it is allowed.
    pub allowed: f32,
    /// How far the adapter moves the model's logits.
    pub effect: f32,
}

/// A part of the work of [`fuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FuseStage {
    /// Layers run for the logits there should be.
    Reference,
    /// Tensors written.
    Merge,
    /// Layers run for the logits there are.
    Check,
}

/// Merges an adapter into a model and writes the whole of it to the directory `out`, which takes its name only when
/// each weight has been found to have its update, and the logits to be those of the model with the adapter.
///
/// `progress` is told how many of how many parts of a stage are done; an error of it ends the work.
///
/// # Errors
///
/// When the adapter is not of this model; when `out` is there already or cannot be written; when a weight lacks its
/// update or the logits differ by more than is allowed. Nothing is left behind.
pub fn fuse(
    source: &ModelDir,
    adapter: &Adapter,
    out: &Path,
    options: &FuseOptions,
    progress: &mut dyn FnMut(FuseStage, usize, usize) -> Result<()>,
) -> Result<Fused> {
    let (config, weights) = (Config::open(source)?, source.weights()?);
    let prompts = prompts(&config, &source.tokenizer()?)?;
    let marker = options.replace.then_some("config.json");
    let directory = NewDirectory::begin(out, marker, &[&source.path])?;

    let layers = config.layers.len();
    let passes = 2 * layers;
    let mut run = |adapter, first| {
        config.logits_by_layer(&weights, adapter, &prompts, DType::F32, |i| {
            progress(FuseStage::Reference, first + i, passes)
        })
    };
    let wanted = run(Some(adapter), 0)?;
    let effect = Difference::of(&wanted, &run(None, layers)?)?.largest;

    let plan = Plan::new(&config, &weights, adapter, options.dtype)?;
    let bytes = plan
        .write(directory.temporary(), source, &mut |done, total| progress(FuseStage::Merge, done, total))
        .map_err(|error| directory.named(error))?;
    for name in source.companions()? {
        copy(source, directory.temporary(), &name, &plan).map_err(|error| directory.named(error))?;
    }

    let fused = ModelDir::at(directory.temporary());
    let written = fused.weights()?;
    plan.check(&out.display().to_string(), &written)?;
    let got = Config::open(&fused)?
        .logits_by_layer(&written, None, &prompts, DType::F32, |i| progress(FuseStage::Check, i, layers))?;
    let difference = Difference::of(&wanted, &got)?;
    let dtype = plan.coarsest();
    let allowed = options.tolerance.unwrap_or_else(|| difference.allowed(&config, dtype));
    if !difference.within(allowed) {
        let wants = format!(
            "logits within {allowed:.3e} of the model with the adapter ({dtype:?}, largest logit {:.3e})",
            difference.logit
        );
        let got = format!("a difference of {:.3e}; nothing was written", difference.largest);
        return Err(Error::wants(out.display().to_string(), wants, got));
    }
    directory.commit()?;
    let count = |is: fn(&Content) -> bool| plan.contents.values().filter(|content| is(content)).count();
    Ok(Fused {
        merged: count(|content| matches!(content, Content::Merged(..))),
        replaced: count(|content| matches!(content, Content::Saved(_))),
        dtype,
        bytes,
        difference,
        allowed,
        effect,
    })
}

/// What every tensor of the output is made of, by its name in the checkpoint.
struct Plan<'a> {
    weights: &'a Weights,
    contents: BTreeMap<String, Content<'a>>,
    dtype: Option<DType>,
    /// Whether the embedding and the head are no longer one.
    untied: bool,
}

enum Content<'a> {
    /// The tensor of this name.
    Copied(String),
    /// The tensor of this name, with an update and its factor.
    Merged(String, &'a LoraPair, f64),
    /// The adapter's.
    Saved(&'a Tensor),
}

impl<'a> Plan<'a> {
    fn new(
        config: &Config,
        weights: &'a Weights,
        adapter: &'a Adapter,
        dtype: Option<DType>,
    ) -> Result<Self> {
        let names = Names::checked(config, weights)?;
        let mut contents: BTreeMap<String, Content> =
            weights.names().map(|name| (name.to_string(), Content::Copied(name.to_string()))).collect();
        for (module, pair) in &adapter.tensors {
            let name = names.stored(&format!("{module}.weight"));
            let content = Content::Merged(name.clone(), pair, adapter.config.scale(module)?);
            contents.insert(name, content);
        }
        let (embedding, head) = (format!("{}.embed_tokens.weight", config.prefix), "lm_head.weight");
        let untied = config.tie_word_embeddings
            && [embedding.as_str(), head].iter().any(|name| adapter.saved.contains_key(*name));
        if untied {
            // The one of the two that the adapter does not have stays what both were.
            contents.insert(names.stored(head), Content::Copied(names.stored(&embedding)));
        }
        for (name, tensor) in &adapter.saved {
            contents.insert(names.stored(name), Content::Saved(tensor));
        }
        Ok(Plan { weights, contents, dtype, untied })
    }

    /// The type that a tensor is stored in; `None` for one that is no float and stays as it is.
    fn dtype(&self, name: &str) -> Option<DType> {
        let source = match &self.contents[name] {
            Content::Copied(source) | Content::Merged(source, ..) => self.weights.dtype(source)?,
            Content::Saved(tensor) => self.weights.dtype(name).unwrap_or(Tensor::dtype(tensor)),
        };
        let float = matches!(source, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
        float.then(|| self.dtype.unwrap_or(source))
    }

    /// The type with the largest roundoff among those of tensors that changed.
    fn coarsest(&self) -> DType {
        let changed = |(name, content): (&String, &Content)| match content {
            Content::Copied(_) if self.dtype.is_none() => None,
            _ => self.dtype(name),
        };
        let dtypes: Vec<DType> = self.contents.iter().filter_map(changed).collect();
        let coarse = [DType::BF16, DType::F16].into_iter().find(|dtype| dtypes.contains(dtype));
        coarse.unwrap_or(DType::F32)
    }

    /// Writes the weights into files named as they were, and returns the size of all tensors.
    fn write(
        &self,
        dir: &Path,
        source: &ModelDir,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<u64> {
        let mut shards: Vec<(&str, Vec<&str>)> = self.weights.shards();
        let new = self.contents.keys().map(String::as_str).filter(|name| !self.weights.contains(name));
        if let Some((_, last)) = shards.last_mut() {
            last.extend(new);
        }
        let (mut bytes, mut done) = (0, 0);
        let mut weight_map = BTreeMap::new();
        for (file, names) in &shards {
            let list = names.iter().map(|name| self.form(name)).collect::<Result<_>>()?;
            bytes += safetensors::write_each(&dir.join(file), list, |name| {
                progress(done, self.contents.len())?;
                done += 1;
                self.bytes(name)
            })?;
            weight_map.extend(names.iter().map(|name| (*name, *file)));
        }
        if shards.iter().any(|(file, _)| *file != safetensors::WEIGHTS) {
            let old = source.object(safetensors::INDEX)?.unwrap_or_default();
            let mut metadata = old.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
            metadata.insert("total_size".to_string(), json!(bytes));
            if metadata.contains_key("total_parameters") {
                let elements = weight_map.keys().map(|name| self.elements(name)).sum::<usize>();
                metadata.insert("total_parameters".to_string(), json!(elements));
            }
            write_json(
                &dir.join(safetensors::INDEX),
                &json!({ "metadata": metadata, "weight_map": weight_map }),
            )?;
        }
        Ok(bytes)
    }

    /// Changes a `config.json`, and the text model's part of a multimodal one, to what is written.
    fn say_in(&self, config: &mut Map<String, Value>) {
        let dtype = self.dtype.map(|dtype| match dtype {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        });
        for key in ["dtype", "torch_dtype"] {
            if let (Some(dtype), Some(value)) = (dtype, config.get_mut(key)) {
                *value = json!(dtype);
            }
        }
        if self.untied {
            config.insert("tie_word_embeddings".to_string(), json!(false));
        }
        if let Some(text) = config.get_mut("text_config").and_then(Value::as_object_mut) {
            self.say_in(text);
        }
    }

    fn elements(&self, name: &str) -> usize {
        self.form(name).map_or(0, |(_, _, shape)| shape.iter().product())
    }

    /// The name, type and shape of a tensor of the output.
    fn form<'n>(&self, name: &'n str) -> Result<(&'n str, Dtype, Vec<usize>)> {
        let stored = |source: &str| {
            let stored = self.weights.stored(source);
            stored.ok_or_else(|| Error::wants(source, "a tensor of the model", "none"))
        };
        let dtype = self.dtype(name);
        Ok(match (&self.contents[name], dtype) {
            (Content::Copied(source), None) => {
                let stored = stored(source)?;
                (name, stored.dtype, stored.shape.to_vec())
            }
            (Content::Copied(source), Some(dtype)) => {
                (name, Dtype::from(dtype), stored(source)?.shape.to_vec())
            }
            (Content::Merged(source, ..), Some(dtype)) => {
                (name, Dtype::from(dtype), stored(source)?.shape.to_vec())
            }
            (Content::Saved(tensor), Some(dtype)) => (name, Dtype::from(dtype), tensor.dims().to_vec()),
            (_, None) => {
                let got =
                    self.weights.stored(name).map_or("none".to_string(), |stored| stored.dtype.to_string());
                return Err(Error::wants(name, "a weight in f16, bf16 or f32 to be merged into", got));
            }
        })
    }

    /// The bytes of a tensor of the output.
    fn bytes(&self, name: &str) -> Result<Cow<'a, [u8]>> {
        let load = |source: &str| self.weights.load(source, &Device::Cpu);
        let dtype = self.dtype(name);
        let tensor = match &self.contents[name] {
            Content::Copied(source) => match (self.weights.stored(source), dtype) {
                (Some(stored), dtype) if dtype.is_none() || dtype == self.weights.dtype(source) => {
                    return Ok(Cow::Borrowed(stored.bytes));
                }
                _ => load(source)?,
            },
            Content::Merged(source, pair, scale) => pair.merged(&load(source)?, *scale)?,
            Content::Saved(tensor) => (*tensor).clone(),
        };
        let tensor = tensor.to_dtype(dtype.unwrap_or(DType::F32))?;
        Ok(Cow::Owned(View::data(&tensor).into_owned()))
    }
}

/// Copies a file beside the weights; `config.json` is changed where the plan asks for it.
fn copy(source: &ModelDir, to: &Path, name: &str, plan: &Plan) -> Result<()> {
    let path = to.join(name);
    if name == "config.json"
        && (plan.dtype.is_some() || plan.untied)
        && let Some(mut config) = source.object(name)?
    {
        if !config.contains_key("dtype") {
            // Both old and new versions of transformers read this name.
            config.entry("torch_dtype").or_insert(Value::Null);
        }
        plan.say_in(&mut config);
        return write_json(&path, &Value::Object(config));
    }
    let bytes = source.bytes(name)?.unwrap_or_default();
    std::fs::write(&path, bytes)
        .and_then(|()| std::fs::File::open(&path)?.sync_all())
        .map_err(Error::io(&path))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("JSON is JSON") + "\n";
    std::fs::write(path, text).and_then(|()| std::fs::File::open(path)?.sync_all()).map_err(Error::io(path))
}
