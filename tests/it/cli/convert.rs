//! `metal-candle convert`.

use super::{Place, rows};
use crate::fixture;
use serde_json::Value;

fn path(name: &str) -> String {
    fixture(name).display().to_string()
}

fn config(place: &Place, dir: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place.path(dir).join("adapter_config.json")).unwrap()).unwrap()
}

#[test]
fn an_adapter_goes_to_mlx_lm_and_back() {
    let place = Place::new();
    let (model, adapter) = (path("models/llama"), path("models/llama/adapter"));
    let ended = place
        .run(&format!("convert --adapter {adapter} --to mlx --out there/mlx --model {model} --json"))
        .ok();
    let result = ended.json();
    assert_eq!((&result["format"], &result["modules"]), (&"mlx".into(), &21.into()), "{result}");
    let (off, allowed) =
        (result["logit_difference"].as_f64().unwrap(), result["allowed_difference"].as_f64().unwrap());
    assert!(off <= allowed && allowed < 1e-3, "{result}");
    let written = config(&place, "there/mlx");
    assert_eq!((&written["num_layers"], &written["fine_tune_type"]), (&(-1).into(), &"lora".into()));
    assert_eq!(written["lora_parameters"]["scale"], 2.0);
    assert_eq!(std::fs::read_dir(place.path("there")).unwrap().count(), 1, "nothing else is left");

    let ended = place.run("convert --adapter there/mlx --to peft --out peft").ok();
    assert!(
        ended.stdout.contains("Saved peft in PEFT's form: 21 modules, read again the same"),
        "{}",
        ended.stdout
    );
    let bytes = |path: std::path::PathBuf| std::fs::read(path.join("adapter_model.safetensors")).unwrap();
    assert!(bytes(place.path("peft")) == bytes(fixture("models/llama/adapter")));

    // All three are one adapter to whoever reads them.
    place.model("llama");
    let answer = |adapter: &str| {
        let line = format!(
            "generate --model model --prompt hello --temp 0 --max-tokens 4 --json --adapter {adapter}"
        );
        place.run(&line).ok().json()["logprobs"].clone()
    };
    assert_eq!(answer("there/mlx"), answer(&adapter));
    assert_eq!(answer("peft"), answer(&adapter));
}

#[test]
fn a_checkpoint_of_mlx_lm_is_gone_on_from() {
    let place = Place::new();
    place.model("llama").write("data.jsonl", rows("text"));
    let file = path("mlx/lora/0000004_adapters.safetensors");
    let train = "train --model model --data data.jsonl --iters 2 --adapter-path";
    place.run(&format!("{train} out --resume-adapter-file {file}")).ok();
    assert_eq!(config(&place, "out")["lora_alpha"], 40);
    let ended = place.run(&format!("convert --adapter {file} --to peft --out early --force")).ok();
    assert!(ended.stdout.contains("21 modules"), "{}", ended.stdout);
    // Layers by number are for names alone in PEFT, so that `all-linear` is spelled out.
    place.run(&format!("{train} new --num-layers 2")).ok();
    let written = config(&place, "new");
    assert!(written["target_modules"].is_array(), "{written}");
    assert_eq!(written["layers_to_transform"], serde_json::json!([1, 2]));
    place.run("convert --adapter new --to mlx --out mlx --model model").ok();
    assert_eq!(config(&place, "mlx")["num_layers"], 2);
}

#[test]
fn wrong_input_is_one_clear_error_and_leaves_nothing() {
    let place = Place::new();
    let adapter = path("models/llama/adapter");
    place
        .write("file", "")
        .write("letters/one", "")
        .write("corrupt/adapter_config.json", "{")
        .write("pickled/x", "");
    for (name, config) in [("no-tensors", true), ("no-config", false)] {
        let from =
            fixture("mlx/lora").join(if config { "adapter_config.json" } else { "adapters.safetensors" });
        place.write(
            &format!("{name}/{}", from.file_name().unwrap().to_str().unwrap()),
            std::fs::read(&from).unwrap(),
        );
    }
    let cut = std::fs::read(fixture("mlx/lora/adapters.safetensors")).unwrap();
    let config = std::fs::read(fixture("mlx/lora/adapter_config.json")).unwrap();
    place.write("cut/adapters.safetensors", &cut[..cut.len() / 2]).write("cut/adapter_config.json", config);
    let before = std::fs::read_dir(place.path("")).unwrap().count();
    let (llama, patterns) = (path("models/qwen3"), path("peft/patterns"));
    let saved = path("peft/modules_to_save");
    for (line, words) in [
        ("--adapter nowhere --to mlx --out out", "nowhere: wants an adapter directory"),
        (
            "--adapter no-tensors --to peft --out out",
            "no-tensors: wants adapters.safetensors, got no such file",
        ),
        ("--adapter no-config --to peft --out out", "no-config: wants adapter_config.json with"),
        (
            "--adapter corrupt --to mlx --out out",
            "corrupt/adapter_config.json: wants an adapter's configuration",
        ),
        ("--adapter cut --to peft --out out", "cut/adapters.safetensors: wants a safetensors file"),
        (
            &format!("--adapter {patterns} --to mlx --out out"),
            "rank_pattern: wants one rank for mlx-lm, got 3 and",
        ),
        (&format!("--adapter {saved} --to mlx --out out"), "modules_to_save: wants low-rank updates alone"),
        (
            &format!("--adapter {adapter} --to mlx --out out --model nowhere"),
            "nowhere: wants a model directory",
        ),
        (
            &format!("--adapter {adapter} --to mlx --out letters"),
            "letters: wants a directory that is not there yet",
        ),
        (
            &format!("--adapter {adapter} --to mlx --out letters --force"),
            "letters: wants a directory with adapter_config.json",
        ),
        (&format!("--adapter {adapter} --to mlx --out file/out"), "file"),
        (&format!("--adapter {adapter} --to peft --out {adapter} --force"), "a directory of its own"),
    ] {
        let error = place.run(&format!("convert {line}")).error();
        assert!(error.contains(words) && error.lines().count() == 1, "{line}: {error}");
    }
    let error = place.run(&format!("convert --adapter {adapter} --to mlx --out out --model {llama}")).error();
    assert!(error.contains("models/qwen3: ") && error.contains("self_attn.q_proj: wants"), "{error}");
    assert_eq!(std::fs::read_dir(place.path("")).unwrap().count(), before);

    place.run(&format!("convert --adapter {adapter} --to mlx --out out")).ok();
    place.run(&format!("convert --adapter {adapter} --to peft --out out --force")).ok();
    assert!(place.path("out/adapter_model.safetensors").is_file());
    assert!(!place.path("out/adapters.safetensors").exists());
}
