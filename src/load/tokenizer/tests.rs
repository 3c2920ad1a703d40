//! Goldens of the `tokenizers` package, and streams of random tokens.

use rand::{Rng, SeedableRng};
use serde_json::json;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const MODELS: [&str; 5] = ["llama", "llama2", "mistral", "gemma3", "qwen3"];

fn fixture(model: &str) -> Tokenizer {
    Tokenizer::open(&Path::new(FIXTURES).join("models").join(model)).unwrap()
}

fn pieces(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> (Vec<String>, String) {
    let mut stream = tokenizer.stream_with(skip_special);
    let pieces = ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
    (pieces, stream.finish().unwrap())
}

#[test]
fn every_golden_of_the_tokenizers_package_is_equal() {
    let goldens = std::fs::read(format!("{FIXTURES}/tokenize.json")).unwrap();
    let goldens: Map<String, Value> = serde_json::from_slice(&goldens).unwrap();
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let mut texts = 0;
    for (model, golden) in &goldens {
        let tokenizer = fixture(model);
        for row in golden["encode"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&row["ids"]), "{model}: {text:?}");
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&row["ids_special"]), "{model}: {text:?}");
            texts += 1;
        }
        for row in golden["encode"].as_array().unwrap().iter().chain(golden["decode"].as_array().unwrap()) {
            let ids = ids(row.get("ids_special").unwrap_or(&row["ids"]));
            for (skip, key) in [(false, "decoded"), (true, "decoded_skip")] {
                let golden = row[key].as_str().unwrap();
                assert_eq!(tokenizer.decode(&ids, skip).unwrap(), golden, "{model}: {ids:?}");
                let (pieces, rest) = pieces(&tokenizer, &ids, skip);
                assert_eq!(pieces.concat() + &rest, golden, "{model}: {ids:?}");
            }
        }
    }
    assert!(goldens.len() >= 5 && texts > 100);
}

#[test]
fn streamed_pieces_add_up_to_the_whole_text() {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let mut tokenizers = Vec::from(MODELS.map(|model| (model, fixture(model))));
    // T5's kind of decoder, which cuts the space before the first token only.
    let mut metaspace = fixture("llama2");
    metaspace.inner.with_decoder(Some(tokenizers::decoders::metaspace::Metaspace::default()));
    metaspace.byte_fallback = false;
    tokenizers.push(("metaspace", metaspace));
    for (model, tokenizer) in tokenizers {
        let vocab = tokenizer.vocab_size() as u32;
        for round in 0..400 {
            // Random ids are mostly broken UTF-8 with special tokens in between; ids past the end give no text.
            let ids: Vec<u32> =
                (0..rng.random_range(0..40)).map(|_| rng.random_range(0..vocab + 2)).collect();
            let skip = round % 2 == 0;
            let (pieces, rest) = pieces(&tokenizer, &ids, skip);
            assert_eq!(pieces.concat() + &rest, tokenizer.decode(&ids, skip).unwrap(), "{model}: {ids:?}");
        }
    }
}

#[test]
fn a_piece_never_ends_inside_a_character() {
    let text = " Zürich 日本語 👩‍👩‍👧 naïve  two spaces\n";
    for model in MODELS {
        let tokenizer = fixture(model);
        let ids = tokenizer.encode(text, true).unwrap();
        let (pieces, rest) = pieces(&tokenizer, &ids, true);
        assert!(pieces.len() > 10 && !pieces.iter().any(|piece| piece.contains('\u{FFFD}')), "{model}");
        let whole = pieces.concat() + &rest;
        assert_eq!(whole.trim_start(), text.trim_start(), "{model}");
    }
}

#[test]
fn special_tokens_come_from_every_file_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    let added = |id: u32, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    write(
        "tokenizer.json",
        json!({
            "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst",
            "stride": 0}, "padding": null, "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": null, "decoder": null,
            "added_tokens": [added(0, "<s>"), added(1, "</s>"), added(2, "<eot>")],
            "model": {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "<eot>": 2, "a": 3}, "unk_token": "a"}
        }),
    );
    let encode = |text: &str| Tokenizer::open(dir.path()).unwrap().encode(text, true).unwrap();
    assert_eq!(encode("a a a"), [3, 3, 3], "saved truncation is not applied");

    write(
        "tokenizer_config.json",
        json!({"bos_token": {"content": "<s>"}, "eos_token": null, "add_bos_token": true}),
    );
    write("special_tokens_map.json", json!({"eos_token": {"content": "<eot>"}, "bos_token": "</s>"}));
    write("generation_config.json", json!({"eos_token_id": [1, 2]}));
    write("config.json", json!({"eos_token_id": 1}));
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    assert_eq!((tokenizer.bos_token(), tokenizer.eos_token()), (Some("<s>"), Some("<eot>")));
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.eos_ids()),
        (Some(0), Some(2), &[1, 2][..])
    );
    assert_eq!(encode("a"), [0, 3]);
    assert_eq!(tokenizer.encode("a", false).unwrap(), [3]);

    write("tokenizer_config.json", json!({"bos_token": "<s>", "add_bos_token": true, "add_eos_token": true}));
    assert_eq!(encode("a"), [0, 3, 2]);
    write("config.json", json!({"eos_token_id": "</s>"}));
    assert!(
        Tokenizer::open(dir.path()).err().unwrap().to_string().contains("config.json: eos_token_id: wants")
    );
    write("tokenizer.json", json!({"model": 3}));
    assert!(Tokenizer::open(dir.path()).err().unwrap().to_string().contains("tokenizer.json"));
}
