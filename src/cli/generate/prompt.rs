//! From what the user typed to the tokens that the model reads.

use crate::cli::terminal::note;
use crate::generate::{ToolFormat, check_tools};
use crate::load::{ChatTemplate, Tokenizer};
use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::Path;

/// The prompt of the flag, or of stdin if that is `-`.
pub fn read(given: &str) -> anyhow::Result<String> {
    let text = match given {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("--prompt -: stdin")?;
            // The line end that `echo` and editors add is not part of the question.
            text.strip_suffix('\n')
                .map(|text| text.strip_suffix('\r').unwrap_or(text))
                .unwrap_or(&text)
                .to_string()
        }
        text => text.replace("\\n", "\n").replace("\\t", "\t"),
    };
    ensure!(!text.is_empty(), "--prompt: wants text to answer, got none");
    Ok(text)
}

/// The value as an object.
pub fn object(value: Value) -> anyhow::Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        other => bail!("wants a JSON object, got {other}"),
    }
}

/// The variables of a chat template.
pub fn variables(text: &str) -> anyhow::Result<Map<String, Value>> {
    let wants = || format!("--chat-template-config: wants a JSON object, got {text}");
    object(serde_json::from_str(text).with_context(wants)?).with_context(|| "--chat-template-config")
}

/// The tools of `--tools`.
pub fn tools(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).map_err(crate::Error::io(path))?;
    let what = format!("--tools {}", path.display());
    let value = serde_json::from_str(&text).with_context(|| format!("{what}: wants a JSON list of tools"))?;
    check_tools(&what, &value)?;
    Ok(value)
}

/// How the model writes calls of the tools that `--tools` offers it; a note if that is not known.
pub fn tool_format(
    template: &ChatTemplate,
    tools: &Value,
    variables: &Map<String, Value>,
) -> anyhow::Result<Option<ToolFormat>> {
    let format = ToolFormat::for_tools("--tools", template, tools, &[message("user", "?")], variables)?;
    if format.is_none() {
        note("--tools: the model writes calls in a way that is not known here: they stay text");
    }
    Ok(format)
}

/// What the prompt is made of.
pub struct Parts<'a> {
    /// What the user asks.
    pub prompt: &'a str,
    /// What the model is told before.
    pub system: Option<&'a str>,
    /// How the answer begins.
    pub prefill: Option<&'a str>,
    /// The chat template's own variables.
    pub variables: Map<String, Value>,
    /// The tools the model may call.
    pub tools: Option<&'a Value>,
}

impl Parts<'_> {
    /// The conversation through the chat template, or the prompt as it is if there is none; and its tokens.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> anyhow::Result<(String, Vec<u32>)> {
        let Some(template) = template else {
            let tools = self.tools.map(|_| "");
            for (flag, given) in
                [("--system-prompt", self.system), ("--prefill-response", self.prefill), ("--tools", tools)]
            {
                ensure!(given.is_none(), "{flag}: wants a model with a chat template, got one without");
            }
            return Ok((self.prompt.to_string(), tokenizer.encode(self.prompt, true)?));
        };
        let text = self.render(template)?;
        let ids = tokenizer.encode(&text, false)?;
        Ok((text, ids))
    }

    /// The tokens of the conversation as far as the prompt has it: what comes after it is not there yet.
    pub fn beginning(
        &self,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> anyhow::Result<Vec<u32>> {
        let Some(template) = template else { return Ok(self.encode(tokenizer, None)?.1) };
        let text = self
            .continued(template, self.messages())?
            .context("wants a chat template that shows the prompt, got one that does not")?;
        Ok(tokenizer.encode(&text, false)?)
    }

    fn messages(&self) -> Vec<Value> {
        let system = self.system.map(|text| message("system", text));
        system.into_iter().chain([message("user", self.prompt)]).collect()
    }

    fn render(&self, template: &ChatTemplate) -> anyhow::Result<String> {
        let mut messages = self.messages();
        let Some(prefill) = self.prefill else {
            return Ok(template.render(&messages, self.tools, true, &self.variables)?);
        };
        messages.push(message("assistant", prefill));
        self.continued(template, messages)?
            .with_context(|| "--prefill-response: wants a chat template that shows it, got one that does not")
    }

    /// The conversation up to the end of its last message, as transformers' `continue_final_message`; none if the
    /// template does not show it.
    fn continued(&self, template: &ChatTemplate, mut messages: Vec<Value>) -> crate::Result<Option<String>> {
        // The message itself may occur in the template's closing marks, too.
        const END: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
        if let Some(last) = messages.last_mut() {
            last["content"] = json!(format!("{}{END}", last["content"].as_str().unwrap_or_default()));
        }
        let mut text = template.render(&messages, self.tools, false, &self.variables)?;
        let Some(at) = text.rfind(END.trim_end()) else { return Ok(None) };
        let whole = text[at..].starts_with(END);
        text.truncate(at);
        if !whole {
            // The template trims messages: this one, too, without the mark.
            text.truncate(text.trim_end().len());
        }
        Ok(Some(text))
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_on_where_its_beginning_ends() {
        let template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}\
            {% if add_generation_prompt %}<assistant>{% endif %}";
        let template = ChatTemplate::new(template, None, None).unwrap();
        let mut parts = Parts {
            prompt: "hi",
            system: Some("be brief"),
            prefill: None,
            variables: Map::new(),
            tools: None,
        };
        assert_eq!(parts.render(&template).unwrap(), "<system>be brief</s><user>hi</s><assistant>");
        parts.prefill = Some("Sure, ");
        assert_eq!(parts.render(&template).unwrap(), "<system>be brief</s><user>hi</s><assistant>Sure,");
        let template =
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
        let template = ChatTemplate::new(template, None, None).unwrap();
        for prefill in ["<", "e", "end", " ", "Sure, ", "<|im_end|>\n", "\n"] {
            parts.prefill = Some(prefill);
            let text = parts.render(&template).unwrap();
            assert!(text.ends_with(&format!("hi<|im_end|>\n<|im_start|>assistant\n{prefill}")), "{text}");
        }
        let mute = ChatTemplate::new("{{ messages[0].role }}", None, None).unwrap();
        assert!(parts.render(&mute).unwrap_err().to_string().contains("wants a chat template that shows it"));
    }

    #[test]
    fn a_prompt_has_mlx_lm_s_escapes_and_is_not_empty() {
        assert_eq!(read(r"a\nb\tc").unwrap(), "a\nb\tc");
        assert!(read("").unwrap_err().to_string().contains("--prompt: wants text"));
    }

    #[test]
    fn template_variables_are_an_object() {
        assert_eq!(variables(r#"{"enable_thinking": false}"#).unwrap()["enable_thinking"], false);
        for bad in ["[1]", "{", "thinking"] {
            assert!(format!("{:#}", variables(bad).unwrap_err()).contains("--chat-template-config"), "{bad}");
        }
    }
}
