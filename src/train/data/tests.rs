use std::collections::HashMap;
use std::sync::Mutex;

use super::*;

/// How a toy template writes a conversation.
#[derive(Clone, Copy)]
enum Template {
    /// `Role: content<eot>`, so that the prompt's last space merges into the answer's first word.
    Plain,
    /// As Qwen3: only the last answer carries a thinking block, so a shorter conversation is no prefix.
    Thinking,
    /// The number of messages comes first, so that no prompt is ever a prefix.
    Counting,
    /// Refuses any conversation of fewer than four messages.
    Strict,
}

/// Words with their leading space, `<specials>` and single other characters are tokens.
struct Toy {
    template: Template,
    pieces: Mutex<HashMap<u32, String>>,
}

impl Toy {
    fn new(template: Template) -> Self {
        Toy { template, pieces: Mutex::new(HashMap::new()) }
    }

    fn tokens(&self, text: &str) -> Vec<u32> {
        let split = fancy_regex::Regex::new(r"<[^<>]*>| ?\w+|(?s:.)").unwrap();
        let mut pieces = self.pieces.lock().unwrap();
        let ids = split.find_iter(text).map(|piece| {
            let piece = piece.unwrap().as_str();
            let id = piece.bytes().fold(2166136261u32, |h, b| (h ^ u32::from(b)).wrapping_mul(16777619));
            pieces.insert(id, piece.to_string());
            id
        });
        ids.collect()
    }

    fn text(&self, ids: &[u32]) -> String {
        let pieces = self.pieces.lock().unwrap();
        ids.iter().map(|id| pieces[id].as_str()).collect()
    }

    /// The texts that a row trains.
    fn trained(&self, row: &Row) -> Vec<String> {
        row.trained.iter().map(|span| self.text(&row.tokens[span.clone()])).collect()
    }
}

impl Encode for Toy {
    fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokens(&format!("{text}<eos>")))
    }

    fn encode_chat(&self, messages: &[Value], tools: Option<&Value>, generate: bool) -> Result<Vec<u32>> {
        let role = |i: usize| messages[i]["role"].as_str().unwrap();
        let mut text = match self.template {
            Template::Counting => format!("<{} messages>", messages.len()),
            Template::Strict if messages.len() < 4 => {
                return Err(Error::Template { message: "too short".into() });
            }
            _ => String::new(),
        };
        if let Some(tools) = tools {
            text += &format!("<tools>{tools}");
        }
        let last_user = (0..messages.len()).rev().find(|&i| role(i) == "user");
        for (i, message) in messages.iter().enumerate() {
            text += &format!("{}: ", role(i));
            if matches!(self.template, Template::Thinking) && role(i) == "assistant" && Some(i) > last_user {
                text += "<think>\n\n</think>\n\n";
            }
            text += &format!("{}<eot>\n", message["content"].as_str().unwrap_or(""));
        }
        if generate {
            text += "assistant: ";
        }
        Ok(self.tokens(&text))
    }
}

fn options(mask: Mask) -> Options {
    Options { mask, ..Options::default() }
}

fn parse(toy: &Toy, jsonl: &str, options: &Options) -> Result<Dataset> {
    Dataset::parse(Path::new("data.jsonl"), jsonl, options, toy)
}

const TWO_TURNS: &str = r#"{"messages": [
    {"role": "user", "content": "Say hello"}, {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "Say bye"}, {"role": "assistant", "content": "bye now"}]}"#;

fn one_line(json: &str) -> String {
    json.replace('\n', " ")
}

#[test]
fn the_first_target_is_the_first_completion_token_and_the_last_ends_the_turn() {
    let toy = Toy::new(Template::Plain);
    let rows = r#"{"prompt": "Two words", "completion": "yes indeed"}"#;
    let data = parse(&toy, rows, &options(Mask::LastAssistant)).unwrap();
    assert_eq!(toy.text(&data.rows[0].tokens), "user: Two words<eot>\nassistant: yes indeed<eot>\n");
    // The prompt alone ends in the token " ", the row has " yes" there: a length would point at " indeed".
    assert_eq!(toy.trained(&data.rows[0]), [" yes indeed<eot>\n"]);

    let batch = data.in_order(1).next().unwrap();
    let (first, target) = batch.targets.iter().enumerate().find(|(_, t)| **t != IGNORED).unwrap();
    assert_eq!(toy.text(&[*target as u32]), " yes");
    assert_eq!(toy.text(&[batch.input_ids[first]]), ":", "the token before it is what it is predicted from");
    let targets: Vec<u32> = batch.targets.iter().filter(|t| **t != IGNORED).map(|&t| t as u32).collect();
    assert_eq!(toy.text(&targets), " yes indeed<eot>\n");
    assert_eq!((batch.target_tokens, batch.tokens), (4, data.rows[0].tokens.len() - 1));
}

#[test]
fn spans_hold_for_templates_whose_prompts_are_no_prefixes() {
    let all = options(Mask::AllAssistant);
    for (template, first, last) in [
        (Template::Plain, " hello<eot>\n", " bye now<eot>\n"),
        // With a thinking block the prompt's space stays a token of its own, and belongs to the prompt.
        (Template::Thinking, " hello<eot>\n", "<think>\n\n</think>\n\nbye now<eot>\n"),
        (Template::Counting, " hello<eot>\n", " bye now<eot>\n"),
        // Nothing tells how far the closing goes: one token, which ends the turn.
        (Template::Strict, " hello<eot>", " bye now<eot>\n"),
    ] {
        let toy = Toy::new(template);
        let data = parse(&toy, &one_line(TWO_TURNS), &all).unwrap();
        assert_eq!(toy.trained(&data.rows[0]), [first, last]);
        let data = parse(&toy, &one_line(TWO_TURNS), &options(Mask::LastAssistant)).unwrap();
        assert_eq!(toy.trained(&data.rows[0]), [last]);
    }
}

#[test]
fn a_last_turn_that_is_not_the_assistants_is_not_trained() {
    let toy = Toy::new(Template::Plain);
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}], "tools": [{"type": "function"}]}"#;
    let data = parse(&toy, &one_line(row), &options(Mask::LastAssistant)).unwrap();
    assert_eq!(toy.trained(&data.rows[0]), [" b<eot>\n"]);
    assert!(toy.text(&data.rows[0].tokens).starts_with(r#"<tools>[{"type":"function"}]"#));
}

#[test]
fn rows_that_lose_their_targets_are_skipped_and_counted() {
    let toy = Toy::new(Template::Plain);
    let rows = [
        r#"{"messages": [{"role": "user", "content": "one two three four five six"}, {"role": "assistant", "content": "x"}]}"#,
        r#"{"messages": [{"role": "user", "content": "hi"}]}"#,
        r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a b c d e f g"}]}"#,
        r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}]}"#,
    ];
    let short = Options { max_seq_length: 10, ..options(Mask::LastAssistant) };
    let data = parse(&toy, &rows.join("\n"), &short).unwrap();
    assert_eq!(data.rows.iter().map(|row| row.line).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(data.rows[0].tokens.len(), 10);
    assert_eq!(toy.trained(&data.rows[0]), [" a b c"]);
    let Summary { rows, truncated, skipped, target_tokens, .. } = data.summary;
    assert_eq!((rows, truncated, skipped, target_tokens), (2, 2, 2, 6));
    let text = data.summary.to_string();
    assert!(text.ends_with("; 2 truncated to 10 tokens; 2 skipped: no token to train"), "{text}");
}

#[test]
fn the_first_record_decides_and_bad_lines_are_all_named() {
    let toy = Toy::new(Template::Plain);
    let good = "\u{feff}{\"text\": \"a b\", \"id\": 1}\r\n\r\n{\"text\": \"c\"}\r\n";
    let data = parse(&toy, good, &Options::default()).unwrap();
    assert_eq!(data.rows.iter().map(|row| toy.text(&row.tokens)).collect::<Vec<_>>(), ["a b<eos>", "c<eos>"]);
    assert_eq!(data.rows[1].line, 3);

    let bad =
        "{\"text\": \"a\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"text\": 3}\n{\"text\": \"a\"\n[]";
    let error = parse(&toy, bad, &Options::default()).unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    let wants = "wants text in `text`, as the first row has";
    assert_eq!(lines[0], format!("data.jsonl:2: {wants}, got the fields `prompt`, `completion`"));
    assert_eq!(lines[1], format!("  data.jsonl:3: {wants}, got a number in `text`"));
    assert!(lines[2].starts_with("  data.jsonl:4: wants a JSON object on one line, got EOF"), "{error}");
    assert!(lines[2].ends_with("at column 12"), "{error}");
    assert_eq!(lines[3], "  data.jsonl:5: wants a JSON object, got a list");

    let unknown = parse(&toy, r#"{"question": "a"}"#, &Options::default()).unwrap_err().to_string();
    let wants = "wants `prompt` and `completion`, or `messages`, or `text`, got the fields `question`";
    assert_eq!(unknown, format!("data.jsonl:1: {wants}"));
    assert!(parse(&toy, r#"{"text": "a"}"#, &options(Mask::LastAssistant)).is_err());

    let mut named = options(Mask::LastAssistant);
    (named.features.prompt, named.features.completion) = ("q".into(), "a".into());
    let data = parse(&toy, r#"{"q": "why", "a": "so"}"#, &named).unwrap();
    assert_eq!(toy.trained(&data.rows[0]), [" so<eot>\n"]);
}

/// Rows of 2, 3, ... tokens, end token included.
fn counted(toy: &Toy, rows: usize) -> Dataset {
    let lines: Vec<String> =
        (1..=rows).map(|n| format!(r#"{{"text": "{}"}}"#, vec!["word"; n].join(" "))).collect();
    parse(toy, &lines.join("\n"), &Options::default()).unwrap()
}

#[test]
fn an_epoch_shows_every_row_once_beside_rows_of_its_length() {
    let toy = Toy::new(Template::Plain);
    let data = counted(&toy, 50);
    let batches = data.batches(4, 7).unwrap();
    assert_eq!(batches.per_epoch(), 13);
    let mut seen = Vec::new();
    for batch in batches.clone().take(13) {
        assert_eq!(batch.seq_len % 8, 0);
        assert!(batch.lengths.iter().all(|&length| length + 16 > batch.seq_len), "{:?}", batch.lengths);
        assert!(batch.batch == 4 || batch.rows.len() == 2);
        assert_eq!(batch.input_ids.len(), batch.batch * batch.seq_len);
        seen.extend(batch.rows);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    let order = |seed| data.batches(4, seed).unwrap().map(|b| b.rows).take(26).collect::<Vec<_>>();
    assert_eq!(order(7), order(7));
    assert_ne!(order(7), order(8));
    assert_ne!(order(7)[..13], order(7)[13..], "each epoch has its own order");
}

#[test]
fn a_saved_cursor_goes_on_with_the_very_next_batch() {
    let toy = Toy::new(Template::Plain);
    let data = counted(&toy, 9);
    let all: Vec<Batch> = data.batches(2, 3).unwrap().take(20).collect();
    for taken in [0, 1, 5, 12] {
        let mut batches = data.batches(2, 3).unwrap();
        (0..taken).for_each(|_| drop(batches.next()));
        let saved = serde_json::to_string(&batches.cursor()).unwrap();
        let mut resumed = data.batches(2, 3).unwrap();
        resumed.seek(serde_json::from_str(&saved).unwrap()).unwrap();
        assert_eq!(resumed.take(20 - taken).collect::<Vec<_>>(), all[taken..]);
    }
    assert!(data.batches(2, 3).unwrap().seek(Cursor { epoch: 0, index: 6 }).is_err());
    let error = data.batches(10, 3).unwrap_err().to_string();
    assert_eq!(error, "batch size: wants from 1 to 9, the number of rows to train on, got 10");
}

#[test]
fn validation_keeps_file_order_and_its_last_batch_may_be_small() {
    let toy = Toy::new(Template::Plain);
    let data = counted(&toy, 5);
    let rows: Vec<_> = data.in_order(2).map(|batch| batch.rows).collect();
    assert_eq!(rows, [vec![0, 1], vec![2, 3], vec![4]]);
    assert_eq!(data.in_order(2).len(), 3);
}

#[test]
fn padding_does_not_pass_the_longest_row_allowed() {
    let toy = Toy::new(Template::Plain);
    let short = Options { max_seq_length: 11, ..Options::default() };
    let data = parse(&toy, r#"{"text": "a b c d e f g h i j k l m n"}"#, &short).unwrap();
    let batch = data.in_order(4).next().unwrap();
    assert_eq!((batch.seq_len, batch.lengths[0]), (11, 10));
    assert_eq!(batch.targets[10], IGNORED);
}

#[test]
fn a_directory_or_one_file_with_a_seeded_split() {
    let toy = Toy::new(Template::Plain);
    let dir = tempfile::tempdir().unwrap();
    let error = load(dir.path(), &Options::default(), &toy).unwrap_err().to_string();
    assert!(error.ends_with(
        "wants a JSONL file, or a directory with train.jsonl, got a directory without train.jsonl"
    ));
    std::fs::write(dir.path().join("train.jsonl"), "{\"text\": \"a b\"}").unwrap();
    std::fs::write(dir.path().join("test.jsonl"), "{\"text\": \"a b\"}\n{\"text\": \"c\"}").unwrap();
    let splits = load(dir.path(), &Options::default(), &toy).unwrap();
    assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (1, 0, 2));

    let file = dir.path().join("all.jsonl");
    let lines: Vec<String> = (0..40).map(|i| format!("{{\"text\": \"row {i}\"}}")).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let held_out = |seed| {
        let splits = load(&file, &Options { seed, ..Options::default() }, &toy).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len()), (36, 4));
        splits.valid.rows.iter().map(|row| row.line).collect::<Vec<_>>()
    };
    assert_eq!(held_out(1), held_out(1));
    assert_ne!(held_out(1), held_out(2));
    std::fs::write(&file, lines[..3].join("\n")).unwrap();
    assert_eq!(load(&file, &Options::default(), &toy).unwrap().valid.len(), 1);
    std::fs::write(&file, "").unwrap();
    let error = load(&file, &Options::default(), &toy).unwrap_err().to_string();
    assert!(error.ends_with("wants at least one row with a token to train, got no rows"), "{error}");
    std::fs::write(&file, b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}").unwrap();
    let error = load(&file, &Options::default(), &toy).unwrap_err().to_string();
    assert!(error.contains("all.jsonl:2: wants UTF-8 text"), "{error}");
}

#[test]
fn vendors_templates_train_the_answers_and_what_ends_them() {
    use crate::load::{ChatTemplate, Tokenizer};
    let fixtures = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"));
    let model = |name: &str| Tokenizer::open(&fixtures.join("models").join(name)).unwrap();
    let (bytes, pieces) = (model("qwen3"), model("llama2"));
    for (name, tokenizer, first, last) in [
        ("qwen2.5", &bytes, "hello<|im_end|>\n", "bye now<|im_end|>\n"),
        ("qwen3", &bytes, "hello<|im_end|>\n", "<think>\n\n</think>\n\nbye now<|im_end|>\n"),
        ("smollm2", &bytes, "hello<|im_end|>\n", "bye now<|im_end|>\n"),
        ("llama3.2", &bytes, "hello<|eot_id|>", "bye now<|eot_id|>"),
        ("gemma3", &pieces, "hello<end_of_turn>\n", "bye now<end_of_turn>\n"),
        ("llama2", &pieces, "hello </s>", "bye now </s>"),
        ("mistral_v0.3", &pieces, "hello</s>", "bye now</s>"),
        ("phi3", &pieces, "hello<|end|>\n", "bye now<|end|>\n</s>"),
    ] {
        let source = std::fs::read_to_string(fixtures.join(format!("chat_templates/{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source, Some("<s>"), Some("</s>")).unwrap();
        let encoder = ModelEncoder::new(tokenizer, Some(&template));
        let trained = |mask| {
            let data =
                Dataset::parse(Path::new(name), &one_line(TWO_TURNS), &options(mask), &encoder).unwrap();
            let Row { tokens, trained, .. } = &data.rows[0];
            let text = |span: &Range<usize>| tokenizer.decode(&tokens[span.clone()], false).unwrap();
            trained.iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(trained(Mask::AllAssistant), [first, last], "{name}");
        assert_eq!(trained(Mask::LastAssistant), [last], "{name}");
    }
    let encoder = ModelEncoder::new(&pieces, None);
    let tokens = encoder.encode_text("hello").unwrap();
    assert_eq!((tokens.first(), tokens.last()), (pieces.bos_id().as_ref(), pieces.eos_id().as_ref()));
    assert_eq!(tokens.iter().filter(|&&id| Some(id) == pieces.eos_id()).count(), 1);
    let error =
        Dataset::parse(Path::new("d"), &one_line(TWO_TURNS), &Options::default(), &encoder).unwrap_err();
    assert!(error.to_string().contains("d:1: wants a row that the tokenizer and the chat template accept"));
}

#[test]
fn packed_an_epoch_shows_every_row_once_in_fewer_sequences() {
    let toy = Toy::new(Template::Plain);
    let data = parse(
        &toy,
        &(1..=50)
            .map(|n| format!(r#"{{"text": "{}"}}"#, vec!["word"; n].join(" ")))
            .collect::<Vec<_>>()
            .join("\n"),
        &Options { max_seq_length: 64, ..Options::default() },
    )
    .unwrap();
    let mut batches = data.packed(4, 7).unwrap();
    let (plain, apart) = (data.batches(4, 7).unwrap().positions(), data.in_order(1));
    assert!(batches.sequences() < 30 && batches.positions().0 < plain.0);
    let mut seen = Vec::new();
    for batch in batches.clone().take(batches.per_epoch()) {
        let documents = batch.documents.as_ref().unwrap();
        let mut rows = batch.rows.iter();
        for (b, &length) in batch.lengths.iter().enumerate() {
            assert!(length <= 64 && batch.seq_len <= 64);
            let firsts = &documents[b * batch.seq_len..][..batch.seq_len];
            let mut at = 0;
            while at < length {
                let row = &data.rows[*rows.next().unwrap()];
                let alone = apart.clone().find(|one| one.rows[0] == row.line - 1).unwrap();
                let (here, len) = (b * batch.seq_len + at, row.positions());
                assert_eq!(batch.input_ids[here..here + len], alone.input_ids[..len]);
                assert_eq!(batch.targets[here..here + len], alone.targets[..len]);
                assert!(firsts[at..at + len].iter().all(|&first| first as usize == at));
                at += len;
            }
            assert!((length..batch.seq_len).all(|t| firsts[t] as usize == t));
        }
        assert_eq!(batch.target_tokens, batch.targets.iter().filter(|&&t| t != IGNORED).count());
        seen.extend(batch.rows);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());

    // Epochs differ in how many batches they have; a saved place is looked for in its own.
    for _ in 0..300 {
        let cursor = batches.cursor();
        let mut other = data.packed(4, 7).unwrap();
        other.seek(cursor).unwrap();
        assert_eq!(other.next(), batches.next());
    }
}

#[test]
fn a_full_batch_predicts_all_but_the_last_of_each_row() {
    let batch = Batch::full(vec![1, 2, 3, 4, 5, 6], 3);
    assert_eq!((batch.batch, batch.seq_len, batch.tokens, batch.target_tokens), (2, 3, 6, 4));
    assert_eq!(batch.targets, [2, 3, IGNORED, 5, 6, IGNORED]);
    assert_eq!((batch.lengths, batch.rows, batch.documents), (vec![3, 3], vec![0, 1], None));
}
