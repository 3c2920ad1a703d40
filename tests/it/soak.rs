//! Long runs hold no more memory at their end than after their beginning: `just soak`.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

/// The resident bytes of a process.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(1024 * kib.split_whitespace().next()?.parse::<u64>().ok()?)
}

/// Runs the binary, and measures it whenever `at` sees in a line how far it is.
fn watched(args: &[&str], dir: &Path, at: impl Fn(&str) -> Option<usize>) -> Vec<(usize, u64)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_metal-candle"))
        .args(args)
        .current_dir(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (pid, mut seen) = (child.id(), Vec::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(step) = at(&line.unwrap()) {
            seen.extend(resident(pid).map(|bytes| (step, bytes)));
        }
    }
    assert!(child.wait().unwrap().success());
    seen
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The mean of the resident bytes from one step to another.
fn mean(seen: &[(usize, u64)], from: usize, to: usize) -> f64 {
    let of: Vec<f64> =
        seen.iter().filter(|(step, _)| (from..=to).contains(step)).map(|(_, bytes)| mb(*bytes)).collect();
    assert!(!of.is_empty(), "nothing was measured from {from} to {to}: {seen:?}");
    of.iter().sum::<f64>() / of.len() as f64
}

#[test]
#[ignore = "minutes: just soak"]
fn two_thousand_steps_in_flat_memory() {
    let dir = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let (model, data) = (assets.join("model"), assets.join("quickstart"));
    let args =
        ["--iters", "2000", "--steps-per-eval", "200", "--save-every", "100", "--save-total-limit", "2"];
    let line =
        ["train", "--mask-prompt", "--model", model.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let step = |line: &str| line.strip_prefix("Iter ")?.split_once(": Train")?.0.parse().ok();
    let seen = watched(&[&line[..], &args].concat(), dir.path(), step);
    let (early, late) = (mean(&seen, 300, 500), mean(&seen, 1800, 2000));
    println!("2000 steps: {early:.1} MB resident after warm-up, {late:.1} MB at the end");
    assert!(late < 1.03 * early, "{seen:?}");
}

/// A cache of keys and values grows by design, and holds every token of a layer with a sliding window too: what is
/// flat is the rest.
#[test]
#[ignore = "minutes: just soak"]
fn ten_thousand_tokens_in_flat_memory_but_for_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model");
    for entry in std::fs::read_dir(&assets).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    let edit = |name: &str, edit: fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let path = dir.path().join(name);
        let mut fields = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut fields);
        std::fs::write(path, serde_json::to_string(&fields).unwrap()).unwrap();
    };
    // Room for as many tokens, and none that ends the answer.
    edit("config.json", |fields| {
        fields.insert("max_position_embeddings".into(), 16384.into());
        fields.remove("eos_token_id");
    });
    edit("generation_config.json", |fields| drop(fields.remove("eos_token_id")));
    edit("tokenizer_config.json", |fields| drop(fields.remove("eos_token")));
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    let size = |name: &str| config[name].as_u64().unwrap();
    // Capacity doubles from 64 positions on; keys and values in f32.
    let cache = |tokens: u64| {
        let positions = tokens.next_power_of_two().max(64);
        mb(size("num_hidden_layers") * 2 * positions * size("num_key_value_heads") * size("head_dim") * 4)
    };

    const TOKENS: u64 = 10_000;
    let count = TOKENS.to_string();
    let args = [
        "generate",
        "--model",
        ".",
        "--prompt",
        "x",
        "--ignore-chat-template",
        "--temp",
        "0",
        "--dtype",
        "f32",
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_metal-candle"))
        .args([&args[..], &["--max-tokens", &count]].concat())
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (pid, mut stdout) = (child.id(), child.stdout.take().unwrap());
    let (mut written, mut buffer, mut seen) = (0, [0; 256], Vec::new());
    loop {
        match stdout.read(&mut buffer).unwrap() {
            0 => break,
            n => written += n,
        }
        seen.extend(resident(pid).map(|bytes| (written, bytes)));
    }
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains(&format!("Generation: {TOKENS} tokens")), "{told}");
    // Text comes evenly: how much of it is out says how many tokens are.
    let at = |tokens: u64| (written as u64 * tokens / TOKENS) as usize;
    let (early, late) = (mean(&seen, at(1100), at(1900)), mean(&seen, at(9000), at(10_000)));
    let grown = cache(10_000) - cache(1500);
    println!(
        "10000 tokens: {early:.1} MB resident at 1500, {late:.1} MB at the end; the cache grew by {grown:.1} MB"
    );
    assert!(late < 1.03 * early + grown, "{told}");
}
