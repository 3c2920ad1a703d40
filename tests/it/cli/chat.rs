//! `metal-candle chat` over a pipe.

use super::{Ended, Place, embedded, jsonl};
use crate::fixture;
use serde_json::{Value, json};

fn chat(place: &Place, flags: &str, lines: &[&str]) -> Ended {
    let args: Vec<&str> = ["chat"].into_iter().chain(flags.split_whitespace()).collect();
    place.run_with(&args, &(lines.join("\n") + "\n"))
}

fn messages(place: &Place, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path(name)).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["messages"].as_array().unwrap().clone()
}

/// What `/stats` tells: tokens of the prompt, and how many of them were read.
fn reads(stderr: &str) -> Vec<(usize, usize)> {
    let number = |text: &str| text.trim().split(' ').next().unwrap().parse::<usize>().unwrap();
    let line = |line: &str| {
        let parts: Vec<&str> = line.strip_prefix("Prompt: ")?.split(", ").collect();
        Some((number(parts[0]), number(parts[2])))
    };
    stderr.lines().filter_map(line).collect()
}

#[test]
fn each_turn_reads_what_is_new_and_answers_as_if_all_were() {
    let place = Place::new();
    let flags = format!("--model {} --dtype f32 --temp 0 --system-prompt Hello --max-tokens 30", embedded());
    let ended = chat(
        &place,
        &flags,
        &[
            "Who are you?",
            "/stats",
            "What colour is\\",
            "the sky?",
            "/stats",
            "Tell me a story.",
            "/stats",
            "/save talk.json",
        ],
    )
    .ok();
    let said = messages(&place, "talk.json");
    assert_eq!(said.len(), 7);
    assert_eq!(said[0], json!({"role": "system", "content": "Hello"}));
    assert_eq!(said[3]["content"], "What colour is\nthe sky?");
    let answers: Vec<&str> = said[2..].iter().step_by(2).map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(ended.stdout, answers.iter().map(|answer| format!("{answer}\n")).collect::<String>());

    // The same conversations, each read from its beginning.
    let rows = [2, 4, 6].map(|end| json!({"messages": said[..end], "id": end}).to_string() + "\n");
    place.write("in.jsonl", rows.concat());
    let flags = flags.replace("--system-prompt Hello", "--prompts in.jsonl --output out.jsonl");
    place.run(&format!("generate {flags}")).ok();
    let alone = jsonl(&place.path("out.jsonl"));
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!(alone[i]["text"], json!(answer));
    }

    let reads = reads(&ended.stderr);
    assert_eq!(reads.len(), 3, "{}", ended.stderr);
    let total = |i: usize| alone[i]["prompt_tokens"].as_u64().unwrap() as usize;
    let answer = |i: usize| alone[i]["completion_tokens"].as_u64().unwrap() as usize;
    assert_eq!(reads[0], (total(0), total(0)));
    for (i, &read) in reads.iter().enumerate().skip(1) {
        // All but the last token of the answer before is there.
        assert_eq!(read, (total(i), total(i) - (total(i - 1) + answer(i - 1) - 1)), "turn {i}");
    }
}

#[test]
fn adapters_are_switched_with_their_caches() {
    let place = Place::new();
    place.model("llama");
    for (name, alpha) in [("a", 16), ("b", 400)] {
        let from = fixture("models/llama/adapter");
        let config = std::fs::read_to_string(from.join("adapter_config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["lora_alpha"] = json!(alpha);
        place.write(&format!("{name}/adapter_config.json"), config.to_string());
        let tensors = std::fs::read(from.join("adapter_model.safetensors")).unwrap();
        place.write(&format!("{name}/adapter_model.safetensors"), tensors);
    }
    let flags = "--model model --temp 0 --max-tokens 12";
    let ask = |adapter: &str| {
        place.run(&format!("generate {flags} --prompt hello {adapter} --json")).ok().json()["text"].clone()
    };
    let wanted = [ask(""), ask("--adapter a"), ask("--adapter b")];
    assert!(wanted[0] != wanted[1] && wanted[1] != wanted[2] && wanted[0] != wanted[2], "{wanted:?}");
    let ended = chat(
        &place,
        &format!("{flags} --adapter a --adapter bee=b"),
        &[
            "/adapters",
            "hello",
            "/save 1.json",
            "/undo",
            "/adapter off",
            "hello",
            "/save 0.json",
            "/adapter bee",
            "/retry",
            "/save 2.json",
            "/undo",
            "/adapter a",
            "hello",
            "/stats",
            "/save again.json",
        ],
    )
    .ok();
    for (name, wanted) in [("0", &wanted[0]), ("1", &wanted[1]), ("2", &wanted[2]), ("again", &wanted[1])] {
        let said = messages(&place, &format!("{name}.json"));
        assert_eq!((said.len(), &said[1]["content"]), (2, wanted), "{name}");
    }
    assert!(ended.stderr.contains("* a  a\n  bee  b\n"), "{}", ended.stderr);
    // The adapter's own cache was kept through the switches.
    assert_eq!(reads(&ended.stderr)[0].1, 1, "{}", ended.stderr);
    let error = chat(&place, &format!("{flags} --adapter a --adapter x/../a"), &[]).error();
    assert!(error.contains("wants a name of its own, got \"a\""), "{error}");
}

#[test]
fn commands_change_the_conversation() {
    let place = Place::new();
    let flags = format!("--model {} --seed 7 --max-tokens 20 --temp 1", embedded());
    let ended = chat(
        &place,
        &flags,
        &[
            "/help",
            "Tell me a story about a fox.",
            "/save 1.json",
            "/retry",
            "/save 2.json",
            "/system Be brief.",
            "/save 3.json",
            "/undo",
            "/tokens",
            "/load 1.json",
            "/save 4.json",
            "/reset",
            "//path",
            "/save 5.json",
            "/set top-p 0.5",
            "/set",
        ],
    )
    .ok();
    let said = |name: &str| messages(&place, name);
    assert_eq!(said("1.json")[0], said("2.json")[0]);
    assert_ne!(said("1.json")[1], said("2.json")[1], "another answer");
    assert_eq!(said("3.json")[0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(said("3.json")[1..], said("2.json")[..]);
    assert_eq!(said("4.json"), said("1.json"));
    assert_eq!(said("5.json")[0]["content"], "/path");
    for words in [
        "/system [TEXT|off]",
        "Taken back: Tell me a story about a fox.",
        "0 of 512 tokens",
        "top_p 0.5\n",
        "seed 7\n",
        "max_tokens 20\n",
    ] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
    // The same seed gives the same chat.
    chat(&place, &flags, &["Tell me a story about a fox.", "/save again.json"]).ok();
    assert_eq!(said("again.json"), said("1.json"));

    for (text, words) in [
        ("[1]", "bad.json: wants messages with a role and content, got 1"),
        ("3", "bad.json: wants a conversation"),
        ("\"hi\"", "bad.json: wants a conversation"),
        ("{\"messages\": {}}", "bad.json: wants a conversation"),
        ("[{\"role\": \"user\"}]", "bad.json: wants messages with a role and content"),
    ] {
        place.write("bad.json", text);
        let ended = chat(&place, &flags, &["/load bad.json", "/tokens"]);
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
        assert!(ended.stderr.contains("0 of 512 tokens; turns 0"), "{}", ended.stderr);
    }
    place.write("list.json", json!(said("1.json")).to_string());
    chat(&place, &flags, &["/load list.json", "/save 6.json"]).ok();
    assert_eq!(said("6.json"), said("1.json"));

    let ended = chat(
        &place,
        &flags,
        &[
            "/hlep",
            "/undo",
            "/retry",
            "/adapter x",
            "/set temp -1",
            "/set nothing 1",
            "/load none.json",
            "/tool x",
            "/save no/such/dir.json",
        ],
    );
    assert_eq!(ended.status, Some(1));
    for words in [
        "/hlep: wants a command, got an unknown one (did you mean /help? /help lists them)",
        "/undo: wants a question",
        "/retry: wants a question",
        "/adapter: wants off or one of none",
        "temperature: wants 0 (greedy) or a positive number, got -1",
        "/set: wants one of temperature, top_k",
        "none.json: No such file",
        "/tool: wants a call",
        "no/such/dir.json: No such file",
        "error: 9 of the lines failed",
    ] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}

#[test]
fn a_full_context_loses_its_oldest_turns_and_says_so() {
    let place = Place::new();
    let flags = format!("--model {} --temp 0 --max-tokens 60", embedded());
    let long = format!("Tell me of {}.", "the sea and the hills ".repeat(12));
    let lines = [vec![long.as_str(); 7], vec!["/tokens", "/save all.json"]].concat();
    let ended = chat(&place, &flags, &lines).ok();
    assert!(
        ended.stderr.contains("The context is full: the model no longer sees the oldest turns"),
        "{}",
        ended.stderr
    );
    assert_eq!(messages(&place, "all.json").len(), 14);
    let tokens: usize =
        ended.stderr.split(" of 512 tokens").next().unwrap().rsplit('\n').next().unwrap().parse().unwrap();
    assert!(tokens <= 512, "{tokens}");
    let ended = chat(&place, &flags, &[&"many words ".repeat(400), "Who are you?", "/save short.json"]);
    assert!(
        ended.stderr.contains("wants a turn of fewer tokens than the model's context, 512"),
        "{}",
        ended.stderr
    );
    assert_eq!(messages(&place, "short.json").len(), 2, "the question that did not fit is taken back");

    // And nothing else is: what the model sees, and what can be answered anew.
    let long = "word ".repeat(600);
    let lines = ["hi", "Who are you?", "/tokens", &long, "/tokens", "/retry", "/save again.json", "/undo"];
    let ended = chat(&place, &flags, &[&lines[..], &["/undo", &long, "/retry", "/tokens"]].concat());
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    let tokens: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("of 512 tokens")).collect();
    assert_eq!(tokens[0], tokens[1]);
    assert!(
        tokens[0].ends_with("turns 2, left out 0") && tokens[2] == "0 of 512 tokens; turns 0, left out 0"
    );
    assert_eq!(messages(&place, "again.json").len(), 4);
}

#[test]
fn a_saved_conversation_goes_on_without_reading_it_again() {
    let place = Place::new();
    let flags = format!("--model {} --dtype f32 --temp 0 --max-tokens 20", embedded());
    let whole =
        chat(&place, &flags, &["Who are you?", "/save a.safetensors", "Tell me a story.", "/stats"]).ok();
    let rest = chat(&place, &format!("{flags} --load a.safetensors"), &["Tell me a story.", "/stats"]).ok();
    assert!(whole.stdout.ends_with(&rest.stdout) && whole.stdout.len() > rest.stdout.len());
    assert_eq!(reads(&whole.stderr), reads(&rest.stderr));
    // A system prompt that is given is used, whatever the file says.
    let load = format!("{flags} --load a.safetensors --system-prompt Brief.");
    chat(&place, &load, &["/save b.json"]).ok();
    assert_eq!(messages(&place, "b.json")[0], json!({"role": "system", "content": "Brief."}));
    let error = chat(&place, &format!("{} --load a.safetensors", flags.replace("f32", "bf16")), &[]).error();
    assert!(
        error.starts_with(
            "a.safetensors: wants a prompt cache of this dtype (BF16), got one of another (F32)"
        ),
        "{error}"
    );
}

#[test]
fn a_draft_changes_no_answer() {
    let place = Place::new();
    let flags = format!("--model {} --dtype f32 --temp 0 --max-tokens 40", embedded());
    let lines = ["Who are you?", "Tell me a story about a fox.", "/stats"];
    let plain = chat(&place, &flags, &lines).ok();
    let drafted =
        chat(&place, &format!("{flags} --draft-model {} --num-draft-tokens 5", embedded()), &lines).ok();
    assert_eq!(drafted.stdout, plain.stdout);
    assert!(
        drafted.stderr.contains("Draft: ") && drafted.stderr.contains("tokens accepted"),
        "{}",
        drafted.stderr
    );
    let one = format!("generate {flags} --prompt hello");
    let answer = place.run(&format!("{one} --draft-model {} --json", embedded())).ok().json();
    let drafted = answer["draft"].as_object().unwrap();
    assert!(drafted["proposed"].as_u64() >= drafted["accepted"].as_u64(), "{answer}");
    assert_eq!(answer["tokens"], place.run(&format!("{one} --json")).ok().json()["tokens"]);
    place.model("llama");
    let error = place.run(&format!("{one} --draft-model model")).error();
    assert!(
        error.starts_with("--draft-model model: draft model: wants the model's vocabulary, token 0 being"),
        "{error}"
    );
}
