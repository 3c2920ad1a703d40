//! `metal-candle train`.

use super::{Place, jsonl, rows};

#[test]
fn every_form_of_data_is_learned() {
    for form in ["text", "completion", "chat", "tools"] {
        let place = Place::new();
        place.model("llama").write("data/train.jsonl", rows(form)).write("data/valid.jsonl", rows(form));
        let mask = if form == "text" { "" } else { "--mask-prompt" };
        let ended = place
            .run(&format!(
                "train --model model --data data --iters 15 --steps-per-report 5 --learning-rate 5e-3 --rank 4 \
                 --scale 2 --save-every 10 --adapter-path out {mask}"
            ))
            .ok();
        assert!(ended.stdout.contains("Iter 15: Train loss"), "{form}: {}", ended.stdout);
        assert!(ended.stdout.contains("Memory plan"), "{form}: {}", ended.stdout);
        for dir in ["out", "out/best", "out/checkpoint-10"] {
            for file in ["adapter_model.safetensors", "adapter_config.json"] {
                assert!(place.path(dir).join(file).is_file(), "{form}: {dir}/{file}");
            }
        }
        let report = std::fs::read_to_string(place.path("out/report.html")).unwrap();
        assert!(report.contains("<svg") && report.contains("lora_alpha"), "{form}");

        let metrics = jsonl(&place.path("out/metrics.jsonl"));
        let train: Vec<_> = metrics.iter().filter(|m| m.get("loss").is_some()).collect();
        assert_eq!(
            train.iter().map(|m| m["step"].as_u64().unwrap()).collect::<Vec<_>>(),
            [5, 10, 15],
            "{form}"
        );
        for line in &train {
            for key in ["loss", "lr", "tokens_per_s", "tokens", "peak_mem_gb", "seconds"] {
                assert!(
                    line[key].as_f64().is_some_and(|x| x.is_finite() && x >= 0.0),
                    "{form}: {key}: {line}"
                );
            }
        }
        let valid: Vec<f64> = metrics.iter().filter_map(|m| m.get("valid_loss")?.as_f64()).collect();
        assert!(valid.len() == 2 && valid[1] < valid[0] - 0.05, "{form}: {valid:?}");
    }
}

/// The keys of mlx-lm's own example.
const MLX_LM_S: &str = "
model: \"model\"
train: true
fine_tune_type: lora
optimizer: adamw
data: data.jsonl
seed: 0
num_layers: 16
batch_size: 4
iters: 7
val_batches: 25
learning_rate: 1e-3
steps_per_report: 1
steps_per_eval: 200
resume_adapter_file: null
adapter_path: \"from_yaml\"
save_every: 100
test: false
test_batches: 100
max_seq_length: 2048
grad_checkpoint: false
lora_parameters:
  keys: [\"self_attn.q_proj\"]
  rank: 2
  scale: 3.0
  dropout: 0.1
";

#[test]
fn flags_win_over_yaml_and_yaml_over_defaults() {
    let place = Place::new();
    place.model("llama").write("data.jsonl", rows("text")).write("lora.yaml", MLX_LM_S);
    place.run("train -c lora.yaml --iters 3 --adapter-path from_flag").ok();
    assert!(!place.path("from_yaml").exists());
    let metrics = jsonl(&place.path("from_flag/metrics.jsonl"));
    let steps: Vec<_> = metrics.iter().filter(|m| m.get("loss").is_some()).collect();
    assert_eq!(steps.len(), 3);
    assert_eq!(steps[0]["lr"], 1e-3);
    let config = std::fs::read_to_string(place.path("from_flag/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"]), (&2.into(), &6.into()), "{config}");
    assert_eq!(config["target_modules"], serde_json::json!(["self_attn.q_proj"]));
    assert_eq!(config["lora_dropout"], 0.1);

    for (written, shown) in [("auto", Some("Checkpointing: no layers")), ("true", None), ("off", None)] {
        place.write(
            "auto.yaml",
            MLX_LM_S.replace("grad_checkpoint: false", &format!("grad_checkpoint: {written}")),
        );
        let out = place.run("train -c auto.yaml --iters 1 --adapter-path auto").ok().stdout;
        assert_eq!(out.contains("Checkpointing: "), shown.is_some(), "{written}: {out}");
        assert!(out.contains(shown.unwrap_or_default()), "{written}: {out}");
    }
    let flag = "train -c lora.yaml --iters 1 --adapter-path flag --grad-checkpoint";
    assert!(place.run(&format!("{flag}=auto")).ok().stdout.contains("Checkpointing: no layers"));
    assert!(!place.run(flag).ok().stdout.contains("Checkpointing: "));
    assert!(place.run(&format!("{flag}=some")).stderr.contains("[possible values: off, on, auto]"));

    place.write("bad.yaml", "model: model\nlearning_rat: 1e-3\n");
    let error = place.run("train -c bad.yaml").error();
    assert!(error.contains("bad.yaml") && error.contains("learning_rat"), "{error}");
}

#[test]
fn full_fine_tuning_leaves_a_model_directory() {
    let place = Place::new();
    place.model("qwen3").write("data.jsonl", rows("text"));
    let line =
        "train --model model --data data.jsonl --fine-tune-type full --iters 2 --adapter-path out --json";
    let ended = place.run(line).ok();
    let result = ended.json();
    assert_eq!((&result["steps"], &result["interrupted"]), (&2.into(), &false.into()), "{result}");
    assert!(ended.stderr.contains("Next: "), "{}", ended.stderr);
    place.run("generate --model out --prompt hello --max-tokens 2").ok();
}

/// Pre-training: weights from the seed and the configuration, not from the checkpoint.
#[test]
fn from_scratch_needs_no_weights() {
    let place = Place::new();
    place.model("llama").write("data.jsonl", rows("text"));
    std::fs::remove_file(place.path("model/model.safetensors")).unwrap();
    let train = "train --model model --data data.jsonl --from-scratch --iters 2 --adapter-path out";
    let message = place.run(train).error();
    assert!(message.contains("--from-scratch: wants --fine-tune-type full"), "{message}");
    place.run(&format!("{train} --fine-tune-type full")).ok();
    let answer = place.run("generate --model out --prompt hello --max-tokens 4 --json").ok().json();
    assert_eq!(answer["tokens"].as_array().map(Vec::len), Some(4), "{answer}");
}

#[test]
fn dora_and_saved_modules_are_trained_written_resumed_and_run() {
    let place = Place::new();
    // Its head is tied to its embedding, and comes apart from it.
    place.model("qwen2").write("data.jsonl", rows("text"));
    let yaml = "fine_tune_type: dora\nlora_parameters:\n  rank: 2\n  dropout: 0.1\n  modules_to_save: [lm_head, norm]\n";
    place.write("dora.yaml", yaml);
    let train = "train -c dora.yaml --model model --data data.jsonl --iters 3 --learning-rate 1e-2";
    let text = place.run(&format!("{train} --adapter-path out")).ok().stdout;
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("out/adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["use_dora"], &config["r"]), (&true.into(), &2.into()), "{config}");
    assert_eq!(config["modules_to_save"], serde_json::json!(["lm_head", "norm"]));
    let losses = |dir: &str| -> Vec<f64> {
        let metrics = jsonl(&place.path(dir).join("metrics.jsonl"));
        metrics.iter().filter_map(|m| m.get("valid_loss")?.as_f64()).collect()
    };
    let first = losses("out");
    assert!(first[1] < first[0], "{first:?} {text}");

    place.run(&format!("{train} --resume-adapter-file out --adapter-path more")).ok();
    let more = losses("more");
    assert!((more[0] - first[1]).abs() < 1e-4 && more[1] < more[0], "{first:?} {more:?}");

    let ask = "generate --model model --prompt hello --max-tokens 8 --ignore-chat-template --json";
    let tokens = |extra: &str| place.run(&format!("{ask} {extra}")).ok().json()["tokens"].clone();
    assert_ne!(tokens(""), tokens("--adapter more"));

    for (flags, words) in [
        ("--modules-to-save score", "modules_to_save: wants modules of the model (down_proj, embed_tokens,"),
        ("--fine-tune-type full", "--modules-to-save: wants --fine-tune-type lora or dora, got full"),
        ("--fine-tune-type lora --resume-adapter-file out", "wants a lora adapter, got dora"),
        ("--modules-to-save norm --resume-adapter-file out", "saves norm, got lm_head, norm"),
    ] {
        let error = place.run(&format!("{train} --adapter-path no {flags}")).error();
        assert!(error.contains(words), "{flags}: {error}");
    }
}

#[test]
fn wrong_input_is_one_clear_error() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text"));
    place.write("bad/train.jsonl", "{\"text\": \"a\"}\n{\"text\": \n");
    place.write("mixed/train.jsonl", "{\"text\": \"a\"}\n{\"prompt\": \"a\"}\n");
    place.write("empty/train.jsonl", "").write("a_file", "");
    let flags = "--iters 1 --adapter-path out";
    for (line, words) in [
        ("--model nowhere --data data", vec!["nowhere: wants a model directory", "no such directory"]),
        ("--model org/name --data data", vec!["org/name: no such directory", "HF_HUB_OFFLINE is set"]),
        ("--model model --data nowhere", vec!["nowhere: wants a JSONL file"]),
        ("--model model --data bad", vec!["bad/train.jsonl:2: wants"]),
        ("--model model --data mixed", vec!["mixed/train.jsonl:2: wants"]),
        ("--model model --data empty", vec!["empty/train.jsonl", "no rows"]),
        ("--model model --data data --mask-prompt", vec!["data/train.jsonl", "rows of plain text"]),
        ("--model model --data data --adapter-path a_file/out", vec!["a_file/out"]),
        ("--model model --data data --target-modules x_proj", vec!["target_modules", "x_proj", "q_proj"]),
        ("--model model --data data --test", vec!["--test: wants test.jsonl"]),
        ("--model model --data data --rank 0", vec!["--rank: wants at least 1"]),
        ("--data data", vec!["--model: wants"]),
        ("--model model", vec!["--data: wants"]),
        ("--config nowhere.yaml", vec!["nowhere.yaml"]),
    ] {
        let flags = if line.contains("--adapter-path") { "--iters 1" } else { flags };
        let error = place.run(&format!("train {line} {flags}")).error();
        assert_eq!(error.lines().count(), 1, "{line}: {error}");
        for word in words {
            assert!(error.contains(word), "{line}: {error}");
        }
    }
    assert!(!place.path("out/adapter_model.safetensors").exists());
}

#[test]
fn a_broken_model_is_one_clear_error() {
    let place = Place::new();
    place.model("llama").write("data.jsonl", rows("text"));
    let run = || place.run("train --model model --data data.jsonl --iters 1 --adapter-path out").error();

    let config = std::fs::read_to_string(place.path("model/config.json")).unwrap();
    place
        .write("model/config.json", config.replace("\"model_type\": \"llama\"", "\"model_type\": \"mamba\""));
    let error = run();
    assert!(error.contains("mamba") && error.contains("llama") && error.contains("config.json"), "{error}");
    place.write("model/config.json", "{");
    assert!(run().contains("model/config.json: wants"), "{}", run());
    place.write("model/config.json", config.replace("\"hidden_size\": 32", "\"hidden_size\": 64"));
    let error = run();
    assert!(error.contains("model.embed_tokens.weight: wants shape [288, 64], got [288, 32]"), "{error}");
    assert!(error.lines().count() <= 14, "{error}");
    place.write("model/config.json", config);

    let weights = std::fs::read(place.path("model/model.safetensors")).unwrap();
    for broken in [&weights[..weights.len() / 2], &b"not safetensors"[..], b""] {
        place.write("model/model.safetensors", broken);
        let error = run();
        assert!(error.contains("model/model.safetensors") && error.lines().count() == 1, "{error}");
    }
    std::fs::remove_file(place.path("model/model.safetensors")).unwrap();
    assert!(run().contains("safetensors"), "{}", run());
    std::fs::remove_file(place.path("model/tokenizer.json")).unwrap();
    assert!(run().contains("model/tokenizer.json: wants a tokenizer"), "{}", run());
}
