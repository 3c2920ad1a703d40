//! Tool calls in a model's answer, as the chat templates of the families write them.
//!
//! | format  | text |
//! |---------|------|
//! | Hermes, Qwen | `<tool_call>{"name": "f", "arguments": {}}</tool_call>`, any number of them |
//! | Llama 3 | `{"name": "f", "parameters": {}}` as the whole answer, `<\|python_tag\|>` before it or not, `;` between calls |
//! | Mistral | `[TOOL_CALLS] [{"name": "f", "arguments": {}}]`, or `[TOOL_CALLS]f[ARGS]{}`, repeated |
//!
//! What does not parse as a call stays text.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::stop::begins;
use super::thinking::answer_start;
use crate::load::ChatTemplate;
use crate::{Error, Result};

/// How a model writes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// JSON between `<tool_call>` and `</tool_call>`.
    Hermes,
    /// JSON alone, or after `<|python_tag|>`.
    Llama,
    /// After `[TOOL_CALLS]`.
    Mistral,
}

impl ToolFormat {
    /// The format that a chat template writes calls in: none if it knows of no tools.
    pub fn of(template: &str) -> Option<Self> {
        match template {
            t if t.contains("[TOOL_CALLS]") => Some(ToolFormat::Mistral),
            t if t.contains("<tool_call>") => Some(ToolFormat::Hermes),
            t if t.contains("<|python_tag|>") || t.contains("\"parameters\": ") => Some(ToolFormat::Llama),
            _ => None,
        }
    }

    /// As [`of`](Self::of), for a conversation in which the model is offered `tools`, which `what` names; a template
    /// that does not show them to it is an error.
    pub fn for_tools(
        what: &str,
        template: &ChatTemplate,
        tools: &Value,
        messages: &[Value],
        variables: &Map<String, Value>,
    ) -> Result<Option<Self>> {
        let shown = |tools| template.render(messages, tools, true, variables).ok();
        // One that refuses the conversation says why when it is rendered.
        match (shown(Some(tools)), shown(None)) {
            (Some(with), Some(without)) if with == without => {
                Err(Error::wants(what, "a chat template that knows tools", "one that does not show them"))
            }
            _ => Ok(Self::of(template.tool_source())),
        }
    }

    /// The mark before a call.
    fn mark(self) -> &'static str {
        match self {
            ToolFormat::Hermes => "<tool_call>",
            ToolFormat::Llama => "<|python_tag|>",
            ToolFormat::Mistral => "[TOOL_CALLS]",
        }
    }
}

/// A call that a model asks for. It is serialized as OpenAI's API has it: the arguments are a JSON text.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// What the answer to it is told by. Nine letters and digits, as Mistral's templates insist, unless the model
    /// has said another.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments by name.
    pub arguments: Map<String, Value>,
}

impl ToolCall {
    /// The call as part of a message for a chat template: the arguments are an object.
    pub fn for_template(&self) -> Value {
        let function = json!({"name": self.name, "arguments": self.arguments});
        json!({"id": self.id, "type": "function", "function": function})
    }
}

impl Serialize for ToolCall {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let arguments = Value::Object(self.arguments.clone()).to_string();
        let function = json!({"name": self.name, "arguments": arguments});
        json!({"id": self.id, "type": "function", "function": function}).serialize(serializer)
    }
}

/// Refuses what is not a list of tools as OpenAI's API has it; `what` names its origin.
pub fn check_tools(what: &str, tools: &Value) -> Result<()> {
    let wants = r#"a list of tools: [{"type": "function", "function": {"name": …, "parameters": …}}, …]"#;
    let Value::Array(list) = tools else { return Err(Error::wants(what, wants, tools.to_string())) };
    match list.iter().find(|tool| !tool["function"]["name"].is_string()) {
        Some(bad) => Err(Error::wants(what, wants, bad.to_string())),
        None if list.is_empty() => Err(Error::wants(what, wants, "an empty list")),
        None => Ok(()),
    }
}

/// What becomes of a part of the answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Text.
    Text(String),
    /// A call.
    Call(ToolCall),
}

/// Finds calls in text that arrives in pieces. Text is held back only while it may be a call's.
#[derive(Debug, Clone)]
pub struct ToolParser {
    format: ToolFormat,
    names: Vec<String>,
    held: String,
    /// Whether the mark was seen, and what is held is a call's inside.
    inside: bool,
    started: bool,
    calls: usize,
}

impl ToolParser {
    /// A parser of one answer of a model that was offered `tools`, and has made `calls` calls before.
    pub fn new(format: ToolFormat, tools: &Value, calls: usize) -> Self {
        let list = tools.as_array().map_or(&[][..], Vec::as_slice);
        let names = list.iter().filter_map(|tool| tool["function"]["name"].as_str());
        let names = names.map(str::to_string).collect();
        ToolParser { format, names, held: String::new(), inside: false, started: false, calls }
    }

    /// Takes the next piece of text; what is certain now.
    pub fn push(&mut self, piece: &str) -> Vec<Said> {
        self.held.push_str(piece);
        let mut said = Vec::new();
        while self.advance(&mut said) {}
        said
    }

    /// The text has ended: what was held back is a call, or text.
    pub fn finish(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        let held = std::mem::take(&mut self.held);
        if self.inside {
            self.close(&held, &format!("{}{held}", self.format.mark()), &mut said);
        } else if self.format == ToolFormat::Llama {
            self.close(&held, &held, &mut said);
        } else {
            text(held, &mut said);
        }
        self.inside = false;
        said
    }

    /// Goes one step through what is held; whether there may be another.
    fn advance(&mut self, said: &mut Vec<Said>) -> bool {
        if self.inside {
            const END: &str = "</tool_call>";
            let (ToolFormat::Hermes, Some(at)) = (self.format, self.held.find(END)) else { return false };
            let rest = self.held.split_off(at + END.len());
            let held = std::mem::replace(&mut self.held, rest);
            self.close(&held[..at], &format!("{}{held}", self.format.mark()), said);
            self.inside = false;
            return true;
        }
        // Llama's calls need no mark when they are the whole answer.
        if self.format == ToolFormat::Llama && !self.started {
            match self.held.trim_start().chars().next() {
                None | Some('{') => return false,
                Some(_) => self.started = true,
            }
        }
        if let Some(at) = self.held.find(self.format.mark()) {
            let rest = self.held.split_off(at + self.format.mark().len());
            self.held.truncate(at);
            text(std::mem::replace(&mut self.held, rest), said);
            self.inside = true;
            return true;
        }
        let keep = self.held.split_off(self.held.len() - begins(&self.held, &[self.format.mark()]));
        text(std::mem::replace(&mut self.held, keep), said);
        false
    }

    /// The calls of `inside`, or all of it as text if it is none.
    fn close(&mut self, inside: &str, whole: &str, said: &mut Vec<Said>) {
        let calls = match self.format {
            ToolFormat::Hermes => {
                serde_json::from_str(inside.trim()).ok().and_then(|call| Some(vec![call_of(&call)?]))
            }
            ToolFormat::Llama => self.llama(inside),
            ToolFormat::Mistral => mistral(inside),
        };
        match calls {
            Some(calls) => {
                for (id, name, arguments) in calls {
                    self.calls += 1;
                    let id = id.unwrap_or_else(|| format!("call{:05}", self.calls));
                    said.push(Said::Call(ToolCall { id, name, arguments }));
                }
            }
            None => text(whole.to_string(), said),
        }
    }

    /// Objects with `;` or white space between them. Without the mark, an object is a call only of a tool there is.
    fn llama(&self, inside: &str) -> Option<Vec<Call>> {
        let mut rest = inside.trim();
        let mut calls = Vec::new();
        while !rest.is_empty() {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            let call = call_of(&values.next()?.ok()?)?;
            if !self.inside && !self.names.contains(&call.1) {
                return None;
            }
            calls.push(call);
            rest = rest[values.byte_offset()..].trim_start();
            rest = rest.strip_prefix(';').unwrap_or(rest).trim_start();
        }
        Some(calls).filter(|calls| !calls.is_empty())
    }
}

/// The calls in a whole answer to `prompt`, and the text beside them; `before` it were so many calls. What a thinking
/// model considers is no call.
pub fn tool_calls(
    format: ToolFormat,
    tools: &Value,
    prompt: &str,
    text: &str,
    before: usize,
) -> (String, Vec<ToolCall>) {
    let (thoughts, answer) = text.split_at(answer_start(prompt, text));
    let mut parser = ToolParser::new(format, tools, before);
    let mut said = parser.push(answer);
    said.extend(parser.finish());
    let (mut rest, mut calls) = (thoughts.to_string(), Vec::new());
    for said in said {
        match said {
            Said::Text(text) => rest += &text,
            Said::Call(call) => calls.push(call),
        }
    }
    if !calls.is_empty() {
        rest.truncate(rest.trim_end().len());
    }
    (rest, calls)
}

/// The id, if the model says one, the name and the arguments of a call.
type Call = (Option<String>, String, Map<String, Value>);

/// A call as all families write it in JSON: the arguments are an object, or the text of one.
fn call_of(value: &Value) -> Option<Call> {
    let arguments = match value.get("arguments").or_else(|| value.get("parameters"))? {
        Value::Object(arguments) => arguments.clone(),
        Value::String(text) => serde_json::from_str(text).ok()?,
        _ => return None,
    };
    let id = value.get("id").and_then(Value::as_str).map(str::to_string);
    Some((id, value.get("name")?.as_str()?.to_string(), arguments))
}

/// A list of calls, or names each with `[ARGS]` and an object; `[CALL_ID]` and an id may stand between the two.
fn mistral(inside: &str) -> Option<Vec<Call>> {
    let text = inside.trim();
    if text.starts_with('[') {
        let list: Vec<Value> = serde_json::from_str(text).ok()?;
        return list.iter().map(call_of).collect::<Option<Vec<_>>>().filter(|calls| !calls.is_empty());
    }
    let mut calls = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        // A parallel call may have the mark again.
        rest = rest.strip_prefix(ToolFormat::Mistral.mark()).unwrap_or(rest).trim_start();
        let (head, _) = rest.split_at(rest.find('{')?);
        let named = head.trim_end().strip_suffix("[ARGS]").unwrap_or(head).trim();
        let (name, id) = match named.split_once("[CALL_ID]") {
            Some((name, id)) => (name.trim(), Some(id.trim().to_string())),
            None => (named, None),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c)) {
            return None;
        }
        let mut values =
            serde_json::Deserializer::from_str(&rest[head.len()..]).into_iter::<Map<String, Value>>();
        calls.push((id, name.to_string(), values.next()?.ok()?));
        rest = rest[head.len() + values.byte_offset()..].trim_start();
    }
    Some(calls).filter(|calls| !calls.is_empty())
}

fn text(text: String, said: &mut Vec<Said>) {
    if !text.is_empty() {
        said.push(Said::Text(text));
    }
}

#[cfg(test)]
mod tests;
