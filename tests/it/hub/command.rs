//! The binary and the hub.

use super::*;
use crate::cli::{Place, ended, interrupt, rows};
use std::process::Command;

const ANSWER: &str = "--prompt hi --max-tokens 4 --temp 0 --json";

/// A command that may ask the hub.
fn command(place: &Place, server: &Server, line: &str) -> Command {
    let mut command = place.command(&line.split_whitespace().collect::<Vec<_>>());
    command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", format!("{}/", server.url)).env("NO_PROXY", "*");
    command
}

fn run(place: &Place, server: &Server, line: &str) -> crate::cli::Ended {
    ended(command(place, server, line).spawn().unwrap())
}

#[test]
fn a_model_and_an_adapter_of_the_hub_answer_as_those_of_directories() {
    let (server, place) = (llama(), Place::new());
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        server.add(name, std::fs::read(fixture("models/llama/adapter").join(name)).unwrap());
    }
    let (dir, adapter) = (fixture("models/llama"), fixture("models/llama/adapter"));
    let line = format!("generate --model {} --adapter {} {ANSWER}", dir.display(), adapter.display());
    let wanted = run(&place, &server, &line).ok().json();
    let line = format!("generate --model org/name --adapter org/name {ANSWER}");
    let first = run(&place, &server, &line).ok();
    assert_eq!(first.json()["tokens"], wanted["tokens"]);
    for words in ["Downloading org/name: 4 files", "Downloading org/name: 1 file,"] {
        assert!(first.stderr.contains(words), "{}", first.stderr);
    }
    // Not a terminal: lines and no bar.
    assert!(!first.stderr.contains('\r') && !first.stderr.contains('\x1b'), "{:?}", first.stderr);

    let offline = ended(place.command(&line.split_whitespace().collect::<Vec<_>>()).spawn().unwrap()).ok();
    assert_eq!((offline.json()["tokens"].clone(), offline.stderr.as_str()), (wanted["tokens"].clone(), ""));

    let line = |flags: &str| format!("generate {flags} {ANSWER}");
    run(&place, &server, &line("--model org/name --revision v1.0")).ok();
    let error = run(&place, &server, &line("--model org/name --revision v2")).error();
    assert!(error.contains("org/name at v2: wants a branch, tag or commit"), "{error}");
    let error = run(&place, &server, &line(&format!("--model {} --revision v1.0", dir.display()))).error();
    assert!(error.contains("--revision: wants a model of the hub"), "{error}");
    let error = run(&place, &server, &line("--model org/name --adapter org/none")).error();
    assert!(error.contains("org/none: no such directory, and no such repository"), "{error}");
}

#[test]
fn training_names_the_model_as_it_was_given() {
    let (server, place) = (llama(), Place::new());
    place.write("data/train.jsonl", rows("text"));
    place.write("lora.yaml", "model: org/name\nrevision: v1.0\ndata: data\niters: 1\nadapter_path: out\n");
    let stdout = run(&place, &server, "train --config lora.yaml").ok().stdout;
    assert!(stdout.contains("Model org/name: llama"), "{stdout}");
    assert!(stdout.contains("generate --model org/name --revision v1.0 --adapter out"), "{stdout}");
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("out/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["base_model_name_or_path"], "org/name");
}

#[test]
fn two_processes_download_each_file_once() {
    let (server, place) = (llama(), Place::new());
    server.fault("/storage/", Fault::Slow, 1);
    let line = format!("generate --model org/name {ANSWER}");
    let both = [(); 2].map(|()| command(&place, &server, &line).spawn().unwrap());
    let both = both.map(|child| ended(child).ok());
    assert_eq!(both[0].json()["tokens"], both[1].json()["tokens"]);
    assert!(both.iter().any(|one| one.stderr.contains("model.safetensors: waiting for another process")));
    for name in NEEDED {
        assert_eq!(server.sent(&format!("/{name}")), server.file(name).bytes.len(), "{name}");
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_keeps_what_is_there() {
    let (server, place) = (llama(), Place::new());
    server.fault("/storage/", Fault::Slow, 1);
    let line = format!("generate --model org/name {ANSWER}");
    let child = command(&place, &server, &line).spawn().unwrap();
    let etag = server.file("model.safetensors").etag;
    let part = place.path(&format!("hub/models--org--name/blobs/{etag}.incomplete"));
    let since = std::time::Instant::now();
    while std::fs::metadata(&part).map_or(0, |part| part.len()) < 20_000 {
        assert!(since.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    interrupt(&child);
    let stopped = ended(child);
    assert_eq!(stopped.status, Some(130), "{stopped:?}");
    assert!(stopped.stderr.contains("note: org/name: stopped; what is there is kept"), "{}", stopped.stderr);
    let here = std::fs::metadata(&part).unwrap().len();
    server.requests();
    run(&place, &server, &line).ok();
    let request = server.requests().into_iter().find(|request| request.stored).unwrap();
    assert_eq!(request.headers["range"], format!("bytes={here}-"));
}

#[test]
#[cfg(unix)]
fn a_file_that_cannot_be_written_is_named_and_goes_on_later() {
    let (server, place) = (llama(), Place::new());
    let line = format!("generate --model org/name {ANSWER}");
    let whole = command(&place, &server, &line);
    // No file may grow over 100 blocks of 512 bytes: the errors of a full disk, without one.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\""]).arg(whole.get_program());
    limited.args(whole.get_args()).current_dir(whole.get_current_dir().unwrap());
    for (name, value) in whole.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let output = limited.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let size = server.file("model.safetensors").bytes.len();
    let words = [".incomplete: File too large", &format!("51200 of {size} bytes are kept")];
    assert!(words.iter().all(|word| stderr.matches(word).count() == 1), "{stderr}");
    run(&place, &server, &line).ok();
    assert!(
        server
            .requests()
            .iter()
            .any(|request| request.headers.get("range").is_some_and(|r| r == "bytes=51200-"))
    );
}

#[test]
fn the_token_of_a_file_is_sent_and_never_shown() {
    let (server, place) = (llama(), Place::new());
    server.guard("hf_of_file");
    let line = format!("generate --model org/name {ANSWER}");
    let error = run(&place, &server, &line).error();
    assert!(error.contains("a private one needs HF_TOKEN"), "{error}");
    place.write("token", "hf_of_file\n");
    let good = run(&place, &server, &line).ok();
    assert!(!good.stderr.contains("hf_of_file") && !good.stdout.contains("hf_of_file"));
    let mut without = command(&place, &server, "generate --model org/name --revision v1.0 --prompt x");
    let error = ended(without.env("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1").spawn().unwrap()).error();
    assert!(error.contains("a private one needs HF_TOKEN"), "{error}");
}
