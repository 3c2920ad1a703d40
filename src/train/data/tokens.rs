//! A model's own tokenizer and chat template as the dataset's [`Encode`].

use serde_json::{Map, Value};

use super::Encode;
use crate::load::{ChatTemplate, Tokenizer};
use crate::{Error, Result};

/// Encodes rows as the model was trained to read them.
pub struct ModelEncoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The model's chat template; without one only text rows can be read.
    pub template: Option<&'a ChatTemplate>,
    /// The template's own variables, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

impl<'a> ModelEncoder<'a> {
    /// An encoder that gives the template no variables of its own.
    pub fn new(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>) -> Self {
        ModelEncoder { tokenizer, template, variables: Map::new() }
    }
}

impl Encode for ModelEncoder<'_> {
    fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(text, true)?;
        // The tokenizer's own EOS, as mlx-lm has it; a model may name more tokens that end a generation.
        let eos = self.tokenizer.eos_id().or_else(|| self.tokenizer.eos_ids().first().copied());
        if let Some(eos) = eos.filter(|eos| tokens.last() != Some(eos)) {
            tokens.push(eos);
        }
        Ok(tokens)
    }

    fn encode_chat(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let template = self.template.ok_or_else(|| Error::Template {
            message: "the model has none, and only `text` rows do without".into(),
        })?;
        let text = template.render(messages, tools, add_generation_prompt, &self.variables)?;
        // The template writes the special tokens itself.
        self.tokenizer.encode(&text, false)
    }
}
