//! A seeded run of every fuzz target on mutated real files: no panic, and memory in proportion to the input.
//!
//! `cargo fuzz run NAME` explores the same targets with coverage.

#[path = "../../fuzz/targets.rs"]
mod targets;

use crate::fixture;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// The system's allocator, which counts what the calling thread holds.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    HELD.with(|held| {
        held.set(held.get() + bytes);
        PEAK.with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Bytes that any input may take: a compiled regular expression is allowed ten million, a prompt sixteen.
const ALLOWED: usize = 64 << 20;
/// Bytes for each byte of input.
const ALLOWED_PER_BYTE: usize = 256;
/// How long one input may take, on a machine that does other work too.
const ALLOWED_TIME: Duration = Duration::from_secs(10);
/// Mutations of each target's seeds.
const RUNS: usize = 400;

/// Runs a target, and fails if it takes too much.
fn run(name: &str, data: &[u8]) {
    let from = Instant::now();
    let before = HELD.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    if std::panic::catch_unwind(|| targets::run(name, data)).is_err() {
        panic!("{name} panics on {}", data.escape_ascii());
    }
    let took = PEAK.with(Cell::get) - before;
    let allowed = ALLOWED + ALLOWED_PER_BYTE * data.len();
    assert!(took <= allowed as isize, "{name}: {} bytes take {took}: {}", data.len(), data.escape_ascii());
    assert!(from.elapsed() < ALLOWED_TIME, "{name}: {:?}: {}", from.elapsed(), data.escape_ascii());
}

/// What a reader might trip over.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "1e999",
    "1e-999",
    "4294967296",
    "9007199254740993",
    "18446744073709551615",
    "NaN",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "{\"a\":",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{2028}",
    "\0",
    "\n",
    "\t",
    "(?:",
    "(a+)+$",
    "a{1000}{1000}",
    "\\1",
    "{{",
    "}}",
    "{%",
    "%}",
    "{% for i in range(10**9) %}",
    "{% endfor %}",
    "|indent(10**9)",
    "|center(10**9)",
    "*10**9",
    "&a [*a,*a]",
    "!!binary ",
    "? ",
    "<<: *a",
    "../",
    "/dev/zero",
    "data_offsets",
];

/// A seed with a few changes.
fn mutate(seeds: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut data = seeds.choose(rng).expect("at least one seed").clone();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=data.len());
        let to = (at + rng.random_range(0..=64usize)).min(data.len());
        match rng.random_range(0..7) {
            0 if at < data.len() => data[at] = rng.random(),
            1 if at < data.len() => data[at] ^= 1 << rng.random_range(0..8),
            2 => drop(data.drain(at..to)),
            3 => data.truncate(at),
            4 => {
                let copy = data[at..to].to_vec();
                data.splice(at..at, copy);
            }
            5 => {
                let other = seeds.choose(rng).expect("at least one seed");
                let from = rng.random_range(0..=other.len());
                data.splice(at..to, other[from..(from + 64).min(other.len())].to_vec());
            }
            _ => {
                // In place of a number if one stands here, so that the text still parses.
                let word = WORDS.choose(rng).expect("at least one word");
                let digits = data[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                data.splice(at..at + digits, word.bytes());
            }
        }
    }
    data
}

/// The files that a target's mutations start from.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let files: &[&str] = match name {
        "safetensors" => &["peft/rslora/adapter_model.safetensors", "peft/dora/adapter_model.safetensors"],
        "adapter_config" => &[
            "peft/rslora/adapter_config.json",
            "peft/patterns/adapter_config.json",
            "peft/regex/adapter_config.json",
            "peft/layers/adapter_config.json",
        ],
        "model_config" => &[
            "models/llama/config.json",
            "models/gemma3/config.json",
            "models/phi3_longrope/config.json",
            "models/qwen3/generation_config.json",
        ],
        "tokenizer" => &["models/qwen3/tokenizer.json", "models/llama/tokenizer.json"],
        "chat_template" => &[
            "chat_templates/llama3.2.jinja",
            "chat_templates/qwen3.jinja",
            "chat_templates/generation.jinja",
            "chat_templates/loopcontrols.jinja",
        ],
        _ => &[],
    };
    let text: &[&str] = match name {
        "index" => &[
            r#"{"metadata": {"total_size": 4}, "weight_map": {"w": "model-00001-of-00001.safetensors"}}"#,
            r#"{"weight_map": {"w": "../../model.safetensors", "v": ""}}"#,
        ],
        "rows" => &[
            "{\"text\": \"one\"}\n{\"text\": \"two\"}\n",
            "{\"prompt\": \"a\", \"completion\": \"b\"}\n\n{\"prompt\": \"c\", \"completion\": \"d\"}\r\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"ho\"}]}\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"hi\"}]}], \"tools\": []}\n",
        ],
        "adapter_config" => &[
            r#"{"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": {"rank": 1, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}}"#,
        ],
        "train_config" => &[
            "model: m\ndata: d\nlora_parameters: {rank: 8, scale: 20.0, dropout: 0.0, keys: [q_proj]}\n",
            "lr_schedule:\n  name: cosine_decay\n  arguments: [1e-5, 100, 1e-7]\n  warmup: 10\n",
            "optimizer: adamw\noptimizer_config:\n  adamw: {betas: [0.9, 0.98], eps: 1e-6}\niters: 100\n",
        ],
        _ => &[],
    };
    let files = files.iter().map(|file| std::fs::read(fixture(file)).unwrap());
    files.chain(text.iter().map(|text| text.as_bytes().to_vec())).collect()
}

fn explore(name: &str) {
    let seeds = seeds(name);
    seeds.iter().for_each(|seed| run(name, seed));
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..RUNS {
        run(name, &mutate(&seeds, &mut rng));
    }
}

macro_rules! explored {
    ($($name:ident),*) => {
        const EXPLORED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                explore(stringify!($name));
            }
        )*
    };
}
explored!(safetensors, index, rows, adapter_config, model_config, tokenizer, chat_template, train_config);

#[test]
fn every_target_is_explored_here_and_by_cargo_fuzz() {
    let names: Vec<&str> = targets::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, EXPLORED);
    let manifest = include_str!("../../fuzz/Cargo.toml");
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        assert!(fixture("../../fuzz/fuzz_targets").join(format!("{name}.rs")).is_file(), "{name}");
    }
}

/// Inputs that once took more than their share, or could.
#[test]
fn known_bombs_are_errors() {
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let yaml_bomb: String = (1..30).fold("a0: &a0 [x, x]\n".into(), |text, i| {
        format!("{text}a{i}: &a{i} [*a{0}, *a{0}, *a{0}, *a{0}]\n", i - 1)
    });
    let header = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("safetensors", u64::MAX.to_le_bytes().to_vec()),
        (
            "safetensors",
            header(r#"{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#),
        ),
        ("safetensors", header(&nested("[", "]"))),
        ("index", nested("{\"weight_map\":", "}").into()),
        ("rows", nested("{\"text\":", "}").into()),
        (
            "adapter_config",
            br#"{"peft_type":"LORA","r":4294967295,"target_modules":"((a{1000}){1000}){1000}"}"#.to_vec(),
        ),
        (
            "adapter_config",
            br#"{"peft_type":"LORA","r":8,"target_modules":"(.*)*(.*)*(.*)*x(?=y)\\1"}"#.to_vec(),
        ),
        ("model_config", br#"{"model_type":"llama","num_hidden_layers":4000000000}"#.to_vec()),
        (
            "chat_template",
            b"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_vec(),
        ),
        ("chat_template", b"{% for i in range(99999) %}{{ messages }}{% endfor %}".to_vec()),
        ("chat_template", b"{{ 'x' * 9999999999 }}".to_vec()),
        ("chat_template", b"{{ 'x'|indent(9999999999) }}".to_vec()),
        ("chat_template", b"{{ 'x'.center(9999999999) }}{{ 'x'.ljust(9999999999) }}".to_vec()),
        ("chat_template", b"{{ '%9999999999d' % 1 }}{{ '%9999999999s'|format('x') }}".to_vec()),
        ("chat_template", b"{{ [1] * 9999999999 }}".to_vec()),
        ("chat_template", nested("(", ")").replacen('(', "{{ (", 1).into()),
        ("chat_template", b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_vec()),
        ("train_config", yaml_bomb.into()),
        ("train_config", nested("[", "]").into()),
    ];
    for (name, data) in cases {
        run(name, &data);
    }
}
