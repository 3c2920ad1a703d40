//! `metal-candle fuse`.

use super::Place;
use crate::fixture;
use serde_json::{Value, json};

fn path(name: &str) -> String {
    fixture(name).display().to_string()
}

fn entries(place: &Place) -> usize {
    std::fs::read_dir(place.path("")).unwrap().count()
}

fn logprobs(place: &Place, flags: &str) -> Vec<f64> {
    let line = format!("generate --prompt hello --temp 0 --max-tokens 6 --dtype f32 --json {flags}");
    let answer = place.run(&line).ok().json();
    answer["logprobs"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect()
}

fn assert_close(one: &[f64], other: &[f64]) {
    assert!(
        one.len() == other.len() && one.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-4),
        "{one:?} {other:?}"
    );
}

#[test]
fn a_fused_model_answers_as_the_model_with_its_adapter() {
    let place = Place::new();
    place.model("llama");
    let adapter = path("models/llama/adapter");
    // As `mlx_lm.fuse` is called.
    let ended =
        place.run(&format!("fuse --model model --adapter-path {adapter} --save-path new/fused --json")).ok();
    let result = ended.json();
    assert_eq!(
        (&result["merged"], &result["dtype"], &result["path"]),
        (&json!(21), &json!("f32"), &json!("new/fused"))
    );
    let number = |key: &str| result[key].as_f64().unwrap_or_else(|| panic!("{key}: {result}"));
    assert!(
        number("logit_difference") <= number("allowed_difference") && number("allowed_difference") < 1e-3,
        "{result}"
    );
    assert!(number("adapter_effect") > 1.0 && number("largest_logit") > 1.0, "{result}");
    let adapted = logprobs(&place, &format!("--model model --adapter {adapter}"));
    assert_close(&logprobs(&place, "--model new/fused"), &adapted);
    assert_eq!(std::fs::read_dir(place.path("new")).unwrap().count(), 1, "nothing else is left");

    // It is a model as any other: another adapter goes into it, in the place of what was there.
    let more = path("mlx/keys");
    place.run(&format!("fuse --model new/fused --adapter {more} --save-path twice")).ok();
    let again = format!("fuse --model new/fused --adapter {more} --save-path model --dtype bf16 --force");
    // This adapter, trained far too fast for the toy that it is on, has a logit that rounding throws about.
    let error = place.run(&again).error();
    assert!(
        error.contains("model: wants logits within ") && error.contains("(BF16, largest logit"),
        "{error}"
    );
    let ended = place.run(&format!("{again} --tolerance 10")).ok();
    assert!(ended.stdout.contains("Merged 4 weights, stored in BF16"), "{}", ended.stdout);
    let config: Value =
        serde_json::from_slice(&std::fs::read(place.path("model/config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"], "bfloat16");
}

#[test]
fn several_adapters_add_up() {
    let place = Place::new();
    place.model("llama");
    let (one, two) = (path("peft/layers"), path("mlx/keys"));
    let both = format!("--model model --adapter {one} --adapter {two}");
    place.run(&format!("fuse {both} --adapter-weights 0.7,-0.3 --save-path fused")).ok();
    let sum = logprobs(&place, &format!("{both} --adapter-weights 0.7,-0.3"));
    assert_close(&logprobs(&place, "--model fused"), &sum);
    let alone = logprobs(&place, &format!("--model model --adapter {one}"));
    assert_close(&logprobs(&place, &format!("{both} --adapter-weights 1,0")), &alone);
    assert_ne!(sum, alone);
}

#[test]
fn wrong_input_is_one_clear_error_and_leaves_nothing() {
    let place = Place::new();
    place.model("llama").write("file", "").write("full/letter", "");
    place.write("broken/adapter_config.json", "{}").write("broken/adapter_model.safetensors", "x");
    let from = fixture("models/llama");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        place.write(&format!("cut/{name}"), std::fs::read(from.join(name)).unwrap());
    }
    let weights = std::fs::read(from.join("model.safetensors")).unwrap();
    place.write("cut/model.safetensors", &weights[..weights.len() / 2]);
    let before = entries(&place);
    let (good, dora, saved) = (path("models/llama/adapter"), path("peft/dora"), path("peft/modules_to_save"));
    for (line, words) in [
        ("--model model".to_string(), "--adapter: wants an adapter directory, got none"),
        ("--model model --adapter nowhere".to_string(), "nowhere: wants an adapter directory"),
        (format!("--model nowhere --adapter {good}"), "nowhere: wants a model directory"),
        ("--model model --adapter broken".to_string(), "broken/adapter_config.json: peft_type: wants"),
        (format!("--model cut --adapter {good}"), "cut/model.safetensors: wants a safetensors file"),
        (
            format!("--model model --adapter {good} --adapter-weights 1,2"),
            "--adapter-weights: wants one for each --adapter (1), got 2",
        ),
        (format!("--model model --adapter {good} --adapter {dora}"), "peft/dora: wants adapters that add up"),
        (
            format!("--model model --adapter {dora} --adapter-weights 0.5"),
            "peft/dora: wants adapters that add up",
        ),
        (
            format!("--model model --adapter {saved} --adapter-weights 0.5"),
            "modules_to_save: lm_head: wants weight 1",
        ),
        (
            format!("--model model --adapter {good} --save-path full"),
            "full: wants a directory that is not there yet",
        ),
        (
            format!("--model model --adapter {good} --save-path full --force"),
            "full: wants a directory with config.json",
        ),
        (
            format!("--model model --adapter {good} --save-path model --force"),
            "model: wants a directory of its own",
        ),
        (format!("--model model --adapter {good} --save-path file/out"), "file"),
        (format!("--model model --adapter {good} --tolerance 0"), "; nothing was written"),
    ] {
        let error = place.run(&format!("fuse {line}")).error();
        assert!(error.contains(words) && error.lines().count() == 1, "{line}: {error}");
    }
    // The update is larger than f16 goes.
    let line = format!("fuse --model model --adapter {good} --adapter-weights 1e6 --dtype f16");
    let error = place.run(&line).error();
    assert!(
        error.contains("down_proj.weight: wants the merged weight rounded to F16, got numbers up to inf"),
        "{error}"
    );
    let other = path("models/qwen3/adapter");
    let error = place.run(&format!("fuse --model model --adapter {other}")).error();
    assert!(
        error.contains("qwen3/adapter on model: ") && error.contains("self_attn.q_proj: wants"),
        "{error}"
    );
    assert_eq!(entries(&place), before);
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_one_error_and_leaves_nothing() {
    let place = Place::new();
    place.model("llama");
    let before = entries(&place);
    // A limit on the size of files: writing ends as on a full disk.
    let line = format!(
        "trap '' XFSZ; ulimit -f 64; exec {} fuse --model model --adapter {}",
        env!("CARGO_BIN_EXE_metal-candle"),
        path("models/llama/adapter")
    );
    let output =
        std::process::Command::new("bash").args(["-c", &line]).current_dir(place.path("")).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("fused_model/model.safetensors: File too large") && error.lines().count() == 1,
        "{error}"
    );
    assert_eq!(entries(&place), before);
}
