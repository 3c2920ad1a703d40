//! Safetensors: the weights of a model directory, memory-mapped, and the writer of adapters and checkpoints.
//!
//! A directory holds `model.safetensors`, or `model.safetensors.index.json` with the shards it names.
//! Opening reads headers only; [`Weights::get`] copies one tensor out of the map.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Component, Path};

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Shape, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use serde::Deserialize;

use super::{atomic, json};
use crate::{Error, Result};

mod stream;

pub(crate) use stream::write_each;

pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint by name, in one file, in shards, or in memory.
pub struct Weights {
    /// The directory or file, for errors.
    what: String,
    files: Vec<Bytes>,
    file_names: Vec<String>,
    tensors: BTreeMap<String, Entry>,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Memory(Cow<'static, [u8]>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Memory(bytes) => bytes,
        }
    }
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where its bytes lie in the file.
    range: (usize, usize),
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens the weights of a model directory.
    ///
    /// Errors: no safetensors weights in it (what there is instead is named), a missing or corrupt shard,
    /// a shard outside the directory, tensors that the index promises and the shards lack (all listed).
    pub fn open(dir: &Path) -> Result<Self> {
        let (single, index) = (dir.join(WEIGHTS), dir.join(INDEX));
        if single.is_file() {
            return Self::open_file(&single);
        }
        if !index.is_file() {
            return Err(no_weights(dir));
        }
        let index_map: Index = json::read(&index, "a weight_map from tensor names to files")?;
        let shards: BTreeSet<&String> = index_map.weight_map.values().collect();
        let what = dir.display().to_string();
        let (files, file_names, tensors) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut weights = Weights { what, files, file_names, tensors };
        let mut found: BTreeMap<&str, BTreeMap<String, Entry>> = BTreeMap::new();
        for shard in shards {
            if !Path::new(shard).components().all(|part| matches!(part, Component::Normal(_))) {
                let what = index.display().to_string();
                return Err(Error::wants(what, "shards inside the model directory", format!("{shard:?}")));
            }
            let path = dir.join(shard);
            let bytes = map(&path)?;
            found.insert(shard, header(&path.display().to_string(), bytes.as_slice(), weights.files.len())?);
            weights.files.push(bytes);
            weights.file_names.push(shard.clone());
        }
        let mut problems = Vec::new();
        for (name, shard) in &index_map.weight_map {
            match found.get_mut(shard.as_str()).and_then(|shard| shard.remove(name)) {
                Some(entry) => drop(weights.tensors.insert(name.clone(), entry)),
                None => problems.push(format!("{name}: wants a tensor in {shard}, got none")),
            }
        }
        if problems.is_empty() { Ok(weights) } else { Err(Error::Tensors { what: weights.what, problems }) }
    }

    /// Opens one safetensors file.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::from_part(path.display().to_string(), map(path)?)
    }

    /// Reads a safetensors file that is already in memory; `what` names it in errors.
    pub fn from_bytes(what: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Self::from_part(what.to_string(), Bytes::Memory(bytes.into()))
    }

    fn from_part(what: String, bytes: Bytes) -> Result<Self> {
        let tensors = header(&what, bytes.as_slice(), 0)?;
        let name = Path::new(&what).file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Weights { file_names: vec![name.unwrap_or_default()], what, files: vec![bytes], tensors })
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The dimensions of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The type a tensor is stored in; `None` if it is absent or of a type Candle lacks.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        DType::try_from(self.tensors.get(name)?.dtype).ok()
    }

    /// The texts that a file has beside its tensors, by name; those of the first file if there are several.
    pub fn metadata(&self) -> HashMap<String, String> {
        let header = self.files.first().and_then(|file| SafeTensors::read_metadata(file.as_slice()).ok());
        header.and_then(|(_, header)| header.metadata().clone()).unwrap_or_default()
    }

    /// The size of all tensors together, in bytes, as stored.
    pub fn bytes(&self) -> usize {
        self.tensors.values().map(|entry| entry.range.1 - entry.range.0).sum()
    }

    /// Compares every wanted tensor's shape with what is there; the error lists all that differ.
    pub fn check(&self, wanted: &[(String, Shape)]) -> Result<()> {
        let problems: Vec<_> =
            wanted.iter().filter_map(|(name, shape)| self.problem(name, shape.dims())).collect();
        if problems.is_empty() { Ok(()) } else { Err(Error::Tensors { what: self.what.clone(), problems }) }
    }

    /// A tensor of this name and shape, converted to `dtype` on `device`.
    pub fn get(&self, name: &str, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        if let Some(problem) = self.problem(name, shape.dims()) {
            return Err(Error::Tensors { what: self.what.clone(), problems: vec![problem] });
        }
        Ok(self.load(name, device)?.to_dtype(dtype)?)
    }

    /// A tensor as it is stored.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let Some(entry) = self.tensors.get(name) else {
            let problems = vec![format!("{name}: wants a tensor, got none")];
            return Err(Error::Tensors { what: self.what.clone(), problems });
        };
        let bytes = &self.files[entry.file].as_slice()[entry.range.0..entry.range.1];
        let problem = |got: String| Error::Tensors {
            what: self.what.clone(),
            problems: vec![format!("{name}: wants a type that Candle has, got {got}")],
        };
        if DType::try_from(entry.dtype).is_err() {
            return Err(problem(entry.dtype.to_string()));
        }
        let view = TensorView::new(entry.dtype, entry.shape.clone(), bytes)
            .map_err(|error| problem(error.to_string()))?;
        Ok(view.load(device)?)
    }

    fn problem(&self, name: &str, wanted: &[usize]) -> Option<String> {
        match self.shape(name) {
            Some(shape) if shape == wanted => None,
            Some(shape) => Some(format!("{name}: wants shape {wanted:?}, got {shape:?}")),
            None => Some(format!("{name}: wants shape {wanted:?}, got no such tensor")),
        }
    }
}

/// Writes tensors to a safetensors file, whole or not at all, with the metadata `{"format": "pt"}` that
/// PyTorch's readers ask for, and `metadata` besides.
pub fn save<S: AsRef<str>>(
    path: &Path,
    tensors: impl IntoIterator<Item = (S, Tensor)>,
    metadata: &[(&str, &str)],
) -> Result<()> {
    stage(path, tensors, metadata)?.commit()
}

/// Does all of [`save`] but giving the file its name.
pub(crate) fn stage<S: AsRef<str>>(
    path: &Path,
    tensors: impl IntoIterator<Item = (S, Tensor)>,
    metadata: &[(&str, &str)],
) -> Result<atomic::Staged> {
    stage_views(path, tensors.into_iter().map(|(name, tensor)| (name.as_ref().to_string(), tensor)), metadata)
}

/// [`stage`] for anything that can show its bytes: one tensor of them is copied at a time.
pub(crate) fn stage_views<V: View>(
    path: &Path,
    views: impl IntoIterator<Item = (String, V)>,
    metadata: &[(&str, &str)],
) -> Result<atomic::Staged> {
    let views: BTreeMap<String, V> = views.into_iter().collect();
    let mut info = HashMap::from([("format".to_string(), "pt".to_string())]);
    info.extend(metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())));
    let list =
        views.iter().map(|(name, view)| (name.as_str(), view.dtype(), view.shape().to_vec())).collect();
    // Not by the crate's `serialize_to_file`: it has a temporary file of its own, whose name tells nobody's it is.
    atomic::stage(path, |temporary| {
        stream::write_as(temporary, path, list, info, |name| Ok(views[name].data())).map(|_| ())
    })
}

fn map(path: &Path) -> Result<Bytes> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: the map is read-only; its bytes change only if another process overwrites the checkpoint in
    // place while it is in use, which every reader of memory-mapped weights rules out.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
    Ok(Bytes::Mapped(map))
}

fn header(what: &str, bytes: &[u8], file: usize) -> Result<BTreeMap<String, Entry>> {
    let wants = "a safetensors file";
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(Error::wants(
            what,
            wants,
            "a Git LFS pointer (run `git lfs pull` in the model directory)",
        ));
    }
    let (length, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|error| Error::wants(what, wants, format!("{} bytes with {error}", bytes.len())))?;
    let start = 8 + length;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        // An empty tensor may claim other dimensions of any size; strides of them would overflow.
        if info.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim.max(1))).is_none() {
            return Err(Error::wants(what, wants, format!("{name} of shape {:?}", info.shape)));
        }
        let range = (start + info.data_offsets.0, start + info.data_offsets.1);
        tensors.insert(name, Entry { file, dtype: info.dtype, shape: info.shape.clone(), range });
    }
    Ok(tensors)
}

/// Says what is in the directory instead of safetensors weights.
fn no_weights(dir: &Path) -> Error {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return Error::io(dir)(error),
    };
    let other = |name: &String| {
        [".bin", ".pt", ".pth", ".gguf", ".safetensors", ".npz"].iter().any(|end| name.ends_with(end))
    };
    let mut found: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(other)
        .collect();
    found.sort();
    let got = match found.len() {
        0 => "no weights".to_string(),
        1..=4 => format!("only {}", found.join(", ")),
        n => format!("only {} and {} more", found[..3].join(", "), n - 3),
    };
    Error::wants(dir.display().to_string(), format!("{WEIGHTS} or {INDEX}"), got)
}

#[cfg(test)]
mod tests;
