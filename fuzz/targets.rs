//! What each fuzz target does with its input. The result does not matter: that there is one does, in time and
//! memory in proportion to the input.

use metal_candle::cli;
use metal_candle::load::{ChatTemplate, ModelDir, PeftConfig, Tokenizer, Weights, adapter};
use metal_candle::models::Config;
use metal_candle::train::data::{Encode, Mask, Options, split};
use serde_json::{Map, Value, json};
use std::path::Path;

/// A target: its name and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const ALL: &[Target] = &[
    ("safetensors", safetensors),
    ("index", index),
    ("rows", rows),
    ("adapter_config", adapter_config),
    ("model_config", model_config),
    ("tokenizer", tokenizer),
    ("chat_template", chat_template),
    ("train_config", train_config),
];

/// Gives an input to the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = ALL.iter().find(|(other, _)| *other == name).expect("a target of this name");
    target(data);
}

/// A safetensors file: its header, and every tensor it announces.
fn safetensors(data: &[u8]) {
    let Ok(weights) = Weights::from_bytes("input", data.to_vec()) else { return };
    for name in weights.names() {
        weights.load(name, &candle_core::Device::Cpu).ok();
    }
}

/// `model.safetensors.index.json` beside one small shard.
fn index(data: &[u8]) {
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let shard = [&(header.len() as u64).to_le_bytes(), header.as_slice(), &[0; 4]].concat();
    let files =
        [("model-00001-of-00001.safetensors", shard.as_slice()), ("model.safetensors.index.json", data)];
    in_directory(&files, |dir| drop(Weights::open(dir)));
}

/// A JSONL file of training rows.
fn rows(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for mask in [Mask::None, Mask::LastAssistant, Mask::AllAssistant] {
        split(Path::new("input"), text, &Options { mask, ..Options::default() }, &Bytes).ok();
    }
}

/// `adapter_config.json`, of PEFT and of mlx-lm, read and written again.
fn adapter_config(data: &[u8]) {
    if let Ok(map) = serde_json::from_slice::<Map<String, Value>>(data)
        && let Ok(config) = PeftConfig::from_json(Path::new("input"), &map)
    {
        config.targets("model.layers.0.self_attn.q_proj").ok();
        let again: Map<String, Value> =
            serde_json::from_str(&config.to_json()).expect("what is written is JSON");
        PeftConfig::from_json(Path::new("written"), &again).expect("what is written can be read");
    }
    let header = br#"{"model.layers.0.self_attn.q_proj.lora_a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"model.layers.0.self_attn.q_proj.lora_b":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}"#;
    let tensors = [&(header.len() as u64).to_le_bytes(), header.as_slice(), &[0; 8]].concat();
    let files = [("adapters.safetensors", tensors.as_slice()), ("adapter_config.json", data)];
    in_directory(&files, |dir| drop(adapter::read(dir)));
}

/// `config.json`, and `generation_config.json` of the same text.
fn model_config(data: &[u8]) {
    in_directory(&[("config.json", data), ("generation_config.json", data)], |dir| {
        let dir = ModelDir::at(dir);
        Config::open(&dir).ok();
        dir.generation_config().ok();
    });
}

/// `tokenizer.json`, put to work.
fn tokenizer(data: &[u8]) {
    in_directory(&[("tokenizer.json", data)], |dir| {
        let Ok(tokenizer) = Tokenizer::open(dir) else { return };
        if let Ok(ids) = tokenizer.encode("Hello, \u{1F600} world\n\n  12345", true) {
            tokenizer.decode(&ids, true).ok();
        }
    });
}

/// A chat template, rendered.
fn chat_template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::new(text, Some("<s>"), Some("</s>")) else { return };
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "Hi"}),
        json!({"role": "assistant", "content": "Hello"}),
        json!({"role": "user", "content": [{"type": "text", "text": "Bye"}]}),
    ];
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    template.render(&messages, None, true, &Map::new()).ok();
    template.render_with_spans(&messages[..3], Some(&tools), false, &Map::new()).ok();
}

/// The YAML file of `train --config`.
fn train_config(data: &[u8]) {
    in_directory(&[("config.yaml", data)], |dir| drop(cli::check_train_config(&dir.join("config.yaml"))));
}

fn in_directory(files: &[(&str, &[u8])], run: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).expect("a file in it");
    }
    run(dir.path());
}

/// A token for each byte, and a chat template that writes role and content.
struct Bytes;

impl Encode for Bytes {
    fn encode_text(&self, text: &str) -> metal_candle::Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).chain([256]).collect())
    }

    fn encode_chat(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
    ) -> metal_candle::Result<Vec<u32>> {
        let mut text = tools.map(Value::to_string).unwrap_or_default();
        messages.iter().for_each(|message| text += &message.to_string());
        text += if add_generation_prompt { "assistant" } else { "" };
        Ok(text.bytes().map(u32::from).collect())
    }
}
