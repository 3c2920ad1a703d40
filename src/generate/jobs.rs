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
    /// The system message of rows with a `prompt`.
    pub system: Option<&'a str>,
    /// The tools of rows that have none.
    pub tools: Option<&'a Value>,
    /// The template's variables.
    pub variables: Map<String, Value>,
    /// What else the answers depend on, such as [`Model::fingerprint`](crate::models::Model::fingerprint).
    pub identity: String,
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
    /// Of all that the answer depends on.
    digest: String,
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
    /// Lines that are there are kept and not computed again: they must be answers to these rows under these options. A
    /// line without its end is removed. `on_event` hears how many rows are done, and of each step; a break ends the
    /// run after the last whole batch. Another run on the same file is an error.
    pub fn run<M: CausalLm>(
        &self,
        model: &M,
        tokenizer: &Tokenizer,
        batch: usize,
        output: &Path,
        mut on_event: impl FnMut(usize, Option<Event>) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        if batch == 0 {
            return Err(Error::wants("batch size", "at least 1", "0"));
        }
        let (mut file, already) = self.open(output)?;
        let mut outcome = Outcome { rows: self.rows.len(), already, ..Outcome::default() };
        let mut done = already;
        let mut flow = on_event(done, None);
        while done < self.rows.len() && flow.is_continue() {
            let rows = &self.rows[done..self.rows.len().min(done + batch)];
            let requests: Vec<Request> =
                rows.iter().map(|job| Request { prompt: &job.tokens, options: &job.options }).collect();
            let answers = generate_each(model, tokenizer, &requests, |event| on_event(done, Some(event)))?;
            if answers.iter().any(|answer| answer.finish_reason == FinishReason::Cancelled) {
                break;
            }
            for (job, answer) in rows.iter().zip(answers) {
                outcome.tokens += answer.tokens.len();
                let line = serde_json::to_string(&job.line(done, answer)).map_err(|source| Error::Json {
                    path: output.to_path_buf(),
                    wants: "an answer that JSON can hold",
                    source,
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
    fn open(&self, path: &Path) -> Result<(File, usize)> {
        let what = path.display().to_string();
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
        let mut done = 0;
        for line in bytes[..whole].split_inclusive(|&byte| byte == b'\n') {
            let bad = |got: String| Error::Row {
                path: path.to_path_buf(),
                line: done + 1,
                wants: format!(
                    "the answer to row {} of {} under these options",
                    done + 1,
                    self.path.display()
                ),
                got: format!("{got} (take another output, or remove this one to begin anew)"),
            };
            let line: Line = serde_json::from_slice(line).map_err(|error| bad(error.to_string()))?;
            match self.rows.get(done) {
                Some(job) if (line.index, &line.input_digest) == (done, &job.digest) => done += 1,
                Some(_) => return Err(bad("one to something else".to_string())),
                None => return Err(bad("one more than there are rows".to_string())),
            }
        }
        // Only now, when it is known to be ours.
        if whole < bytes.len() {
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
    let tools = row.tools.as_ref().or(defaults.tools);
    let messages = match (row.prompt, row.messages) {
        (Some(prompt), None) => {
            let system = defaults.system.map(|text| json!({"role": "system", "content": text}));
            Ok((
                Some(prompt.clone()),
                system.into_iter().chain([json!({"role": "user", "content": prompt})]).collect(),
            ))
        }
        (None, Some(messages)) => Ok((None, messages)),
        (Some(_), Some(_)) => Err("both"),
        (None, None) => Err("neither"),
    };
    let (prompt, messages): (Option<String>, Vec<Value>) =
        messages.map_err(|got| Error::wants("row", "a prompt or messages", got))?;
    let mut options = options.clone();
    let (text, tokens, tools) = match (defaults.template, prompt) {
        (Some(template), _) => {
            if let Some(tools) = tools {
                check_tools("tools", tools)?;
                options.skip_special_tokens = false;
            }
            let text = template.render(&messages, tools, true, &defaults.variables)?;
            let tokens = tokenizer.encode(&text, false)?;
            let format = ToolFormat::of(template.tool_source());
            (text, tokens, tools.and_then(|tools| Some((format?, tools.clone()))))
        }
        (None, Some(prompt)) => {
            let tokens = tokenizer.encode(&prompt, true)?;
            (prompt, tokens, None)
        }
        (None, None) => {
            return Err(Error::wants("messages", "a chat template", "a model without, or ignored"));
        }
    };
    if tokens.len() >= context {
        let wants = format!("fewer than {context} tokens, the model's max_position_embeddings");
        return Err(Error::wants("prompt", wants, tokens.len().to_string()));
    }
    options.max_tokens = row.max_tokens.or(options.max_tokens).map(|n| n.min(context - tokens.len()));
    options.validate()?;
    let digest = {
        let options = serde_json::to_string(&options).unwrap_or_default();
        let all = [line.trim(), &text, &options, &defaults.identity].join("\0");
        format!("{:08x}", crc32fast::hash(all.as_bytes()))
    };
    Ok(Job { id: row.id, text, tokens, options, tools, digest })
}

impl Job {
    fn line(&self, index: usize, answer: Generation) -> Line {
        let Generation { text, finish_reason, tokens, prompt_tokens, .. } = answer;
        let (text, tool_calls) = match &self.tools {
            Some((format, tools)) => tool_calls(*format, tools, &self.text, &text),
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
            input_digest: self.digest.clone(),
        }
    }
}
