//! The binary itself, in a temporary directory.

mod batch;
mod bench;
mod chat;
mod convert;
mod device;
mod faults;
mod fuse;
mod generate;
mod people;
mod prompt_cache;
#[cfg(target_os = "linux")]
mod pty;
mod resume;
mod train;

use crate::fixture;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The output of a command that must have succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// stdout, which must be one JSON object.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// The message of a command that must have failed as a user should see it.
    pub fn error(self) -> String {
        assert_eq!(self.status, Some(1), "{}\n{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.matches("error: ").count(), 1, "{}", self.stderr);
        for word in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
            assert!(!self.stderr.contains(word), "{}", self.stderr);
        }
        self.stderr.split_once("error: ").map(|(_, message)| message.trim_end().to_string()).unwrap()
    }
}

/// A temporary directory that commands run in.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// A copy of a fixture's model, without its adapter and goldens.
    fn model(&self, name: &str) -> &Self {
        let to = self.path("model");
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(fixture(&format!("models/{name}"))).unwrap() {
            let from = entry.unwrap().path();
            if from.is_file() && !from.ends_with("golden.safetensors") {
                std::fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
            }
        }
        self
    }

    /// A command that asks nothing of the hub.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metal-candle"));
        self.quiet(command.args(args));
        command
    }

    /// In this directory, without the user's hub.
    fn quiet<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.0.path()).env("RUST_BACKTRACE", "1").env("HF_HUB_OFFLINE", "1");
        command.current_dir(self.0.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped())
    }

    fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    /// Runs a line of shell in which `$BIN` is the binary.
    #[cfg(target_os = "linux")]
    fn shell(&self, script: &str) -> Ended {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).env("BIN", env!("CARGO_BIN_EXE_metal-candle"));
        ended(self.quiet(&mut shell).spawn().unwrap())
    }

    /// Runs a command to its end; a word of `line` ends at a space.
    fn run(&self, line: &str) -> Ended {
        self.run_with(&line.split_whitespace().collect::<Vec<_>>(), "")
    }

    fn run_with(&self, args: &[&str], stdin: &str) -> Ended {
        let mut child = self.start(args);
        // One that ends before it has read is no failure of ours.
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).ok();
        ended(child)
    }
}

pub fn ended(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    Ended {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The model in the binary.
fn embedded() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model").display().to_string()
}

/// Rows of the four forms, by name.
pub fn rows(form: &str) -> String {
    let row = |i: usize| {
        match form {
        "text" => format!(r#"{{"text": "the cat sat on mat number {}"}}"#, i % 3),
        "completion" => format!(r#"{{"prompt": "count {}", "completion": "one two three"}}"#, i % 3),
        "chat" => format!(
            r#"{{"messages": [{{"role": "user", "content": "hi {}"}}, {{"role": "assistant", "content": "hello"}}]}}"#,
            i % 3
        ),
        _ => format!(
            r#"{{"messages": [{{"role": "user", "content": "hi {}"}}, {{"role": "assistant", "content": "hello"}}],
                "tools": [{{"type": "function", "function": {{"name": "f", "parameters": {{}}}}}}]}}"#,
            i % 3
        )
        .replace('\n', ""),
    }
    };
    (0..12).map(|i| row(i) + "\n").collect()
}

#[test]
fn help_names_every_verb_and_wrong_usage_is_status_2() {
    let place = Place::new();
    let help = place.run("--help").ok().stdout;
    for verb in ["quickstart", "train", "generate", "chat", "cache-prompt", "130"] {
        assert!(help.contains(verb), "{help}");
    }
    assert_eq!(place.run("generate --no-such-flag").status, Some(2));
    assert_eq!(place.run("").status, Some(2));
}

#[test]
fn quickstart_learns_and_says_so_in_one_object() {
    let place = Place::new();
    let ended = place.run("quickstart --out out --iters 12 --json").ok();
    let result = ended.json();
    let loss = |key: &str| result[key].as_f64().unwrap_or_else(|| panic!("{key}: {result}"));
    assert!(loss("valid_loss_after") < loss("valid_loss_before"), "{result}");
    assert!(loss("seconds") > 0.0);
    let samples = result["samples"].as_array().unwrap();
    assert!(samples.len() >= 4);
    for sample in samples {
        for key in ["prompt", "before", "after"] {
            assert!(sample[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {sample}");
        }
    }
    for file in ["adapter_model.safetensors", "adapter_config.json", "metrics.jsonl"] {
        assert!(place.path(result["adapter"].as_str().unwrap()).join(file).is_file(), "{file}");
    }
    assert!(place.path(result["report"].as_str().unwrap()).is_file());

    // What it says to type next works.
    let args =
        ["generate", "--model", "out/model", "--adapter", "out/adapter", "--max-tokens", "5", "--json"];
    let answer = place.run_with(&[&args[..], &["--prompt", "Who are you?"]].concat(), "").ok().json();
    assert!(answer["tokens"].as_array().is_some_and(|tokens| !tokens.is_empty()), "{answer}");
    assert_eq!(answer["adapter"], "out/adapter");
}

/// Waits until what a process has written to stdout contains `word`.
#[cfg(unix)]
fn wait_for(child: &mut Child, word: &str) -> String {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    let stdout = child.stdout.as_mut().unwrap();
    while !String::from_utf8_lossy(&seen).contains(word) {
        assert!(stdout.read(&mut byte).unwrap() == 1, "ended: {}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

/// What Ctrl-C sends.
#[cfg(unix)]
pub fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[test]
#[cfg(unix)]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text"));
    let args = "train --model model --data data --iters 1000000 --steps-per-report 1 --adapter-path out";
    let mut child = place.start(&args.split(' ').collect::<Vec<_>>());
    wait_for(&mut child, "Iter 3: Train loss");
    let since = Instant::now();
    interrupt(&child);
    let ended = ended(child);
    assert!(since.elapsed() < Duration::from_secs(20));
    assert_eq!(ended.status, Some(130), "{}", ended.stderr);
    assert!(ended.stderr.contains("stopping after this step"), "{}", ended.stderr);
    assert!(ended.stdout.contains("add to the same command: --resume"), "{}", ended.stdout);
    assert!(place.path("out/report.html").is_file());
    place.run("train --model model --data data --iters 1 --adapter-path more --resume-adapter-file out").ok();
    place.run("generate --model model --adapter out --prompt x --max-tokens 2").ok();
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_an_answer() {
    let place = Place::new();
    place.model("llama");
    let args = "generate --model model --prompt x --ignore-chat-template --max-tokens 490 --temp 0";
    let mut child = place.start(&args.split(' ').collect::<Vec<_>>());
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    interrupt(&child);
    let ended = ended(child);
    assert!(matches!(ended.status, Some(130 | 0)), "{ended:?}");
    assert!(ended.stderr.contains("Generation: "), "{}", ended.stderr);
}

#[test]
#[cfg(unix)]
fn a_reader_who_leaves_is_no_error() {
    let place = Place::new();
    place.model("llama");
    let args =
        "generate --model model --prompt x --ignore-chat-template --max-tokens 400 --temp 0 --verbose False";
    let mut child = place.start(&args.split(' ').collect::<Vec<_>>());
    drop(child.stdout.take());
    let ended = ended(child);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
}

/// The lines of a JSONL file.
fn jsonl(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
