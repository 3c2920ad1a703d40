//! The state of a chat: the model, its adapters, what was said and what of it was read.

use super::command::{self, Command};
use super::screen::Screen;
use crate::cli::{draft, interrupt};
use crate::generate::{
    Conversation, Draft, Event, FinishReason, GenerateOptions, Generation, PromptCache, ToolFormat,
    ToolParser, cache_notes, generate_cached, generate_speculative, tool_calls,
};
use crate::load::{ChatTemplate, Tokenizer, atomic};
use crate::models::{Model, ReadyAdapter};
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// An adapter that can be put on the model.
pub struct Voice {
    /// What the user calls it.
    pub name: String,
    /// Where it comes from.
    pub path: PathBuf,
    /// Its tensors.
    pub adapter: ReadyAdapter,
}

/// A chat.
pub struct Session {
    model: Model,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    options: GenerateOptions,
    talk: Conversation,
    tool_format: Option<ToolFormat>,
    voices: Vec<Voice>,
    /// The adapter that is on.
    active: Option<String>,
    /// What each adapter has read: keys and values are not the same under another.
    caches: HashMap<Option<String>, PromptCache<Model>>,
    draft: Option<Draft<Model>>,
    answers: u64,
    last: Option<Generation>,
}

impl Session {
    /// A chat in which nothing was said, with no adapter.
    pub fn new(
        model: Model,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        options: GenerateOptions,
        talk: Conversation,
        draft: Option<Draft<Model>>,
    ) -> Self {
        Session {
            model,
            tokenizer,
            template,
            options,
            talk,
            tool_format: None,
            voices: Vec::new(),
            active: None,
            caches: HashMap::new(),
            draft,
            answers: 0,
            last: None,
        }
    }

    /// The same, where calls of tools are told by `format`.
    pub fn with_tools(mut self, format: Option<ToolFormat>) -> Self {
        self.tool_format = format;
        self
    }

    /// The same with adapters; the first is on.
    pub fn with_voices(mut self, voices: Vec<Voice>) -> Self {
        self.voices = voices;
        let first = self.voices.first().map(|voice| voice.name.clone());
        self.put_on(first);
        self
    }

    /// The names of the adapters.
    pub fn adapter_names(&self) -> Vec<String> {
        self.voices.iter().map(|voice| voice.name.clone()).collect()
    }

    /// What is shown at the beginning.
    pub fn greeting(&self, name: &str) -> String {
        let adapter = self.active.as_ref().map_or(String::new(), |name| format!(", adapter {name}"));
        let config = &self.model.config;
        format!(
            "{name}: {}, {:.1} M parameters, {:?}, context {}{adapter}\n/help lists the commands, Ctrl-D ends the chat\n",
            config.model_type,
            self.model.parameter_count() as f64 / 1e6,
            self.model.dtype(),
            config.max_position_embeddings
        )
    }

    /// The user says something, and the model answers.
    pub fn ask(&mut self, line: &str, screen: Screen) -> anyhow::Result<()> {
        let text = line.trim_start().strip_prefix("//").map(|rest| format!("/{rest}"));
        let before = self.talk.clone();
        self.talk.ask(text.as_deref().unwrap_or(line));
        self.answer_or(before, screen)
    }

    /// Does what a command says.
    pub fn obey(&mut self, command: Command, screen: Screen) -> anyhow::Result<()> {
        match command {
            Command::Help => screen.say(command::help()),
            Command::Reset => {
                self.talk.reset();
                screen.say("The conversation is forgotten");
            }
            Command::Retry => {
                let before = self.talk.clone();
                ensure!(self.talk.retract(), "/retry: wants a question to answer, got none");
                self.answer_or(before, screen)?;
            }
            Command::Undo => match self.talk.undo() {
                Some(text) => screen.say(format!("Taken back: {text}")),
                None => bail!("/undo: wants a question to take back, got none"),
            },
            Command::System(None) => screen.say(self.talk.system.as_deref().unwrap_or("No system prompt")),
            Command::System(Some(text)) => {
                self.talk.system = (text != "off").then_some(text);
                screen.say("The system prompt is changed; the conversation goes on");
            }
            Command::Adapter(None) => screen.say(self.active.as_deref().unwrap_or("No adapter")),
            Command::Adapter(Some(name)) if name == "off" => {
                self.put_on(None);
                screen.say("The model is as it was before any adapter");
            }
            Command::Adapter(Some(name)) => {
                let names = self.adapter_names();
                let known = if names.is_empty() {
                    "none (--adapter NAME=DIR loads one)".into()
                } else {
                    names.join(", ")
                };
                ensure!(names.contains(&name), "/adapter: wants off or one of {known}, got {name:?}");
                screen.say(format!("Adapter {name}"));
                self.put_on(Some(name));
            }
            Command::Adapters => self.adapters(screen),
            Command::Set(None) => screen.say(self.settings()),
            Command::Set(Some((name, value))) => self.set(&name, &value, screen)?,
            Command::Save(path) => self.save(&path, screen)?,
            Command::Load(path) => self.load(&path, screen)?,
            Command::Tool(text) => {
                let before = self.talk.clone();
                ensure!(self.talk.tool_result(&text), "/tool: wants a call that has no result yet, got none");
                match self.talk.pending().first() {
                    Some((_, name)) => screen.say(format!("{name} wants a result, too: /tool TEXT")),
                    None => self.answer_or(before, screen)?,
                }
            }
            Command::Stats => screen.say(self.stats()),
            Command::Tokens => screen.say(self.tokens()?),
            Command::Exit => {}
        }
        Ok(())
    }

    /// Lets the model answer; the conversation is as it was `before` if it said nothing.
    fn answer_or(&mut self, before: Conversation, screen: Screen) -> anyhow::Result<()> {
        let said = self.answer(screen);
        if !matches!(said, Ok(true)) {
            self.talk = before;
        }
        said.map(drop)
    }

    /// Lets the model answer; whether it said anything before it was stopped.
    fn answer(&mut self, screen: Screen) -> anyhow::Result<bool> {
        let context = self.model.config.max_position_embeddings;
        let reserve = self.options.max_tokens.unwrap_or(usize::MAX).min(context / 4);
        let fitted = self.talk.fit(&self.template, &self.tokenizer, context, reserve)?;
        if fitted.dropped > 0 {
            let forgotten = self.talk.forgotten();
            screen.say(format!(
                "The context is full: the model no longer sees the oldest turns, {forgotten} so far"
            ));
        }
        let room = context - fitted.tokens.len();
        // With a seed, the same chat has the same answers, and /retry another.
        let mut options = self.options.with_seed_after(self.answers);
        options.max_tokens = Some(options.max_tokens.map_or(room, |most| most.min(room)));

        let calls = self.tool_format.zip(self.talk.tools.clone());
        let called = self.talk.calls();
        let parser = calls.as_ref().map(|(format, tools)| ToolParser::new(*format, tools, called));
        let mut view = screen.answer(&fitted.text, parser);
        let mut shown = Ok(());
        let on_event = |event: Event| {
            if let Event::Token { text, .. } = event {
                shown = view.push(text);
            }
            if shown.is_err() { ControlFlow::Break(()) } else { interrupt::flow() }
        };
        let cache = self.caches.entry(self.active.clone()).or_default();
        let (model, tokenizer, ids) = (&self.model, &self.tokenizer, &fitted.tokens);
        let answer = match &mut self.draft {
            Some(draft) => generate_speculative(model, draft, tokenizer, ids, cache, &options, on_event)?,
            None => generate_cached(model, tokenizer, ids, cache, &options, on_event)?,
        };
        shown?;
        view.finish()?;
        self.answers += 1;
        let said = !answer.tokens.is_empty();
        match answer.finish_reason {
            FinishReason::Cancelled if !said => {
                screen.say("Stopped before the answer began; the question is taken back")
            }
            FinishReason::Cancelled => screen.say("Stopped"),
            FinishReason::Length if answer.tokens.len() == room => screen.say("Cut: the context is full"),
            FinishReason::Length => screen.say("Cut at max_tokens; /set max_tokens allows more"),
            _ => {}
        }
        if said {
            let (text, calls) = match calls {
                Some((format, tools)) => tool_calls(format, &tools, &fitted.text, &answer.text, called),
                None => (answer.text.clone(), Vec::new()),
            };
            self.talk.answer(&fitted.text, &text, &calls);
            if !calls.is_empty() {
                screen.say("/tool TEXT gives the result");
            }
        }
        self.last = Some(answer);
        Ok(said)
    }

    fn put_on(&mut self, name: Option<String>) {
        match self.voices.iter().find(|voice| Some(&voice.name) == name.as_ref()) {
            Some(voice) => self.model.attach_adapter(&voice.adapter),
            None => self.model.detach_adapter(),
        }
        self.active = name;
    }

    fn adapters(&self, screen: Screen) {
        if self.voices.is_empty() {
            screen.say("No adapters; --adapter NAME=DIR loads one");
        }
        for Voice { name, path, .. } in &self.voices {
            let mark = if self.active.as_ref() == Some(name) { "*" } else { " " };
            screen.say(format!("{mark} {name}  {}", path.display()));
        }
    }

    /// How answers are sampled, by name.
    fn settings(&self) -> String {
        let mut settings = vec![format!("max_tokens {}", shown(&json!(self.options.max_tokens)))];
        if let Ok(Value::Object(sampler)) = serde_json::to_value(&self.options.sampler) {
            settings.extend(sampler.iter().map(|(name, value)| format!("{name} {}", shown(value))));
        }
        settings.join("\n")
    }

    fn set(&mut self, name: &str, value: &str, screen: Screen) -> anyhow::Result<()> {
        let name = match name.replace('-', "_") {
            name if name == "temp" => "temperature".to_string(),
            name => name,
        };
        let mut sampler = serde_json::to_value(&self.options.sampler)?;
        sampler["max_tokens"] = json!(self.options.max_tokens);
        let names: Vec<&str> =
            sampler.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        ensure!(names.contains(&name.as_str()), "/set: wants one of {}, got {name:?}", names.join(", "));
        sampler[&name] = match value {
            "none" | "off" => Value::Null,
            number => serde_json::from_str(number).unwrap_or_else(|_| json!(number)),
        };
        let most = sampler.as_object_mut().and_then(|map| map.remove("max_tokens"));
        let wants = || format!("/set {name}: wants a number that fits, got {value:?}");
        let mut options = self.options.clone();
        options.max_tokens = serde_json::from_value(most.unwrap_or_default()).with_context(wants)?;
        options.sampler = serde_json::from_value(sampler).with_context(wants)?;
        options.validate()?;
        self.options = options;
        screen.say(format!("{name} {value}"));
        Ok(())
    }

    fn save(&self, path: &Path, screen: Screen) -> anyhow::Result<()> {
        let messages = self.talk.saved();
        if path.extension().is_some_and(|end| end == "safetensors") {
            let Some(cache) = self.caches.get(&self.active).filter(|cache| !cache.tokens().is_empty()) else {
                bail!("/save {}: wants a conversation that the model has read, got none", path.display())
            };
            cache.save(path, &self.model, &[("messages", &serde_json::to_string(&messages)?)])?;
        } else {
            atomic::write(path, serde_json::to_string_pretty(&json!({"messages": messages}))? + "\n")?;
        }
        screen.say(format!("Saved {} messages to {}", messages.len(), path.display()));
        Ok(())
    }

    /// Goes on with the conversation in a file that [`Session::save`] has written.
    pub fn load(&mut self, path: &Path, screen: Screen) -> anyhow::Result<()> {
        let what = path.display().to_string();
        let wants = || format!("{what}: wants a conversation: {{\"messages\": [...]}}");
        let (text, cache) = if is_cache(path)? {
            let notes = cache_notes(path)?;
            let messages = notes.get("messages").with_context(|| {
                format!("{what}: wants a conversation, got a prompt of cache-prompt (generate --prompt-cache-file)")
            })?;
            let cache = PromptCache::load(path, &self.model)?.0;
            (format!("{{\"messages\": {messages}}}"), Some(cache))
        } else {
            (std::fs::read_to_string(path).map_err(crate::Error::io(path))?, None)
        };
        let mut value: Value = serde_json::from_str(&text).with_context(wants)?;
        let messages = value.get_mut("messages").map(Value::take).unwrap_or(value);
        let Value::Array(messages) = messages else { bail!(wants()) };
        self.talk.restore(&what, messages)?;
        if let Some(cache) = cache {
            self.caches.insert(self.active.clone(), cache);
        }
        screen.say(format!("{what}: {} messages", self.talk.messages().len()));
        Ok(())
    }

    /// Changes what the model is told before the conversation.
    pub fn set_system(&mut self, text: String) {
        self.talk.system = Some(text);
    }

    fn stats(&self) -> String {
        let Some(last) = &self.last else { return "No answer yet".to_string() };
        let read = last.prompt_tokens - last.cached_tokens;
        let mut text = format!(
            "Prompt: {} tokens, {} of them cached, {read} read at {:.1} tokens/s\nAnswer: {} tokens at {:.1} tokens/s",
            last.prompt_tokens,
            last.cached_tokens,
            last.prefill_tokens_per_s,
            last.tokens.len(),
            last.decode_tokens_per_s
        );
        if let Some(drafted) = last.draft {
            text += &format!("\nDraft: {}", draft::rate(drafted));
        }
        text
    }

    fn tokens(&self) -> anyhow::Result<String> {
        let context = self.model.config.max_position_embeddings;
        let used = match self.talk.messages() {
            [] => 0,
            _ => self.talk.clone().fit(&self.template, &self.tokenizer, context, 0)?.tokens.len(),
        };
        let turns = self.talk.turns() - self.talk.forgotten();
        Ok(format!("{used} of {context} tokens; turns {turns}, left out {}", self.talk.forgotten()))
    }
}

/// Whether a file is a prompt cache, by its name or its content: a safetensors file begins with a length in eight bytes,
/// of which the last is zero.
fn is_cache(path: &Path) -> anyhow::Result<bool> {
    let mut begin = Vec::new();
    File::open(path).and_then(|file| file.take(8).read_to_end(&mut begin)).map_err(crate::Error::io(path))?;
    Ok(path.extension().is_some_and(|end| end == "safetensors") || begin.get(7) == Some(&0))
}

/// A setting as it is typed.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_string(),
        // f32 settings would show digits they do not have.
        Value::Number(number) if number.is_f64() => format!("{}", number.as_f64().unwrap_or(0.0) as f32),
        other => other.to_string(),
    }
}
