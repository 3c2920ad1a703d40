//! Datasets as mlx-lm users know them: JSONL rows → tokens and trained spans → batches.
//!
//! `--data` is a directory with `train.jsonl` and perhaps `valid.jsonl` and `test.jsonl`, or one JSONL file that
//! is split by seed. The first record of a file decides which form its rows have, tested in this order:
//! `{"prompt", "completion"}`, `{"messages"}` (with optional `"tools"`), `{"text"}`.
//!
//! The one fact to know: a target is the *next* token. A row of n tokens gives n - 1 positions, position t reads
//! token t and is trained on token t + 1 when that token lies in a trained span.

mod batches;
mod mask;
mod pack;
mod rows;
mod tokens;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

pub use batches::{Batch, Batches, Cursor, IGNORED, InOrder};
use rows::{Content, Record};
pub use tokens::ModelEncoder;

/// What turns text and conversations into tokens: a tokenizer with its chat template.
pub trait Encode: Sync {
    /// The tokens of a text, with the tokenizer's own special tokens and the end-of-text token last.
    fn encode_text(&self, text: &str) -> Result<Vec<u32>>;

    /// The tokens of a conversation through the chat template, and nothing added to what it renders.
    fn encode_chat(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>>;
}

/// Which tokens of a conversation are trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// All of them.
    #[default]
    None,
    /// The last assistant turn with its end-of-turn token (mlx-lm's `--mask-prompt`).
    LastAssistant,
    /// Every assistant turn with its end-of-turn token.
    AllAssistant,
}

/// The names of the fields that are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    /// The prompt of a completion row: `prompt`.
    pub prompt: String,
    /// The answer of a completion row: `completion`.
    pub completion: String,
    /// The conversation of a chat row: `messages`.
    pub chat: String,
    /// The text of a text row: `text`.
    pub text: String,
}

impl Default for Features {
    fn default() -> Self {
        Features {
            prompt: "prompt".into(),
            completion: "completion".into(),
            chat: "messages".into(),
            text: "text".into(),
        }
    }
}

/// How a dataset is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The names of the fields.
    pub features: Features,
    /// Which tokens are trained.
    pub mask: Mask,
    /// Rows are cut to this many tokens.
    pub max_seq_length: usize,
    /// The part of a single file that is held out for validation, in [0, 1).
    pub valid_fraction: f64,
    /// Decides which rows of a single file are held out.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            features: Features::default(),
            mask: Mask::None,
            max_seq_length: 2048,
            valid_fraction: 0.1,
            seed: 0,
        }
    }
}

/// A row as tokens, with the spans of it that are trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The tokens, at most `max_seq_length`.
    pub tokens: Vec<u32>,
    /// The tokens to be predicted, as ascending ranges over `tokens`; never token 0, which nothing precedes.
    pub trained: Vec<Range<usize>>,
    /// The line of the file, counted from one.
    pub line: usize,
}

impl Row {
    /// How many tokens are predicted.
    pub fn target_tokens(&self) -> usize {
        self.trained.iter().map(Range::len).sum()
    }

    /// How many positions the row takes in a batch: one less than its tokens.
    pub fn positions(&self) -> usize {
        self.tokens.len() - 1
    }
}

/// What was found in a dataset; its text is one line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Rows that are used.
    pub rows: usize,
    /// Their tokens, after truncation.
    pub tokens: usize,
    /// The tokens that are predicted.
    pub target_tokens: usize,
    /// Rows that were cut, including those that lost all their targets by it.
    pub truncated: usize,
    /// Rows left out because no token of them is a target.
    pub skipped: usize,
    /// The longest row, in tokens before truncation.
    pub longest: usize,
    /// The length that rows were cut to.
    pub max_seq_length: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rows, {} tokens, {} of them trained, longest {}",
            self.rows, self.tokens, self.target_tokens, self.longest
        )?;
        if self.truncated > 0 {
            write!(f, "; {} truncated to {} tokens", self.truncated, self.max_seq_length)?;
        }
        if self.skipped > 0 {
            write!(f, "; {} skipped: no token to train", self.skipped)?;
        }
        Ok(())
    }
}

/// Tokenised rows in file order, and what was found while reading them. Empty when there was no file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dataset {
    /// The rows that have at least one target.
    pub rows: Vec<Row>,
    /// Counts over all rows, the skipped ones too.
    pub summary: Summary,
    /// The file they are from, for messages.
    pub path: PathBuf,
}

/// The three datasets of a training run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Splits {
    /// What is trained on; never empty.
    pub train: Dataset,
    /// What the validation loss is measured on; may be empty.
    pub valid: Dataset,
    /// What `--test` measures; may be empty.
    pub test: Dataset,
}

/// Reads and tokenises what `--data` names: a directory with `train.jsonl` and optional `valid.jsonl` and
/// `test.jsonl`, or one JSONL file of which `valid_fraction` (at least one row) is held out.
///
/// # Errors
///
/// No such path, no `train.jsonl`, a row that is not what the first one announced (with its line), no row with a
/// target.
pub fn load(path: &Path, options: &Options, encoder: &impl Encode) -> Result<Splits> {
    let train_path = if path.is_dir() { path.join("train.jsonl") } else { path.to_path_buf() };
    if !train_path.is_file() {
        let wants = "a JSONL file, or a directory with train.jsonl";
        let got = if path.is_dir() { "a directory without train.jsonl" } else { "no such file" };
        return Err(Error::wants(path.display().to_string(), wants, got));
    }
    let optional = |name: &str| match path.join(name) {
        file if file.is_file() => Dataset::read(&file, options, encoder),
        _ => Ok(Dataset::default()),
    };
    let splits = if path.is_dir() {
        Splits {
            train: Dataset::read(&train_path, options, encoder)?,
            valid: optional("valid.jsonl")?,
            test: optional("test.jsonl")?,
        }
    } else {
        split(&train_path, &read_text(path)?, options, encoder)?
    };
    splits.train.require_rows(&train_path, options)?;
    Ok(splits)
}

/// Parses JSONL that is already in memory as [`load`] does one file; `name` stands for it in errors.
///
/// # Errors
///
/// As [`load`]; a valid fraction outside [0, 1).
pub fn split(name: &Path, jsonl: &str, options: &Options, encoder: &impl Encode) -> Result<Splits> {
    if !(0.0..1.0).contains(&options.valid_fraction) {
        let got = options.valid_fraction.to_string();
        return Err(Error::wants("valid fraction", "a number from 0 to less than 1", got));
    }
    let records = rows::parse(name, jsonl, &options.features)?;
    let wanted = (records.len() as f64 * options.valid_fraction).round() as usize;
    let held_out = match options.valid_fraction {
        0.0 => 0,
        _ => wanted.max(1).min(records.len().saturating_sub(1)),
    };
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
    let mut is_valid = vec![false; records.len()];
    order[..held_out].iter().for_each(|&i| is_valid[i] = true);
    let (valid, train): (Vec<_>, Vec<_>) =
        records.into_iter().zip(is_valid).partition(|(_, is_valid)| *is_valid);
    let tokenise = |part: Vec<(Record, bool)>| {
        let records: Vec<Record> = part.into_iter().map(|(record, _)| record).collect();
        Dataset::tokenise(name, &records, options, encoder)
    };
    Ok(Splits { train: tokenise(train)?, valid: tokenise(valid)?, test: Dataset::default() })
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        Error::Row {
            path: path.to_path_buf(),
            line: 1 + valid.iter().filter(|&&byte| byte == b'\n').count(),
            wants: "UTF-8 text".into(),
            got: "other bytes".into(),
        }
    })
}

impl Dataset {
    /// Reads and tokenises one JSONL file. A file without rows gives an empty dataset.
    ///
    /// # Errors
    ///
    /// Unreadable file, a row that is not what the first one announced, a conversation that the chat
    /// template refuses, prompt masking asked of text rows.
    pub fn read(path: &Path, options: &Options, encoder: &impl Encode) -> Result<Dataset> {
        Dataset::parse(path, &read_text(path)?, options, encoder)
    }

    /// [`Dataset::read`] for JSONL that is already in memory; `name` stands for it in errors.
    ///
    /// # Errors
    ///
    /// As [`Dataset::read`].
    pub fn parse(name: &Path, jsonl: &str, options: &Options, encoder: &impl Encode) -> Result<Dataset> {
        Dataset::tokenise(name, &rows::parse(name, jsonl, &options.features)?, options, encoder)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Endless training batches of rows of similar length; see [`Batches`].
    ///
    /// # Errors
    ///
    /// As [`Batches::new`].
    pub fn batches(&self, batch_size: usize, seed: u64) -> Result<Batches<'_>> {
        Batches::new(self, batch_size, seed)
    }

    /// As [`Dataset::batches`], of sequences that hold several rows each; see [`Batches::packed`].
    ///
    /// # Errors
    ///
    /// As [`Batches::packed`].
    pub fn packed(&self, batch_size: usize, seed: u64) -> Result<Batches<'_>> {
        Batches::packed(self, batch_size, seed)
    }

    /// Every row once in file order, the last batch perhaps smaller: for validation and test.
    pub fn in_order(&self, batch_size: usize) -> InOrder<'_> {
        InOrder::new(self, batch_size)
    }

    fn require_rows(&self, path: &Path, options: &Options) -> Result<()> {
        if !self.is_empty() {
            return Ok(());
        }
        let got = match self.summary.skipped {
            0 => "no rows".to_string(),
            skipped => format!(
                "{skipped} rows without one (mask {:?}, max_seq_length {}, longest row {} tokens)",
                options.mask, options.max_seq_length, self.summary.longest
            ),
        };
        Err(Error::wants(path.display().to_string(), "at least one row with a token to train", got))
    }

    fn tokenise(
        path: &Path,
        records: &[Record],
        options: &Options,
        encoder: &impl Encode,
    ) -> Result<Dataset> {
        if options.max_seq_length < 2 {
            let got = options.max_seq_length.to_string();
            return Err(Error::wants("max_seq_length", "at least 2 tokens", got));
        }
        let is_text = |record: &Record| matches!(record.content, Content::Text(_));
        if options.mask != Mask::None && records.first().is_some_and(is_text) {
            let wants = "prompt and completion or messages, as prompts are to be masked";
            return Err(Error::wants(path.display().to_string(), wants, "rows of plain text"));
        }
        let encoded: Vec<Result<Row>> = records
            .par_iter()
            .map(|record| {
                let (tokens, trained) =
                    encode(record, options.mask, encoder).map_err(|error| Error::Row {
                        path: path.to_path_buf(),
                        line: record.line,
                        wants: "a row that the tokenizer and the chat template accept".into(),
                        got: error.to_string(),
                    })?;
                Ok(Row { tokens, trained, line: record.line })
            })
            .collect();
        let max = options.max_seq_length;
        let mut dataset = Dataset {
            rows: Vec::with_capacity(records.len()),
            summary: Summary { max_seq_length: max, ..Summary::default() },
            path: path.to_path_buf(),
        };
        let summary = &mut dataset.summary;
        for row in encoded {
            let mut row = row?;
            summary.longest = summary.longest.max(row.tokens.len());
            summary.truncated += usize::from(row.tokens.len() > max);
            row.tokens.truncate(max);
            row.trained = clip(row.trained, row.tokens.len());
            if row.trained.is_empty() {
                summary.skipped += 1;
                continue;
            }
            summary.rows += 1;
            summary.tokens += row.tokens.len();
            summary.target_tokens += row.target_tokens();
            dataset.rows.push(row);
        }
        Ok(dataset)
    }
}

fn encode(record: &Record, mask: Mask, encoder: &impl Encode) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
    let (messages, tools) = match &record.content {
        Content::Text(text) => {
            let tokens = encoder.encode_text(text)?;
            let all = 0..tokens.len();
            return Ok((tokens, vec![all]));
        }
        Content::Chat { messages, tools } => (messages, tools.as_ref()),
    };
    let tokens = encoder.encode_chat(messages, tools, false)?;
    let is_assistant = |i: &usize| messages[*i]["role"] == "assistant";
    let turns: Vec<usize> = match mask {
        Mask::None => {
            let all = 0..tokens.len();
            return Ok((tokens, vec![all]));
        }
        Mask::LastAssistant => (0..messages.len()).rev().find(is_assistant).into_iter().collect(),
        Mask::AllAssistant => (0..messages.len()).filter(is_assistant).collect(),
    };
    let conversation = mask::Conversation { encoder, messages, tools, tokens: &tokens };
    let spans = turns.into_iter().map(|turn| conversation.turn(turn)).collect::<Result<Vec<_>>>()?;
    Ok((tokens, spans))
}

/// Keeps what lies in 1..len, ascending and without overlap.
fn clip(spans: Vec<Range<usize>>, len: usize) -> Vec<Range<usize>> {
    let mut from = 1;
    let mut kept = Vec::with_capacity(spans.len());
    for span in spans {
        let span = span.start.max(from)..span.end.min(len);
        if !span.is_empty() {
            from = span.end;
            kept.push(span);
        }
    }
    kept
}

#[cfg(test)]
mod tests;
