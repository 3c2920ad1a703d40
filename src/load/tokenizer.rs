//! Text to token ids and back: `tokenizer.json` with the special tokens that its neighbours name.
//!
//! `add_bos_token` and `add_eos_token` in `tokenizer_config.json` override the template of `tokenizer.json`
//! when they are given, as in transformers. `clean_up_tokenization_spaces` is ignored: it corrupts BPE text.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

pub use stream::DecodeStream;

use super::{ModelDir, json};
use crate::{Error, Result};

mod stream;

/// A tokenizer and what a model's files say of its special tokens.
pub struct Tokenizer {
    what: String,
    inner: tokenizers::Tokenizer,
    special: Vec<(String, String)>,
    special_ids: BTreeSet<u32>,
    bos: Option<(String, u32)>,
    eos: Option<(String, u32)>,
    /// Which of BOS and EOS to add, if the configuration decides instead of `tokenizer.json`.
    add: Option<(bool, bool)>,
    eos_ids: Vec<u32>,
    byte_fallback: bool,
}

impl Tokenizer {
    /// Opens the tokenizer of a model directory.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::load(&ModelDir::at(dir))
    }

    /// Reads the tokenizer of a model, embedded or in a directory.
    pub fn load(model: &ModelDir) -> Result<Self> {
        let what = model.path.join("tokenizer.json").display().to_string();
        let Some(bytes) = model.bytes("tokenizer.json")? else {
            let got = match model.path.join("tokenizer.model").is_file() {
                true => "only tokenizer.model (save the tokenizer with transformers to get the other)",
                false => "no such file",
            };
            return Err(Error::wants(what, "a tokenizer", got));
        };
        // What is no JSON gets an error with its place; the crate panics on some of it.
        json::parse::<serde::de::IgnoredAny>(Path::new(&what), &bytes, "a tokenizer")?;
        let mut inner = guarded(&what, || tokenizers::Tokenizer::from_bytes(&bytes))?;
        // Length limits that were saved with the tokenizer would cut or pad texts in silence.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| failed(&what, error))?;

        let config = model.object("tokenizer_config.json")?.unwrap_or_default();
        let special = special_tokens(&config, &model.object("special_tokens_map.json")?.unwrap_or_default());
        let token = |key: &str| {
            let (_, text) = special.iter().find(|(name, _)| name == key)?;
            Some((text.clone(), inner.token_to_id(text)?))
        };
        let (bos, eos) = (token("bos_token"), token("eos_token"));
        let mut eos_ids = Vec::new();
        for name in ["generation_config.json", "config.json"] {
            let object = model.object(name)?.unwrap_or_default();
            let what = || format!("{}: eos_token_id", model.path.join(name).display());
            eos_ids.extend(json::token_ids(what, object.get("eos_token_id"))?);
        }
        eos_ids.extend(eos.iter().map(|(_, id)| *id));
        let mut seen = BTreeSet::new();
        eos_ids.retain(|id| seen.insert(*id));

        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let add = match (flag("add_bos_token"), flag("add_eos_token")) {
            (None, None) => None,
            (bos, eos) => Some((bos.unwrap_or(false), eos.unwrap_or(false))),
        };
        let byte_fallback = inner.get_decoder().is_some_and(stream::joins_bytes);
        let added = inner.get_added_tokens_decoder();
        let special_ids = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        Ok(Tokenizer { what, inner, special, special_ids, bos, eos, add, eos_ids, byte_fallback })
    }

    /// The token ids of `text`; `add_special` adds what the model expects around a text, such as BOS.
    ///
    /// The text of a special token inside `text` becomes that token.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let template = add_special && self.add.is_none();
        let encoding = guarded(&self.what, || self.inner.encode_fast(text, template))?;
        let mut ids = encoding.get_ids().to_vec();
        if let (true, Some((add_bos, add_eos))) = (add_special, self.add) {
            if let (true, Some((_, bos))) = (add_bos, &self.bos) {
                ids.insert(0, *bos);
            }
            if let (true, Some((_, eos))) = (add_eos, &self.eos) {
                ids.push(*eos);
            }
        }
        Ok(ids)
    }

    /// The text of token ids; `skip_special` leaves out special tokens. Unknown ids give no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(&self.what, || self.inner.decode(ids, skip_special))
    }

    /// A detokeniser for tokens that come one by one; special tokens are left out of its text.
    pub fn stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self, true)
    }

    /// As [`stream`](Self::stream), with the choice of `skip_special`.
    pub fn stream_with(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special)
    }

    /// The ids that end a generation: those of the generation configuration, of the model's and the
    /// tokenizer's own EOS, each once.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The text of the BOS token.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos.as_ref().map(|(text, _)| text.as_str())
    }

    /// The text of the tokenizer's own EOS token.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos.as_ref().map(|(text, _)| text.as_str())
    }

    /// The id of the BOS token.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos.as_ref().map(|(_, id)| *id)
    }

    /// The id of the tokenizer's own EOS token.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos.as_ref().map(|(_, id)| *id)
    }

    /// All named special tokens, such as `("pad_token", "<pad>")`.
    pub fn special_tokens(&self) -> &[(String, String)] {
        &self.special
    }

    /// The id of a token, by its text in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The number of tokens, added ones counted; a model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// The named special tokens: those of `tokenizer_config.json`, then those only `special_tokens_map.json` has.
pub(crate) fn special_tokens(config: &Map<String, Value>, map: &Map<String, Value>) -> Vec<(String, String)> {
    let mut tokens: Vec<(String, String)> = Vec::new();
    for (key, value) in config.iter().chain(map) {
        if !key.ends_with("_token") || key.starts_with("add_") || tokens.iter().any(|(name, _)| name == key) {
            continue;
        }
        if let Some(text) = json::token_text(value) {
            tokens.push((key.clone(), text.to_string()));
        }
    }
    tokens
}

/// Runs code of the `tokenizers` crate, whose panics on a tokenizer that is not sound become errors.
fn guarded<T>(what: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let panicked = |_| {
        let got = "one that the tokenizers crate panics on (its message is above)";
        Error::wants(what, "a sound tokenizer", got)
    };
    result.map_err(panicked)?.map_err(|error| failed(what, error))
}

fn failed(what: &str, error: tokenizers::Error) -> Error {
    Error::Tokenizer { what: what.to_string(), message: error.to_string() }
}

#[cfg(test)]
mod tests;
