//! A conversation: its messages, and the prompt they make with a model's chat template.

use serde_json::{Map, Value, json};

use super::thinking;
use super::tools::ToolCall;
use crate::load::{ChatTemplate, Tokenizer};
use crate::{Error, Result};

/// Messages in turns. A turn begins with what the user says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// What the model is told before all turns.
    pub system: Option<String>,
    /// The tools it may call, as OpenAI's API has them.
    pub tools: Option<Value>,
    /// The chat template's own variables.
    pub variables: Map<String, Value>,
    messages: Vec<Value>,
    /// The messages before this one are no longer shown to the model.
    first: usize,
}

/// A prompt that fits the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// What the model reads.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// How many turns were left out for it, beside those that were before.
    pub dropped: usize,
}

impl Conversation {
    /// The messages, the system's excepted.
    pub fn messages(&self) -> &[Value] {
        &self.messages
    }

    /// How many turns the model no longer sees.
    pub fn forgotten(&self) -> usize {
        self.messages[..self.first].iter().filter(|message| is_user(message)).count()
    }

    /// How many turns there are.
    pub fn turns(&self) -> usize {
        self.messages.iter().filter(|message| is_user(message)).count()
    }

    /// Takes messages as they were saved: objects with a role. A system message at the beginning replaces
    /// [`Conversation::system`].
    pub fn restore(&mut self, what: &str, messages: Vec<Value>) -> Result<()> {
        for message in &messages {
            let known = ["system", "user", "assistant", "tool"];
            let calls = message["tool_calls"].is_array();
            if !message["role"].as_str().is_some_and(|role| known.contains(&role))
                || !(message["content"].is_string() || message["content"].is_array() || calls)
            {
                return Err(Error::wants(what, "messages with a role and content", message.to_string()));
            }
        }
        let mut messages = messages;
        self.system = None;
        if let Some(system) = messages.first().filter(|message| message["role"] == "system") {
            self.system = system["content"].as_str().map(str::to_string);
            messages.remove(0);
        }
        (self.messages, self.first) = (messages, 0);
        Ok(())
    }

    /// All messages, the system's first: what [`Conversation::restore`] takes.
    pub fn saved(&self) -> Vec<Value> {
        self.with_system(&self.messages)
    }

    /// Forgets all messages.
    pub fn reset(&mut self) {
        (self.messages, self.first) = (Vec::new(), 0);
    }

    /// The user says something.
    pub fn ask(&mut self, text: &str) {
        self.messages.push(json!({"role": "user", "content": text}));
    }

    /// The model has answered `text`, after the prompt `prompt`, and asks for `calls`. Thoughts stay in the text: it
    /// is the template that leaves them out.
    pub fn answer(&mut self, prompt: &str, text: &str, calls: &[ToolCall]) {
        let content = if thinking::opens(prompt) { format!("<think>\n{text}") } else { text.to_string() };
        let mut message = json!({"role": "assistant", "content": content});
        if !calls.is_empty() {
            message["tool_calls"] = calls.iter().map(ToolCall::for_template).collect();
        }
        self.messages.push(message);
    }

    /// How many calls the model has made.
    pub fn calls(&self) -> usize {
        self.messages.iter().filter_map(|message| message["tool_calls"].as_array()).map(Vec::len).sum()
    }

    /// The calls of the last answer that have no result yet: their ids and names.
    pub fn pending(&self) -> Vec<(String, String)> {
        let results = self.messages.iter().rev().take_while(|message| message["role"] == "tool").count();
        let answer = self.messages.iter().rev().nth(results);
        let calls =
            answer.and_then(|message| message["tool_calls"].as_array()).map_or(&[][..], Vec::as_slice);
        let name = |call: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
            (text(&call["id"]), text(&call["function"]["name"]))
        };
        calls.iter().skip(results).map(name).collect()
    }

    /// Gives the result of the first call that has none; whether there was one.
    pub fn tool_result(&mut self, text: &str) -> bool {
        let Some((id, name)) = self.pending().into_iter().next() else { return false };
        self.messages.push(json!({"role": "tool", "tool_call_id": id, "name": name, "content": text}));
        true
    }

    /// Takes the last turn back; what the user said in it.
    pub fn undo(&mut self) -> Option<String> {
        let at = self.messages.iter().rposition(is_user)?;
        let text = self.messages[at]["content"].as_str().unwrap_or_default().to_string();
        self.messages.truncate(at);
        self.first = self.first.min(at);
        Some(text)
    }

    /// Takes the last answer back, to be given anew; whether there is something to answer.
    pub fn retract(&mut self) -> bool {
        if self.messages.last().is_some_and(|message| message["role"] == "assistant") {
            self.messages.pop();
            self.first = self.first.min(self.messages.len());
        }
        !self.messages.is_empty()
    }

    /// The prompt of the next answer, with room for `reserve` tokens in a context of `context`.
    ///
    /// When it does not fit, turns are left out from the oldest on, until half of the context is free or one turn is
    /// left; they stay left out, so that the turns to come find what they have in common in the cache. When not even
    /// one turn fits, none is left out.
    pub fn fit(
        &mut self,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
        context: usize,
        reserve: usize,
    ) -> Result<Fitted> {
        let (mut dropped, mut first) = (0, self.first);
        loop {
            let shown = self.with_system(&self.messages[first..]);
            let text = template.render(&shown, self.tools.as_ref(), true, &self.variables)?;
            let tokens = tokenizer.encode(&text, false)?;
            let most = if dropped == 0 { context.saturating_sub(reserve) } else { context / 2 };
            let next = self.messages[first..].iter().skip(1).position(is_user).map(|at| first + 1 + at);
            match next {
                Some(next) if tokens.len() > most => {
                    first = next;
                    dropped += 1;
                }
                None if tokens.len() >= context => {
                    let wants = format!("a turn of fewer tokens than the model's context, {context}");
                    return Err(Error::wants("conversation", wants, tokens.len().to_string()));
                }
                _ => {
                    self.first = first;
                    return Ok(Fitted { text, tokens, dropped });
                }
            }
        }
    }

    fn with_system(&self, messages: &[Value]) -> Vec<Value> {
        let system = self.system.as_ref().map(|text| json!({"role": "system", "content": text}));
        system.into_iter().chain(messages.iter().cloned()).collect()
    }
}

fn is_user(message: &Value) -> bool {
    message["role"] == "user"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}\
        {% if add_generation_prompt %}<assistant>{% endif %}";

    fn talk(turns: usize) -> Conversation {
        let mut talk = Conversation { system: Some("S".into()), ..Conversation::default() };
        for i in 0..turns {
            talk.ask(&format!("question {i}"));
            talk.answer("", &format!("answer {i}"), &[]);
        }
        talk
    }

    #[test]
    fn the_oldest_turns_go_when_the_window_is_full_and_stay_gone() {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model");
        let tokenizer = Tokenizer::open(&assets).unwrap();
        let template = ChatTemplate::new(TEMPLATE, None, None).unwrap();
        let mut talk = talk(6);
        talk.ask("last");
        let whole = talk.fit(&template, &tokenizer, 10_000, 100).unwrap();
        assert_eq!((whole.dropped, talk.forgotten()), (0, 0));
        assert!(whole.text.starts_with("<system>S<user>question 0<assistant>answer 0"), "{}", whole.text);
        let context = whole.tokens.len() + 10;
        let cut = talk.fit(&template, &tokenizer, context, 20).unwrap();
        assert!(cut.dropped > 1 && cut.dropped < 7 && cut.tokens.len() <= context / 2, "{cut:?}");
        assert!(cut.text.starts_with(&format!("<system>S<user>question {}<", cut.dropped)), "{}", cut.text);
        assert!(cut.text.ends_with("<user>last<assistant>"));
        let again = talk.fit(&template, &tokenizer, context, 20).unwrap();
        assert_eq!((again.dropped, &again.text), (0, &cut.text));
        assert_eq!(talk.messages().len(), 13, "the history is whole");
        let error = talk.fit(&template, &tokenizer, 5, 2).unwrap_err().to_string();
        assert!(error.contains("wants a turn of fewer tokens than the model's context, 5"), "{error}");
        assert_eq!(talk.forgotten(), cut.dropped, "nothing is left out for what does not fit");
    }

    #[test]
    fn turns_are_taken_back_and_saved() {
        let mut talk = talk(2);
        assert!(talk.retract());
        assert_eq!(talk.messages().last().unwrap()["content"], "question 1");
        assert_eq!(talk.undo().unwrap(), "question 1");
        assert_eq!(talk.undo().unwrap(), "question 0");
        assert!(talk.undo().is_none() && !talk.retract());
        let saved = super::tests::talk(2).saved();
        assert_eq!(saved.len(), 5);
        talk.restore("x", saved.clone()).unwrap();
        assert_eq!((talk.system.as_deref(), talk.saved()), (Some("S"), saved));
        for bad in [json!({"role": "king", "content": "x"}), json!({"role": "user"}), json!("x"), json!([1])]
        {
            let error = talk.restore("file", vec![bad]).unwrap_err().to_string();
            assert!(error.starts_with("file: wants messages with a role and content"), "{error}");
        }
    }

    #[test]
    fn results_go_to_the_calls_in_their_order() {
        let mut talk = talk(0);
        let call = |id: &str| ToolCall { id: id.into(), name: format!("f{id}"), arguments: Map::new() };
        talk.ask("q");
        talk.answer("", "", &[call("a"), call("b")]);
        assert_eq!(talk.pending(), [("a".into(), "fa".into()), ("b".into(), "fb".into())]);
        assert!(talk.tool_result("1"));
        assert_eq!(talk.pending(), [("b".into(), "fb".into())]);
        assert!(talk.tool_result("2") && !talk.tool_result("3"));
        assert_eq!(talk.messages().last().unwrap()["tool_call_id"], "b");
    }
}
