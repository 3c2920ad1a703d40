//! Safetensors files written one tensor at a time, and read as they lie: checkpoints larger than memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::Weights;
use crate::{Error, Result};

/// A tensor as it is stored.
pub(crate) struct Stored<'a> {
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

impl Weights {
    /// The files, each with the names of its tensors.
    pub(crate) fn shards(&self) -> Vec<(&str, Vec<&str>)> {
        let mut shards: Vec<(&str, Vec<&str>)> =
            self.file_names.iter().map(|name| (name.as_str(), Vec::new())).collect();
        for (name, entry) in &self.tensors {
            shards[entry.file].1.push(name);
        }
        shards
    }

    /// A tensor's bytes, whatever its type.
    pub(crate) fn stored(&self, name: &str) -> Option<Stored<'_>> {
        let entry = self.tensors.get(name)?;
        let bytes = &self.files[entry.file].as_slice()[entry.range.0..entry.range.1];
        Some(Stored { dtype: entry.dtype, shape: &entry.shape, bytes })
    }
}

/// A tensor to be written: its name, type and shape.
pub(crate) type Listed<'a> = (&'a str, Dtype, Vec<usize>);

/// Writes a file of the listed tensors, whose bytes `fill` gives in the order of the file; one tensor's are in
/// memory at a time. Returns how many bytes of tensors were written.
pub(crate) fn write_each<'a>(
    path: &Path,
    list: Vec<Listed<'_>>,
    fill: impl FnMut(&str) -> Result<Cow<'a, [u8]>>,
) -> Result<u64> {
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    write_as(path, path, list, format, fill)
}

/// [`write_each`] with other metadata, to `temporary`; errors name `path`.
pub(super) fn write_as<'a>(
    temporary: &Path,
    path: &Path,
    mut list: Vec<Listed<'_>>,
    metadata: HashMap<String, String>,
    mut fill: impl FnMut(&str) -> Result<Cow<'a, [u8]>>,
) -> Result<u64> {
    // Wide types first, as the safetensors crate does: every tensor is aligned to its elements.
    list.sort_by(|a, b| (b.1.bitsize(), a.0).cmp(&(a.1.bitsize(), b.0)));
    let wrong = |got: String| Error::wants(path.display().to_string(), "tensors that can be saved", got);
    let mut at = 0;
    let mut infos: Vec<(String, TensorInfo)> = Vec::new();
    for (name, dtype, shape) in &list {
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &dim| bits.checked_mul(dim));
        let bytes = bits.ok_or_else(|| wrong(format!("{name} of shape {shape:?}")))? / 8;
        let info = TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets: (at, at + bytes) };
        infos.push((name.to_string(), info));
        at += bytes;
    }
    let metadata = Metadata::new(Some(metadata), infos.clone()).map_err(|error| wrong(error.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| wrong(error.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::new(File::create(temporary).map_err(Error::io(path))?);
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io(path));
    write(&(header.len() as u64).to_le_bytes())?;
    write(&header)?;
    for (name, info) in &infos {
        let bytes = fill(name)?;
        if bytes.len() != info.data_offsets.1 - info.data_offsets.0 {
            return Err(wrong(format!("{} bytes of {name}", bytes.len())));
        }
        write(&bytes)?;
    }
    let file = file.into_inner().map_err(|error| Error::io(path)(error.into_error()))?;
    file.sync_all().map_err(Error::io(path))?;
    Ok(at as u64)
}
