//! JSON files of a model directory, and the fields in them that come in more than one form.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};

/// Parses `bytes`, which came from `path` and should hold `wants`.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8], wants: &'static str) -> Result<T> {
    // Editors on Windows put a byte order mark in front; JSON has none.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).map_err(|source| Error::Json { path: PathBuf::from(path), wants, source })
}

/// Reads and parses a file that must be there.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, wants: &'static str) -> Result<T> {
    parse(path, &std::fs::read(path).map_err(Error::io(path))?, wants)
}

/// A token as `tokenizer_config.json` writes it: a string, or an `AddedToken` object with `content`.
pub(crate) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// `eos_token_id` as configurations write it: absent, null, a number or a list of numbers.
pub(crate) fn token_ids(what: impl Fn() -> String, value: Option<&Value>) -> Result<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(one) => id(one).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        let got = value.map(Value::to_string).unwrap_or_default();
        Error::wants(what(), "a token id or a list of token ids", got)
    })
}
