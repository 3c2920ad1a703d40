//! `metal-candle generate`.

use super::Place;
use crate::fixture;
use candle_core::Device;
use serde_json::{Value, json};

/// A place with a fixture's model in which the word `tN` is token N: prompts of any tokens can be typed.
fn by_number(name: &str) -> Place {
    let place = Place::new();
    place.model(name);
    let vocab: serde_json::Map<String, Value> = (0..320).map(|i| (format!("t{i}"), json!(i))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}
    });
    place.write("model/tokenizer.json", tokenizer.to_string()).write("model/tokenizer_config.json", "{}");
    std::fs::remove_file(place.path("model/chat_template.jinja")).ok();
    place
}

fn numbers(ids: &[i64]) -> String {
    ids.iter().map(|id| format!("t{id}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn greedy_is_what_transformers_says() {
    for name in ["llama", "qwen3", "gemma3"] {
        let golden = fixture(&format!("models/{name}/golden.safetensors"));
        let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
        let prompt = golden["input_ids"].to_vec2::<i64>().unwrap().swap_remove(0);
        let greedy = golden["greedy"].to_vec1::<i64>().unwrap();
        let place = by_number(name);
        let flags = "generate --model model --temp 0 --repetition-penalty 1 --max-tokens 16 --dtype f32 --json --prompt";
        let words = numbers(&prompt[..8]);
        let args: Vec<&str> = flags.split(' ').chain([words.as_str()]).collect();
        let answer = place.run_with(&args, "").ok().json();
        assert_eq!(answer["tokens"], json!(greedy), "{name}");
        assert_eq!(answer["text"], json!(numbers(&greedy)), "{name}");
        assert_eq!(
            (&answer["finish_reason"], &answer["prompt_tokens"]),
            (&json!("length"), &json!(8)),
            "{name}"
        );

        // The same from stdin, as text, without a word on stderr.
        let flags = flags.replace("--json --prompt", "--verbose False --prompt -");
        let ended = place.run_with(&flags.split(' ').collect::<Vec<_>>(), &format!("{words}\n")).ok();
        assert_eq!(
            (ended.stdout, ended.stderr),
            (format!("{}\n", numbers(&greedy)), String::new()),
            "{name}"
        );
    }
}

#[test]
fn an_answer_has_all_that_json_promises() {
    let place = Place::new();
    place.model("llama");
    let adapter = fixture("models/llama/adapter").display().to_string();
    let flags = "generate --model model --prompt hello --max-tokens 6 --json --top-logprobs 3 --seed 5";
    let plain = place.run(flags).ok().json();
    for key in
        ["model", "prompt", "text", "tokens", "logprobs", "top_logprobs", "finish_reason", "seed", "adapter"]
    {
        assert!(plain.get(key).is_some(), "{key}: {plain}");
    }
    for key in
        ["prefill_seconds", "decode_seconds", "prefill_tokens_per_s", "decode_tokens_per_s", "peak_mem_gb"]
    {
        assert!(plain[key].as_f64().is_some_and(|x| x > 0.0), "{key}: {plain}");
    }
    assert_eq!(
        (&plain["model"], &plain["prompt"], &plain["seed"]),
        (&json!("model"), &json!("hello"), &json!(5))
    );
    assert_eq!(plain["top_logprobs"][0].as_array().map(Vec::len), Some(3));
    // The chat template was there: it opens with the beginning of text and a system header.
    assert!(plain["prompt_tokens"].as_u64().unwrap() > 20, "{plain}");
    let raw = place.run(&format!("{flags} --ignore-chat-template")).ok().json();
    assert!(raw["prompt_tokens"].as_u64().unwrap() < 10, "{raw}");

    let adapted = place.run(&format!("{flags} --adapter {adapter}")).ok().json();
    assert_ne!(adapted["logprobs"], plain["logprobs"]);
    assert_eq!(adapted["adapter"], json!(adapter));
    let same = place.run(&format!("{flags} --adapter-path {adapter}")).ok().json();
    assert_eq!(adapted["tokens"], same["tokens"]);
}

#[test]
fn a_seed_repeats_an_answer() {
    let place = Place::new();
    place.model("llama");
    let flags =
        "generate --model model --prompt hello --temperature 1.5 --max-tokens 20 --verbose False --seed";
    let answer = |seed: &str| place.run(&format!("{flags} {seed}")).ok().stdout;
    assert_eq!(answer("1"), answer("1"));
    assert_ne!(answer("1"), answer("2"));
}

#[test]
fn what_does_not_fit_is_cut_with_a_note() {
    let place = Place::new();
    place.model("llama");
    let ended = place
        .run("generate --model model --prompt hello --ignore-chat-template --max-tokens 9999 --temp 0")
        .ok();
    let notes: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("note: ")).collect();
    assert!(notes.len() == 1 && notes[0].contains("instead of 9999"), "{}", ended.stderr);
    for words in ["Prompt: ", "Generation: ", "Peak memory: "] {
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
    let long = "word ".repeat(600);
    let error = place.run_with(&["generate", "--model", "model", "--prompt", &long], "").error();
    assert!(error.contains("wants at most 512 tokens"), "{error}");
}

#[test]
fn what_ends_an_answer_is_not_shown() {
    let place = by_number("llama");
    let flags = "generate --model model --temp 0 --max-tokens 16 --json --prompt";
    let run = |more: &[&str]| {
        let args: Vec<&str> = flags
            .split(' ')
            .chain(["t77 t201 t125 t222 t174 t3 t172 t104"])
            .chain(more.iter().copied())
            .collect();
        place.run_with(&args, "").ok().json()
    };
    let whole = run(&[])["text"].as_str().unwrap().to_string();
    let words: Vec<&str> = whole.split(' ').collect();
    let stopped = run(&["--stop", words[3]]);
    assert_eq!(stopped["text"].as_str().unwrap().trim(), words[..3].join(" "), "{whole}");
    assert_eq!(stopped["stopped_by"], json!({"string": words[3]}));
    let stopped = run(&["--extra-eos-token", words[4]]);
    assert_eq!(stopped["text"].as_str().unwrap().trim(), words[..4].join(" "), "{whole}");
    assert_eq!(stopped["finish_reason"], "stop");
}

#[test]
fn wrong_input_is_one_clear_error() {
    let place = Place::new();
    place.model("llama");
    let other = fixture("models/qwen3/adapter").display().to_string();
    let more = fixture("models/gemma3/adapter").display().to_string();
    for (flags, words) in [
        ("--model nowhere --prompt x", vec!["nowhere: wants a model directory"]),
        ("--model model --prompt x --adapter nowhere", vec!["nowhere: wants an adapter directory"]),
        ("--model model --prompt x --adapter model", vec!["model: wants adapter_config.json with"]),
        ("--model model --prompt x --temp=-1", vec!["temperature: wants 0"]),
        ("--model model --prompt x --top-p 1.5", vec!["top_p: wants a number from 0 to 1"]),
        ("--model model --prompt x --max-tokens 0", vec!["max_tokens: wants at least 1"]),
        ("--model model --prompt x --extra-eos-token <|none|>", vec!["--extra-eos-token", "<|none|>"]),
        ("--model model --prompt x --chat-template-config [1]", vec!["--chat-template-config"]),
        ("--model model --prompt -", vec!["--prompt: wants text"]),
    ] {
        let error = place.run(&format!("generate {flags}")).error();
        assert_eq!(error.lines().count(), 1, "{flags}: {error}");
        for word in words {
            assert!(error.contains(word), "{flags}: {error}");
        }
    }
    let error = place.run_with(&["generate", "--model", "model", "--prompt", ""], "").error();
    assert!(error.contains("--prompt: wants text"), "{error}");
    for adapter in [other, more] {
        let error = place.run(&format!("generate --model model --prompt x --adapter {adapter}")).error();
        assert!(
            error.contains(&adapter) && error.contains("model.layers.0.self_attn.q_proj: wants"),
            "{error}"
        );
        assert!(error.lines().count() <= 14, "{error}");
    }
}
