//! Chat templates: messages to the prompt a model was trained on, byte for byte as transformers renders it.
//!
//! Templates are Jinja2 with Hugging Face's extensions (`raise_exception`, `strftime_now`, `tojson` with
//! Python's options, `{% generation %}`, loop controls), trimmed as transformers trims them.

use std::ops::Range;
use std::path::Path;

use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};

use super::{ModelDir, tokenizer};
use crate::{Error, Result};

mod generation;
mod methods;
mod python;

/// A model's chat template.
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    /// The template for conversations with tools, if it is another.
    tool_source: Option<String>,
    special: Vec<(String, String)>,
    has_generation: bool,
    now: Option<chrono::NaiveDateTime>,
}

impl ChatTemplate {
    /// The chat template of a model directory, if it has one: `chat_template.jinja`, else
    /// `chat_template.json`, else `chat_template` in `tokenizer_config.json`.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        Self::load(&ModelDir::at(dir))
    }

    /// The chat template of a model, embedded or in a directory.
    pub fn load(model: &ModelDir) -> Result<Option<Self>> {
        let config = model.object("tokenizer_config.json")?.unwrap_or_default();
        let map = model.object("special_tokens_map.json")?.unwrap_or_default();
        let (source, mut tool_source) = match model.bytes("chat_template.jinja")? {
            Some(bytes) => (Some(utf8(&model.path.join("chat_template.jinja"), &bytes)?), None),
            None => {
                let json = model.object("chat_template.json")?.unwrap_or_default();
                let value = json.get("chat_template").or_else(|| config.get("chat_template"));
                named(&model.path, value.unwrap_or(&Value::Null))?
            }
        };
        let tool_file = "additional_chat_templates/tool_use.jinja";
        if let Some(bytes) = model.bytes(tool_file)? {
            tool_source = Some(utf8(&model.path.join(tool_file), &bytes)?);
        }
        let Some(source) = source else { return Ok(None) };
        let special = tokenizer::special_tokens(&config, &map);
        Self::compile(&source, tool_source.as_deref(), special).map(Some)
    }

    /// A template from its source, with the tokens it may print; `None` is undefined in the template.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        let named = [("bos_token", bos), ("eos_token", eos)];
        let special =
            named.into_iter().filter_map(|(name, text)| Some((name.to_string(), text?.to_string())));
        Self::compile(source, None, special.collect())
    }

    fn compile(source: &str, tool_source: Option<&str>, special: Vec<(String, String)>) -> Result<Self> {
        let (source, mut has_generation) = generation::rewrite(&newlines(source));
        let tool_source = tool_source.map(|tool_source| {
            let (tool_source, tools_have) = generation::rewrite(&newlines(tool_source));
            has_generation |= tools_have;
            tool_source
        });
        let env = environment(&source, tool_source.as_deref(), None, None)?;
        Ok(ChatTemplate { env, source, tool_source, special, has_generation, now: None })
    }

    /// Fixes what `strftime_now` sees, which is the local time otherwise: the same prompt every day.
    pub fn at(mut self, now: chrono::NaiveDateTime) -> Result<Self> {
        self.now = Some(now);
        self.env = environment(&self.source, self.tool_source.as_deref(), None, self.now)?;
        Ok(self)
    }

    /// The source of the template for conversations with tools: it tells how the model writes a call.
    pub fn tool_source(&self) -> &str {
        self.tool_source.as_deref().unwrap_or(&self.source)
    }

    /// Whether the template marks the assistant's words with `{% generation %}`.
    pub fn has_generation(&self) -> bool {
        self.has_generation
    }

    /// The prompt of a conversation.
    ///
    /// `messages` are objects with `role` and `content`, `tools` a list of function schemas, and `extra` the
    /// template's own variables, such as `enable_thinking`. As transformers does, keys of a message that are
    /// null count as absent, and reasoning is found under all of its names.
    pub fn render(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<String> {
        let context = self.context(messages, tools, add_generation_prompt, extra)?;
        self.run(&self.env, tools, context)
    }

    /// The prompt, and the byte ranges of it that are inside `{% generation %}` blocks: what the assistant
    /// says. Empty if [`has_generation`](Self::has_generation) is false.
    pub fn render_with_spans(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<(String, Vec<Range<usize>>)> {
        let context = self.context(messages, tools, add_generation_prompt, extra)?;
        if !self.has_generation {
            return Ok((self.run(&self.env, tools, context)?, Vec::new()));
        }
        let plain = self.run(&self.env, tools, context.clone())?;
        let texts = [plain.as_str(), &self.source, self.tool_source.as_deref().unwrap_or_default()];
        let Some(marks) = generation::free_marks(texts.into_iter()) else {
            return Err(Error::Template {
                message: "the conversation uses every noncharacter of Unicode".into(),
            });
        };
        let env = environment(&self.source, self.tool_source.as_deref(), Some(marks), self.now)?;
        let (text, spans) = generation::take_marks(&self.run(&env, tools, context)?, marks);
        // A template that measures or trims a finished block sees the marks; then there are no true spans.
        if text == plain {
            return Ok((text, spans));
        }
        Err(Error::Template { message: "{% generation %} blocks inside text that the template edits".into() })
    }

    fn run(&self, env: &Environment, tools: Option<&Value>, context: minijinja::Value) -> Result<String> {
        let name = if tools.is_some() && self.tool_source.is_some() { "tool_use" } else { "default" };
        let mut out = Bounded(Vec::new());
        let rendered = env
            .get_template(name)
            .and_then(|template| template.render_captured_to(context, &mut out).map(drop));
        rendered.map_err(|error| failed(&error))?;
        String::from_utf8(out.0).map_err(|error| Error::Template { message: error.to_string() })
    }

    fn context(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<minijinja::Value> {
        let mut context: Vec<(String, minijinja::Value)> = Vec::new();
        context.push(("documents".into(), minijinja::Value::from(())));
        context.extend(self.special.iter().map(|(name, text)| (name.clone(), text.as_str().into())));
        context.extend(extra.iter().map(|(name, value)| (name.clone(), value_of(value))));
        let mut list = Vec::with_capacity(messages.len());
        for message in messages {
            let Value::Object(message) = message else {
                return Err(Error::Template {
                    message: format!("wants messages that are objects, got {message}"),
                });
            };
            list.push(value_of(&Value::Object(normalized(message))));
        }
        context.push(("messages".into(), list.into()));
        context.push(("tools".into(), tools.map_or(minijinja::Value::from(()), value_of)));
        context.push(("add_generation_prompt".into(), add_generation_prompt.into()));
        Ok(minijinja::Value::from_pairs(context))
    }
}

/// The templates under the key `chat_template`: one, or a list of named ones.
fn named(path: &Path, value: &Value) -> Result<(Option<String>, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_string);
    match value {
        Value::Null => Ok((None, None)),
        // Some models say so that they have none.
        Value::String(text) if text.is_empty() => Ok((None, None)),
        Value::String(text) => Ok((Some(text.clone()), None)),
        Value::Array(list) => {
            let find = |name: &str| text(list.iter().find(|item| item["name"] == name)?.get("template")?);
            match find("default") {
                Some(default) => Ok((Some(default), find("tool_use"))),
                None => {
                    let got: Vec<String> = list.iter().map(|item| item["name"].to_string()).collect();
                    let what = format!("{}: chat_template", path.display());
                    Err(Error::wants(what, "a template named \"default\"", got.join(", ")))
                }
            }
        }
        other => {
            let what = format!("{}: chat_template", path.display());
            Err(Error::wants(what, "a template or a list of named ones", other.to_string()))
        }
    }
}

/// Steps a template may take, a second or so: ten thousand messages take some three million.
const FUEL: u64 = 10_000_000;
/// Bytes a prompt may have: some four million tokens.
const LONGEST: usize = 16 << 20;

/// Text that ends with an error instead of filling the memory.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST {
            return Err(std::io::Error::other(format!(
                "wants a prompt of at most {LONGEST} bytes, got more"
            )));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn environment(
    source: &str,
    tool_source: Option<&str>,
    marks: Option<generation::Marks>,
    now: Option<chrono::NaiveDateTime>,
) -> Result<Environment<'static>> {
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    let syntax = env.syntax().to_builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|error| failed(&error))?);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(|out, _, value| Ok(python::str(out, value)?));
    env.add_filter("tojson", python::tojson);
    env.add_filter("indent", python::indent);
    env.add_filter("generation", move |text: String| match marks {
        Some((open, close)) => format!("{open}{text}{close}"),
        None => text,
    });
    // In Python a string or a dict is a sequence too.
    env.add_test("sequence", |value: &minijinja::Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map)
    });
    env.add_function("raise_exception", |message: String| -> std::result::Result<(), minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, "the template refused")
            .with_source(Raised(message)))
    });
    env.add_function("strftime_now", move |format: &str| {
        use std::fmt::Write;
        let now = now.unwrap_or_else(|| chrono::Local::now().naive_local());
        let mut text = String::new();
        write!(text, "{}", now.format(format)).map_err(|_| {
            minijinja::Error::new(
                ErrorKind::InvalidOperation,
                format!("strftime_now: unknown format {format:?}"),
            )
        })?;
        Ok::<_, minijinja::Error>(text)
    });
    let templates = [("default", Some(source)), ("tool_use", tool_source)];
    for (name, source) in templates.into_iter().filter_map(|(name, source)| Some((name, source?))) {
        env.add_template_owned(name, source.to_string()).map_err(|error| failed(&error))?;
    }
    Ok(env)
}

/// What a template passed to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn failed(error: &minijinja::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Error::Template { message: message.clone() };
        }
        source = error.source();
    }
    Error::Template { message: error.to_string() }
}

/// A message as transformers hands it to the template.
fn normalized(message: &Map<String, Value>) -> Map<String, Value> {
    let present = message.iter().filter(|(_, value)| !value.is_null());
    let present = present.map(|(key, value)| (key.clone(), value.clone()));
    let reasoning = ["reasoning_content", "thinking", "reasoning"];
    let Some(reasoning) = reasoning.iter().filter_map(|key| message.get(*key)).find(|value| !value.is_null())
    else {
        return present.collect();
    };
    let mut aliased = Map::from_iter([("thinking".to_string(), reasoning.clone())]);
    aliased.extend(present);
    aliased.insert("reasoning_content".to_string(), reasoning.clone());
    aliased
}

fn value_of(value: &Value) -> minijinja::Value {
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => integer.into(),
            (_, Some(integer)) => integer.into(),
            _ => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(list) => list.iter().map(value_of).collect::<Vec<_>>().into(),
        Value::Object(map) => {
            minijinja::Value::from_pairs(map.iter().map(|(key, value)| (key.as_str(), value_of(value))))
        }
    }
}

/// Jinja reads every kind of line end as `\n`.
fn newlines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

fn utf8(path: &Path, bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|error| Error::wants(path.display().to_string(), "UTF-8", error.to_string()))
}

#[cfg(test)]
mod tests;
