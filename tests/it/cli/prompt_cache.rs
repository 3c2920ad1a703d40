//! `metal-candle cache-prompt`, and `generate` with what it saves.

use super::{Place, embedded};
use crate::fixture;

#[test]
fn a_prompt_that_was_cached_is_answered_as_if_it_were_read() {
    let place = Place::new();
    place.model("llama");
    let adapter = fixture("models/llama/adapter").display().to_string();
    let model = embedded();
    let book = "Once upon a time there was a fox named Rolo. Rolo was afraid of deep water. ".repeat(4);
    for model in [
        format!("--model {model} --dtype f32"),
        format!("--model {model} --dtype bf16"),
        format!("--model {model} --dtype f32 --system-prompt Brief."),
        format!("--model model --adapter {adapter}"),
        "--model model --ignore-chat-template".to_string(),
    ] {
        let words: Vec<&str> = model.split(' ').collect();
        let run = |args: &[&str], stdin: &str| place.run_with(&[args, &words].concat(), stdin).ok();
        let saved = run(&["cache-prompt", "--prompt", "-", "--prompt-cache-file", "c.safetensors"], &book);
        assert!(saved.stderr.contains("Saved c.safetensors"), "{}", saved.stderr);
        let generate = ["generate", "--temp", "0", "--max-tokens", "20", "--json", "--prompt"];
        let question = "Who was afraid?";
        let cached = [&generate[..], &[question, "--prompt-cache-file", "c.safetensors"]].concat();
        let cached = run(&cached, "").json();
        let whole = run(&[&generate[..], &[&format!("{book}{question}")]].concat(), "").json();
        assert_eq!((&cached["tokens"], &cached["text"]), (&whole["tokens"], &whole["text"]), "{model}");
        assert_eq!(cached["prompt_tokens"], whole["prompt_tokens"]);
        let (held, all) =
            (cached["cached_tokens"].as_u64().unwrap(), whole["prompt_tokens"].as_u64().unwrap());
        assert!(whole["cached_tokens"] == 0 && held < all && held * 10 > all * 8, "{held} of {all}");
    }
}

#[test]
fn a_cache_that_is_of_no_use_is_told_of() {
    let place = Place::new();
    let model = embedded();
    let cache = ["--model", &model, "--prompt-cache-file", "book"];
    let read = ["cache-prompt", "--system-prompt", "You are Candle.", "--prompt", "There was a fox."];
    place.run_with(&[&read[..], &cache].concat(), "").ok();
    let ask = |more: &[&str]| {
        let args = ["generate", "--max-tokens", "2", "--prompt", " Who was there?"];
        place.run_with(&[&args[..], &cache, more].concat(), "").ok().stderr
    };
    assert!(!ask(&[]).contains("note: "));
    let stderr = ask(&["--system-prompt", "Be brief."]);
    assert!(stderr.contains("note: only ") && stderr.contains("cached tokens are of use"), "{stderr}");
    // What chat and cache-prompt save is not the same, whatever the files are called.
    let chat = |more: &str, lines: &str| {
        place.run_with(
            &format!("chat --model {model} --max-tokens 2{more}").split(' ').collect::<Vec<_>>(),
            lines,
        )
    };
    let error = chat(" --load book", "").error();
    assert!(error.starts_with("book: wants a conversation, got a prompt of cache-prompt"), "{error}");
    chat("", "hi\n/save talk.safetensors\n").ok();
    std::fs::rename(place.path("talk.safetensors"), place.path("talk")).unwrap();
    let ended = chat(" --load talk", "/tokens\n").ok();
    assert!(ended.stderr.contains("turns 1, left out 0"), "{}", ended.stderr);
    let error = place.run(&format!("generate --model {model} --prompt x --prompt-cache-file talk")).error();
    assert!(error.starts_with("talk: wants what cache-prompt has saved, got a conversation"), "{error}");
}

#[test]
fn a_cache_of_something_else_or_a_damaged_one_is_refused() {
    let place = Place::new();
    place.model("llama");
    let adapter = fixture("models/llama/adapter").display().to_string();
    let cache = "--prompt-cache-file c.safetensors";
    place.run(&format!("cache-prompt --model model --prompt hello {cache}")).ok();
    let good = std::fs::read(place.path("c.safetensors")).unwrap();
    let run = |flags: &str| place.run(&format!("generate --prompt x --max-tokens 2 {cache} {flags}"));
    run("--model model").ok();
    for (flags, words) in [
        (format!("--model model --adapter {adapter}"), "wants a prompt cache of this adapter"),
        (format!("--model {} --dtype f32", embedded()), "wants a prompt cache of this model"),
        (
            "--model model --dtype bf16".into(),
            "wants a prompt cache of this dtype (BF16), got one of another (F32)",
        ),
        ("--model model --prompt-cache-file none".into(), "cannot be used multiple times"),
    ] {
        let ended = run(&flags);
        assert!(ended.stderr.contains(words), "{flags}: {}", ended.stderr);
    }
    let mut bad = good.clone();
    let middle = bad.len() - 100;
    bad[middle] ^= 4;
    for bytes in [&bad[..], &good[..good.len() - 7], &good[..40], b"", b"hello"] {
        place.write("c.safetensors", bytes);
        let error = run("--model model").error();
        assert!(error.starts_with("c.safetensors: wants a"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error =
        place.run("generate --prompt x --model model --prompt-cache-file model/model.safetensors").error();
    assert!(error.contains("wants a prompt cache, got a safetensors file of something else"), "{error}");
    let error = place.run("cache-prompt --model model --prompt hello --prompt-cache-file no/such/c").error();
    assert!(error.contains("no/such/c: No such file"), "{error}");
}
