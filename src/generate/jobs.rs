//! Many prompts from a JSONL file, answered in batches into another, in order; a run that was killed is gone on with.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::engine::{Request, generate_each};
use super::generation::{Event, Generation};
use super::model::CausalLm;
use super::options::GenerateOptions;
use super::stop::FinishReason;
use super::tools::{ToolCall, ToolFormat, check_tools, tool_calls};
use crate::load::{ChatTemplate, Tokenizer};
use crate::{Error, Result};

/// What a row of the input may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: Option<Value>,
    prompt: Option<String>,
    messages: Option<Vec<Value>>,
    tools: Option<Value>,
    max_tokens: Option<usize>,
}

/// What rows have in common.
#[derive(Default)]
pub struct JobDefaults<'a> {
    /// What makes a prompt of messages; without it a `prompt` is read as it is.
    pub template: Option<&'a ChatTemplate>,
    /// The system message of rows that have none.
    pub system: Option<&'a str>,
    /// The tools of rows that have none.
    pub tools: Option<&'a Value>,
    /// The template's variables.
    pub variables: Map<String, Value>,
}

/// Prompts to be answered.
pub struct Jobs {
    rows: Vec<Job>,
    path: PathBuf,
}

struct Job {
    id: Option<Value>,
    text: String,
    tokens: Vec<u32>,
    options: GenerateOptions,
    tools: Option<(ToolFormat, Value)>,
    /// Calls that the messages have already.
    calls: usize,
    /// Of all that the answer depends on but for the model.
    hasher: crc32fast::Hasher,
}

/// A line of the output.
#[derive(Serialize, Deserialize)]
struct Line {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Value>,
    text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty", skip_deserializing)]
    tool_calls: Vec<ToolCall>,
    finish_reason: FinishReason,
    prompt_tokens: usize,
    completion_tokens: usize,
    input_digest: String,
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Rows of the input.
    pub rows: usize,
    /// Answers that were there before.
    pub already: usize,
    /// Answers that were written.
    pub answered: usize,
    /// Tokens that were generated.
    pub tokens: usize,
}

impl Jobs {
    /// Reads the rows: objects with a `prompt`, or with `messages` and maybe `tools`; `id` and `max_tokens` if
    /// wanted. All of them are checked before the first is answered; the error names the line.
    pub fn read(
        path: &Path,
        tokenizer: &Tokenizer,
        defaults: &JobDefaults,
        options: &GenerateOptions,
        context: usize,
    ) -> Result<Self> {
        options.validate()?;
        for (what, given) in
            [("system prompt", defaults.system.is_some()), ("tools", defaults.tools.is_some())]
        {
            if given && defaults.template.is_none() {
                return Err(Error::wants(what, "a chat template", "a model without, or ignored"));
            }
        }
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let mut rows = Vec::new();
        for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let bad = |wants: &str, got: String| Error::Row {
                path: path.to_path_buf(),
                line: i + 1,
                wants: wants.to_string(),
                got,
            };
            let wants =
                r#"{"prompt": "…"} or {"messages": […]}, with "id", "max_tokens" and "tools" if wanted"#;
            let row: Row = serde_json::from_str(line).map_err(|error| bad(wants, error.to_string()))?;
            let job =
                job(row, line, tokenizer, defaults, &options.with_seed_after(rows.len() as u64), context);
            rows.push(job.map_err(|error| match error {
                Error::Wants { what, wants, got } => bad(&format!("{what}: {wants}"), got),
                other => bad(wants, other.to_string()),
            })?);
        }
        match rows.is_empty() {
            true => Err(Error::wants(path.display().to_string(), "at least one row", "none")),
            false => Ok(Jobs { rows, path: path.to_path_buf() }),
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Answers the rows, `batch` at a time, and appends a line for each to `output`, in order.
    ///
    /// Lines that are there are kept and not written again: they must be answers to these rows under these options and
    /// of the model that `identity` tells, such as [`Model::fingerprint`](crate::models::Model::fingerprint). An answer
    /// without its end is removed. `on_event` hears how many rows are done, and of each step; a break ends the run
    /// after the last whole batch. Another run on the same file is an error.
    ///
    /// A run that goes on makes the batches of the one before, and so the answers it would have given. In bf16, more
    /// than four rows at once are rounded otherwise than one by one: there another `batch` may give other answers.
    pub fn run<M: CausalLm>(
        &self,
        model: &M,
        identity: &str,
        tokenizer: &Tokenizer,
        batch: usize,
        output: &Path,
        mut on_event: impl FnMut(usize, Option<Event>) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        if batch == 0 {
            return Err(Error::wants("batch size", "at least 1", "0"));
        }
        let (mut file, already) = self.open(output, identity)?;
        let mut outcome = Outcome { rows: self.rows.len(), already, ..Outcome::default() };
        let mut done = already;
        let mut flow = on_event(done, None);
        while done < self.rows.len() && flow.is_continue() {
            let first = done - done % batch;
            let rows = &self.rows[first..self.rows.len().min(first + batch)];
            let requests: Vec<Request> =
                rows.iter().map(|job| Request { prompt: &job.tokens, options: &job.options }).collect();
            let answers = generate_each(model, tokenizer, &requests, |event| on_event(done, Some(event)))?;
            if answers.iter().any(|answer| answer.finish_reason == FinishReason::Cancelled) {
                break;
            }
            for (job, answer) in rows.iter().zip(answers).skip(done - first) {
                outcome.tokens += answer.tokens.len();
                let line = serde_json::to_string(&job.line(done, identity, answer)).map_err(|source| {
                    Error::Json { path: output.to_path_buf(), wants: "an answer that JSON can hold", source }
                })?;
                // One write: a reader sees whole lines, and a kill tears one at most.
                file.write_all(format!("{line}\n").as_bytes()).map_err(Error::io(output))?;
                done += 1;
                outcome.answered += 1;
            }
            flow = on_event(done, None);
        }
        file.sync_all().map_err(Error::io(output))?;
        Ok(outcome)
    }

    /// The output, locked and at its end, and how many answers it holds.
    fn open(&self, path: &Path, identity: &str) -> Result<(File, usize)> {
        let what = path.display().to_string();
        let wants = "a file of its own for the answers";
        if path.canonicalize().is_ok_and(|whole| self.path.canonicalize().is_ok_and(|input| whole == input)) {
            return Err(Error::wants(what, wants, "the file of the rows"));
        }
        // Opening a pipe would wait, and what a device holds is not read to an end.
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(Error::wants(what, wants, "a directory, a device or a pipe"));
        }
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(Error::io(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::wants(
                    what,
                    "an output of this run alone",
                    "one that another run is writing",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(path)(error)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let (lines, torn) = bytes.split_at(whole);
        let mut done = 0;
        let bad = |done: usize, got: &str| Error::Row {
            path: path.to_path_buf(),
            line: done + 1,
            wants: format!("the answer to row {} of {} under these options", done + 1, self.path.display()),
            got: format!("{got} (take another output, or remove this one to begin anew)"),
        };
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let line: Line = serde_json::from_slice(line).map_err(|error| bad(done, &error.to_string()))?;
            match self.rows.get(done) {
                Some(job) if line.index == done && line.input_digest == job.digest(identity) => done += 1,
                Some(_) => return Err(bad(done, "another: the options, the model or the row have changed")),
                None => return Err(bad(done, "one more than there are rows")),
            }
        }
        if !torn.is_empty() {
            // What a kill leaves is the beginning of the next answer; anything else is not ours to remove.
            let begins = format!("{{\"index\":{done},");
            let common = torn.len().min(begins.len());
            if done == self.rows.len() || torn[..common] != begins.as_bytes()[..common] {
                return Err(bad(done, "something else"));
            }
            file.set_len(whole as u64).map_err(Error::io(path))?;
        }
        file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
        Ok((file, done))
    }
}

fn job(
    row: Row,
    line: &str,
    tokenizer: &Tokenizer,
    defaults: &JobDefaults,
    options: &GenerateOptions,
    context: usize,
) -> Result<Job> {
    let tools = row.tools.as_ref().or(defaults.tools).filter(|tools| **tools != json!([]));
    let (prompt, mut messages) = match (row.prompt, row.messages) {
        (Some(prompt), None) => (Some(prompt.clone()), vec![json!({"role": "user", "content": prompt})]),
        (None, Some(messages)) => (None, messages),
        (Some(_), Some(_)) => return Err(Error::wants("row", "a prompt or messages", "both")),
        (None, None) => return Err(Error::wants("row", "a prompt or messages", "neither")),
    };
    if messages.is_empty() {
        return Err(Error::wants("messages", "at least one", "none"));
    }
    if let (Some(text), true) = (defaults.system, messages[0]["role"] != "system") {
        messages.insert(0, json!({"role": "system", "content": text}));
    }
    let mut options = options.clone();
    let without = |what| Err(Error::wants(what, "a chat template", "a model without, or ignored"));
    let (text, tokens, tools) = match (defaults.template, prompt, tools) {
        (Some(template), _, tools) => {
            let text = template.render(&messages, tools, true, &defaults.variables)?;
            let tokens = tokenizer.encode(&text, false)?;
            let mut format = None;
            if let Some(tools) = tools {
                check_tools("tools", tools)?;
                options.skip_special_tokens = false;
                format = ToolFormat::for_tools("tools", template, tools, &messages, &defaults.variables)?;
            }
            (text, tokens, format.zip(tools.cloned()))
        }
        (None, _, Some(_)) => return without("tools"),
        (None, None, _) => return without("messages"),
        (None, Some(prompt), None) => {
            let tokens = tokenizer.encode(&prompt, true)?;
            (prompt, tokens, None)
        }
    };
    if tokens.len() >= context {
        let wants = format!("fewer than {context} tokens, the model's max_position_embeddings");
        return Err(Error::wants("prompt", wants, tokens.len().to_string()));
    }
    options.max_tokens = row.max_tokens.or(options.max_tokens).map(|n| n.min(context - tokens.len()));
    options.validate()?;
    // How much of a prompt is read at a time is no matter of the answer.
    let said = GenerateOptions { prefill_chunk: 1, ..options.clone() };
    let said = serde_json::to_string(&said).unwrap_or_default();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update([line.trim(), &text, &said, ""].join("\0").as_bytes());
    let calls = messages.iter().filter_map(|message| message["tool_calls"].as_array()).map(Vec::len).sum();
    Ok(Job { id: row.id, text, tokens, options, tools, calls, hasher })
}

impl Job {
    /// Of all that the answer depends on.
    fn digest(&self, identity: &str) -> String {
        let mut hasher = self.hasher.clone();
        hasher.update(identity.as_bytes());
        format!("{:08x}", hasher.finalize())
    }

    fn line(&self, index: usize, identity: &str, answer: Generation) -> Line {
        let Generation { text, finish_reason, tokens, prompt_tokens, .. } = answer;
        let (text, tool_calls) = match &self.tools {
            Some((format, tools)) => tool_calls(*format, tools, &self.text, &text, self.calls),
            None => (text, Vec::new()),
        };
        let called = !tool_calls.is_empty() && finish_reason == FinishReason::Stop;
        Line {
            index,
            id: self.id.clone(),
            text,
            tool_calls,
            finish_reason: if called { FinishReason::ToolCalls } else { finish_reason },
            prompt_tokens,
            completion_tokens: tokens.len(),
            input_digest: self.digest(identity),
        }
    }
}

#[cfg(test)]
mod tests;
