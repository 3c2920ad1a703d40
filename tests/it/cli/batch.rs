//! `metal-candle generate --prompts`, and tool calls.

use super::{Place, embedded, jsonl};
use crate::fixture;
use candle_core::Device;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn questions(n: usize) -> String {
    let row = |i: usize| match i % 3 {
        0 => json!({"prompt": format!("Tell me a story about {i} foxes."), "id": format!("row-{i}")}),
        1 => json!({"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 3 + i}),
        _ => {
            json!({"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "I feel sad."}], "id": i})
        }
    };
    (0..n).map(|i| row(i).to_string() + "\n").collect()
}

#[test]
fn a_batch_answers_each_row_as_alone_and_in_order() {
    let place = Place::new();
    place.write("in.jsonl", questions(11));
    let flags =
        format!("generate --model {} --dtype f32 --temp 0 --max-tokens 40 --prompts in.jsonl", embedded());
    for size in ["1", "4", "20"] {
        let ended = place.run(&format!("{flags} --output {size}.jsonl --batch-size {size}")).ok();
        assert!(ended.stderr.contains("Answered 11 of 11 rows"), "{}", ended.stderr);
    }
    let lines = jsonl(&place.path("1.jsonl"));
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["index"], i);
        assert!(line["text"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
    }
    assert_eq!((&lines[0]["id"], lines[1].get("id"), &lines[2]["id"]), (&json!("row-0"), None, &json!(2)));
    assert_eq!((&lines[1]["completion_tokens"], &lines[1]["finish_reason"]), (&json!(4), &json!("length")));
    let text = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    assert_eq!(text("1.jsonl"), text("4.jsonl"));
    assert_eq!(text("1.jsonl"), text("20.jsonl"));
    // Row 0 is what generate says to it.
    let args =
        format!("generate --model {} --dtype f32 --temp 0 --max-tokens 40 --json --prompt", embedded());
    let args: Vec<&str> = args.split(' ').chain(["Tell me a story about 0 foxes."]).collect();
    assert_eq!(place.run_with(&args, "").ok().json()["text"], lines[0]["text"]);

    // The system prompt of the flag is that of messages without one; no tools are no tools.
    let user = json!({"role": "user", "content": "Who are you?"});
    let system = json!({"role": "system", "content": "Be kind."});
    let rows = [
        json!({"messages": [user], "tools": []}),
        json!({"prompt": "Who are you?"}),
        json!({"messages": [system, user]}),
    ];
    place.write("in.jsonl", rows.map(|row| row.to_string() + "\n").concat());
    let tokens = |more: &[&str], name: &str| -> Vec<u64> {
        let args =
            format!("generate --model {} --max-tokens 2 --prompts in.jsonl --output {name}", embedded());
        place.run_with(&[&args.split(' ').collect::<Vec<_>>(), more].concat(), "").ok();
        jsonl(&place.path(name)).iter().map(|line| line["prompt_tokens"].as_u64().unwrap()).collect()
    };
    let (with, without) = (tokens(&["--system-prompt", "Be so very kind."], "with"), tokens(&[], "without"));
    assert_eq!((with[0], with[2], without[0]), (with[1], without[2], without[1]));
    assert!(with[0] > with[2] && with[2] > without[0], "{with:?} {without:?}");
}

#[test]
fn a_killed_batch_goes_on_after_its_last_whole_line() {
    let place = Place::new();
    place.write("in.jsonl", questions(60));
    // Sampled with a seed, and in other batches: the rows' answers do not depend on where a run begins.
    let flags = format!(
        "generate --model {} --dtype f32 --temp 0.8 --seed 5 --max-tokens 60 --threads 1 --prompts in.jsonl --output",
        embedded()
    );
    place.run(&format!("{flags} whole.jsonl --batch-size 4")).ok();
    let whole = std::fs::read(place.path("whole.jsonl")).unwrap();
    let out = place.path("out.jsonl");
    let len = || std::fs::metadata(&out).map_or(0, |file| file.len());
    let mut lines = 0;
    for size in [1, 2, 8, 3] {
        let before = len();
        let line = format!("{flags} out.jsonl --batch-size {size}");
        let mut child = place.start(&line.split(' ').collect::<Vec<_>>());
        let since = Instant::now();
        // Shorter for a moment: what was torn goes first.
        while len() <= before {
            assert!(since.elapsed() < Duration::from_secs(60));
            assert!(child.try_wait().unwrap().is_none(), "it was over before it was killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut bytes = std::fs::read(&out).unwrap();
        let now = bytes.iter().filter(|&&byte| byte == b'\n').count();
        assert!(now > lines && now < 60, "{now} after {lines}");
        lines = now;
        // As if it had been killed while it wrote.
        bytes.extend_from_slice(format!("{{\"index\":{now},\"te").as_bytes());
        std::fs::write(&out, bytes).unwrap();
    }
    let ended = place.run(&format!("{flags} out.jsonl")).ok();
    assert!(ended.stderr.contains("were there already"), "{}", ended.stderr);
    assert_eq!(std::fs::read(&out).unwrap(), whole);
    let ended = place.run(&format!("{flags} out.jsonl")).ok();
    assert!(ended.stderr.contains("Answered 0 of 60 rows, 60 were there already"), "{}", ended.stderr);

    // Other options, other rows, something else: refused, and nothing is touched.
    for (flags, words) in [
        (
            flags.replace("0.8", "0.9"),
            "out.jsonl:1: wants the answer to row 1 of in.jsonl under these options",
        ),
        (flags.replace("in.jsonl", "short.jsonl"), "out.jsonl:3: wants the answer to row 3"),
    ] {
        place.write("short.jsonl", questions(2));
        let error = place.run(&format!("{flags} out.jsonl")).error();
        assert!(error.starts_with(words), "{error}");
    }
    for notes in ["my notes\nand more", "my precious notes", "{\"index\":1,\"text\":\"x", "\n", " "] {
        place.write("notes.txt", notes);
        let error = place.run(&format!("{flags} notes.txt")).error();
        assert!(error.starts_with("notes.txt:1: wants the answer to row 1"), "{error}");
        assert_eq!(std::fs::read_to_string(place.path("notes.txt")).unwrap(), notes);
    }
    place.write("one.jsonl", r#"{"prompt": "x"}"#);
    let error = place.run(&format!("{flags} ./one.jsonl").replace("in.jsonl", "one.jsonl")).error();
    assert!(error.contains("wants a file of its own for the answers, got the file of the rows"), "{error}");
    assert_eq!(std::fs::read_to_string(place.path("one.jsonl")).unwrap(), r#"{"prompt": "x"}"#);
    for device in [".", if cfg!(unix) { "/dev/null" } else { "." }] {
        let error = place.run(&format!("{flags} {device}")).error();
        assert!(error.contains("got a directory, a device or a pipe"), "{error}");
    }
    // Rows that were added are answered.
    place.write("in.jsonl", questions(61));
    let ended = place.run(&format!("{flags} out.jsonl")).ok();
    assert!(ended.stderr.contains("Answered 1 of 61 rows, 60 were there already"), "{}", ended.stderr);
}

#[test]
fn bad_rows_are_named_before_the_first_answer() {
    let place = Place::new();
    let good = "{\"prompt\": \"x\"}\n\n";
    for (row, words) in [
        ("{\"id\": \"x\"}", "in.jsonl:3: wants row: a prompt or messages, got neither"),
        ("{\"prompt\": \"x\", \"messages\": []}", "in.jsonl:3: wants row: a prompt or messages, got both"),
        ("{\"messages\": []}", "in.jsonl:3: wants messages: at least one, got none"),
        ("nonsense", "in.jsonl:3: wants {\"prompt\""),
        ("{\"prompt\": 3}", "in.jsonl:3: wants {\"prompt\""),
        ("{\"prompt\": \"x\", \"max_tokens\": 0}", "in.jsonl:3: wants max_tokens: at least 1, got 0"),
        ("{\"prompt\": \"x\", \"tools\": {}}", "in.jsonl:3: wants tools: a list of tools"),
    ] {
        place.write("in.jsonl", format!("{good}{row}\n"));
        let error = place
            .run(&format!("generate --model {} --prompts in.jsonl --output out.jsonl", embedded()))
            .error();
        assert!(error.starts_with(words), "{error}");
        assert!(!place.path("out.jsonl").exists());
    }
    place.write("in.jsonl", r#"{"prompt": "x", "max_token": 3}"#);
    let run = |more: &str| {
        place.run(&format!("generate --model {} --prompts in.jsonl --output out.jsonl{more}", embedded()))
    };
    let error = run("").error();
    assert!(error.starts_with("in.jsonl:1: ") && error.contains("unknown field `max_token`"), "{error}");
    place.write("in.jsonl", r#"{"prompt": "x", "tools": [{"function": {"name": "f"}}]}"#);
    let error = run(" --ignore-chat-template").error();
    assert!(error.starts_with("in.jsonl:1: wants tools: a chat template"), "{error}");
    place.write("in.jsonl", json!({"prompt": "word ".repeat(600)}).to_string());
    let error =
        place.run(&format!("generate --model {} --prompts in.jsonl --output out.jsonl", embedded())).error();
    assert!(error.contains("in.jsonl:1: wants prompt: fewer than 512 tokens"), "{error}");
    assert_eq!(place.run("generate --model m --prompts in.jsonl").status, Some(2));
    assert_eq!(place.run("generate --model m").status, Some(2));
}

#[test]
fn a_tool_call_is_reported_as_openai_does() {
    // The fixture's known answer, its tokens being words of a call.
    let golden = fixture("models/llama/golden.safetensors");
    let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
    let prompt = golden["input_ids"].to_vec2::<i64>().unwrap().swap_remove(0);
    let greedy = golden["greedy"].to_vec1::<i64>().unwrap();
    let words =
        ["Wait.", "<tool_call>", r#"{"name":"f","arguments":{"city":"Rome"}}"#, "</tool_call>", "<end>"];
    let name = |id: usize| match greedy[1..].iter().position(|&greedy| greedy == id as i64) {
        Some(at) if at < words.len() => words[at].to_string(),
        _ => format!("t{id}"),
    };
    let vocab: serde_json::Map<String, Value> = (0..320).map(|i| (name(i), json!(i))).collect();
    assert_eq!(vocab.len(), 320, "the first tokens of the answer differ");
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}
    });
    let place = Place::new();
    place.model("llama");
    place.write("model/tokenizer.json", tokenizer.to_string()).write("model/tokenizer_config.json", "{}");
    place.write(
        "model/chat_template.jinja",
        "{% if tools %}{{ messages[0].content }}{% else %}<tool_call>{% endif %}",
    );
    place.write("tools.json", r#"[{"type": "function", "function": {"name": "f", "parameters": {}}}]"#);
    let prompt: Vec<String> = prompt[..8].iter().map(|&id| name(id as usize)).collect();
    let prompt = prompt.join(" ");
    let flags =
        "generate --model model --tools tools.json --temp 0 --repetition-penalty 1 --dtype f32 --max-tokens";
    let run = |most: &str, more: &[&str]| {
        let args: Vec<&str> =
            flags.split(' ').chain([most, "--prompt", &prompt]).chain(more.iter().copied()).collect();
        place.run_with(&args, "").ok()
    };
    let answer = run("9", &["--json", "--extra-eos-token", "<end>"]).json();
    let function = json!({"name": "f", "arguments": "{\"city\":\"Rome\"}"});
    assert_eq!(answer["tool_calls"], json!([{"id": "call00001", "type": "function", "function": function}]));
    assert_eq!((&answer["finish_reason"], &answer["text"]), (&json!("tool_calls"), &json!("Wait. Wait.")));
    // Cut in the middle, it stays text.
    let cut = run("3", &["--json"]).json();
    assert_eq!((&cut["tool_calls"], &cut["finish_reason"]), (&json!([]), &json!("length")));
    assert_eq!(cut["text"], "Wait. Wait. <tool_call>");
    assert!(run("9", &["--verbose", "False"]).stdout.starts_with("Wait. Wait. <tool_call> {\"name\""));

    let row = json!({"messages": [{"role": "user", "content": prompt}]});
    place.write("in.jsonl", row.to_string());
    let args = format!("{flags} 9 --prompts in.jsonl --output out.jsonl --extra-eos-token <end>");
    place.run(&args).ok();
    let line = &jsonl(&place.path("out.jsonl"))[0];
    assert_eq!((&line["tool_calls"], &line["finish_reason"]), (&answer["tool_calls"], &json!("tool_calls")));
    // Rerun: a line with calls is recognized.
    assert!(place.run(&args).ok().stderr.contains("1 were there already"));

    // In a chat, the result is given by hand; the template shows the first message alone, so the call comes again.
    let chat = format!(
        "chat {} --extra-eos-token <end>",
        &flags["generate ".len()..].replace("--max-tokens", "--max-tokens 9")
    );
    let args: Vec<&str> = chat.split(' ').collect();
    let ended = place.run_with(&args, &format!("{prompt}\n/tool sunny\n/save talk.json\n")).ok();
    assert!(ended.stderr.contains("/tool TEXT gives the result"), "{}", ended.stderr);
    let talk: Value =
        serde_json::from_str(&std::fs::read_to_string(place.path("talk.json")).unwrap()).unwrap();
    assert_eq!(talk["messages"][1]["tool_calls"][0]["function"]["arguments"], json!({"city": "Rome"}));
    assert_eq!(
        talk["messages"][2],
        json!({"role": "tool", "tool_call_id": "call00001", "name": "f", "content": "sunny"})
    );
    place.write("model/chat_template.jinja", "{{ messages[0].content }}");
    let ask = format!("generate --model model --tools tools.json --max-tokens 2 --prompt {}", name(5));
    let wants = "wants a chat template that knows tools, got one that does not show them";
    assert_eq!(place.run(&ask).error(), format!("--tools: {wants}"));
    assert_eq!(place.run("chat --model model --tools tools.json").error(), format!("--tools: {wants}"));
    let row = json!({"prompt": name(5), "tools": [{"function": {"name": "f"}}]});
    place.write("rows.jsonl", row.to_string());
    let error = place.run("generate --model model --prompts rows.jsonl --output o.jsonl").error();
    assert!(error.starts_with("rows.jsonl:1: wants tools: a chat template that knows tools"), "{error}");
    place.write("model/chat_template.jinja", "{{ messages[0].content }}{% if tools %} t7{% endif %}");
    let ended = place.run(&ask).ok();
    assert!(ended.stderr.contains("note: --tools: the model writes calls in a way"), "{}", ended.stderr);
    let error = place.run("generate --model model --prompt x --tools in.jsonl").error();
    assert!(error.starts_with("--tools in.jsonl: wants a list of tools"), "{error}");
}
