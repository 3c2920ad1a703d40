//! JSONL → records: which form the rows have, and an error that names every bad line.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Features;
use crate::{Error, Result};

/// How many bad lines one error lists.
const LISTED: usize = 10;

/// A row before tokenisation.
pub(super) struct Record {
    /// The line of the file, counted from one.
    pub(super) line: usize,
    pub(super) content: Content,
}

/// What a row holds.
pub(super) enum Content {
    Text(String),
    Chat { messages: Vec<Value>, tools: Option<Value> },
}

enum Form<'a> {
    Completion { prompt: &'a str, completion: &'a str },
    Chat { messages: &'a str },
    Text { text: &'a str },
}

impl<'a> Form<'a> {
    fn of(record: &Map<String, Value>, features: &'a Features) -> Option<Form<'a>> {
        let Features { prompt, completion, chat, text } = features;
        if record.contains_key(prompt) && record.contains_key(completion) {
            return Some(Form::Completion { prompt, completion });
        }
        if record.contains_key(chat) {
            return Some(Form::Chat { messages: chat });
        }
        record.contains_key(text).then_some(Form::Text { text })
    }

    fn wants(&self) -> String {
        match self {
            Form::Completion { prompt, completion } => {
                format!("text in `{prompt}` and `{completion}`, as the first row has")
            }
            Form::Chat { messages } => format!("a list of messages in `{messages}`, as the first row has"),
            Form::Text { text } => format!("text in `{text}`, as the first row has"),
        }
    }

    fn read(&self, record: &mut Map<String, Value>) -> std::result::Result<Content, String> {
        match self {
            Form::Text { text } => Ok(Content::Text(take_text(record, text)?)),
            Form::Completion { prompt, completion } => {
                let prompt = take_text(record, prompt)?;
                let completion = take_text(record, completion)?;
                let messages = vec![
                    json!({"role": "user", "content": prompt}),
                    json!({"role": "assistant", "content": completion}),
                ];
                Ok(Content::Chat { messages, tools: take_tools(record)? })
            }
            Form::Chat { messages: field } => {
                let messages = match record.remove(*field) {
                    None => return Err(fields(record)),
                    Some(Value::Array(messages)) if !messages.is_empty() => messages,
                    Some(Value::Array(_)) => return Err(format!("an empty list in `{field}`")),
                    Some(other) => return Err(format!("{} in `{field}`", kind(&other))),
                };
                if let Some(i) = messages.iter().position(|message| !message["role"].is_string()) {
                    return Err(format!("message {} of `{field}` without a `role`", i + 1));
                }
                Ok(Content::Chat { messages, tools: take_tools(record)? })
            }
        }
    }
}

/// Reads JSONL in the form that its first record has. Empty lines, CRLF and a byte-order mark are tolerated.
pub(super) fn parse(path: &Path, jsonl: &str, features: &Features) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut bad: Vec<(usize, String, String)> = Vec::new();
    let mut unlisted = 0;
    let mut form: Option<Form> = None;
    for (i, text) in jsonl.trim_start_matches('\u{feff}').lines().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        match parse_line(text, &mut form, features) {
            Ok(content) => records.push(Record { line: i + 1, content }),
            Err(_) if bad.len() == LISTED => unlisted += 1,
            Err((wants, got)) => bad.push((i + 1, wants, got)),
        }
    }
    let mut bad = bad.into_iter();
    let Some((line, wants, mut got)) = bad.next() else { return Ok(records) };
    for (line, wants, more) in bad {
        got += &format!("\n  {}:{line}: wants {wants}, got {more}", path.display());
    }
    if unlisted > 0 {
        got += &format!("\n  and {unlisted} more");
    }
    Err(Error::Row { path: path.to_path_buf(), line, wants, got })
}

/// One line's content, or (wants, got).
fn parse_line<'a>(
    text: &str,
    form: &mut Option<Form<'a>>,
    features: &'a Features,
) -> std::result::Result<Content, (String, String)> {
    let mut record = match serde_json::from_str(text) {
        Ok(Value::Object(record)) => record,
        Ok(other) => return Err(("a JSON object".into(), kind(&other).into())),
        // The parser counts lines from the start of this one.
        Err(error) => {
            let got = error.to_string().replace(" at line 1 column ", " at column ");
            return Err(("a JSON object on one line".into(), got));
        }
    };
    if form.is_none() {
        *form = Form::of(&record, features);
    }
    let Some(form) = form else {
        let Features { prompt, completion, chat, text } = features;
        let wants = format!("`{prompt}` and `{completion}`, or `{chat}`, or `{text}`");
        return Err((wants, fields(&record)));
    };
    form.read(&mut record).map_err(|got| (form.wants(), got))
}

fn take_text(record: &mut Map<String, Value>, field: &str) -> std::result::Result<String, String> {
    match record.get_mut(field) {
        Some(Value::String(text)) => Ok(std::mem::take(text)),
        Some(other) => Err(format!("{} in `{field}`", kind(other))),
        None => Err(fields(record)),
    }
}

/// The tools of a row; some datasets hold them as a string of JSON, because Arrow has no free-form type.
fn take_tools(record: &mut Map<String, Value>) -> std::result::Result<Option<Value>, String> {
    let tools = match record.remove("tools") {
        Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        tools => tools.unwrap_or(Value::Null),
    };
    match tools {
        Value::Null => Ok(None),
        Value::Array(tools) if tools.is_empty() => Ok(None),
        Value::Array(tools) => Ok(Some(Value::Array(tools))),
        other => Err(format!("{} in `tools`", kind(&other))),
    }
}

fn fields(record: &Map<String, Value>) -> String {
    if record.is_empty() {
        return "an empty object".into();
    }
    let names: Vec<String> = record.keys().map(|name| format!("`{name}`")).collect();
    format!("the fields {}", names.join(", "))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
