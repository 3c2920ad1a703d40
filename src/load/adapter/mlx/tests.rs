//! Adapters that mlx-lm wrote, adapters that we write for it, and adapters that it has no word for.

use candle_core::{DType, Tensor};
use serde_json::json;

use super::super::{read, write as write_peft};
use super::*;
use crate::load::TargetModules;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn object(path: &Path) -> Map<String, Value> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn assert_same(ours: &Adapter, theirs: &Adapter) {
    assert_eq!(ours.tensors.keys().collect::<Vec<_>>(), theirs.tensors.keys().collect::<Vec<_>>());
    for (module, pair) in &ours.tensors {
        let other = &theirs.tensors[module];
        assert_eq!((bits(&pair.a), bits(&pair.b)), (bits(&other.a), bits(&other.b)), "{module}");
        assert_eq!(pair.magnitude.as_ref().map(bits), other.magnitude.as_ref().map(bits), "{module}");
        assert_eq!(ours.config.scale(module).unwrap(), theirs.config.scale(module).unwrap(), "{module}");
    }
}

#[test]
fn what_mlx_lm_wrote_is_read_and_written_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let names = |names: &[&str]| TargetModules::Names(names.iter().map(|name| name.to_string()).collect());
    for (name, layers, modules, chosen) in [
        ("lora", 3, &["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"][..], None),
        ("keys", 3, &["down_proj", "q_proj"], Some(vec![1, 2])),
        ("paths", 2, &["v_proj"], Some(vec![0])),
        ("dora", 2, &["q_proj", "up_proj"], None),
    ] {
        let theirs = fixture("mlx").join(name);
        let adapter = read(&theirs).unwrap();
        assert_eq!(adapter.config.target_modules, names(modules), "{name}");
        assert_eq!(adapter.config.layers_to_transform, chosen, "{name}");
        assert_eq!(adapter.config.use_dora, name == "dora", "{name}");

        let config = object(&theirs.join(CONFIG));
        for known in [Some(layers), None] {
            let out = dir.path().join(format!("{name}{known:?}"));
            write(&out, &adapter, known).unwrap();
            let written = object(&out.join(CONFIG));
            for key in ["fine_tune_type", "model"] {
                assert_eq!(written[key], config[key], "{name}: {key}");
            }
            for key in ["rank", "scale", "dropout"] {
                assert_eq!(written["lora_parameters"][key], config["lora_parameters"][key], "{name}: {key}");
            }
            if known.is_some() && name != "paths" {
                assert_eq!(written["num_layers"], config["num_layers"], "{name}");
            }
            assert_same(&read(&out).unwrap(), &adapter);
        }
        // Through PEFT's form and back.
        let peft = dir.path().join(format!("{name}-peft"));
        write_peft(&peft, &adapter).unwrap();
        let again = read(&peft).unwrap();
        assert_eq!(again.config, adapter.config, "{name}");
        assert_same(&again, &adapter);
    }
    let written = std::fs::read_to_string(dir.path().join("keysSome(3)").join(CONFIG)).unwrap();
    assert!(
        written.starts_with("{\n    \"fine_tune_type\": \"lora\",\n    \"lora_parameters\": {"),
        "{written}"
    );
}

#[test]
fn a_checkpoint_is_read_by_its_name() {
    let dir = fixture("mlx/lora");
    let (last, earlier) = (read(&dir).unwrap(), read(&dir.join("0000004_adapters.safetensors")).unwrap());
    assert_eq!(last.config, earlier.config);
    let module = "model.layers.0.self_attn.q_proj";
    assert_ne!(bits(&last.tensors[module].b), bits(&earlier.tensors[module].b));
    assert_same(&read(&dir.join(TENSORS)).unwrap(), &last);
}

/// A directory with the configuration of `lora`, changed by `change`, and `tensors`.
fn directory(change: Value, tensors: &[(&str, &[usize])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut config = json!({
        "fine_tune_type": "lora", "num_layers": -1, "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0}
    });
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    std::fs::write(dir.path().join(CONFIG), config.to_string()).unwrap();
    let tensors = tensors.iter().map(|(name, shape)| {
        (format!("model.layers.{name}"), Tensor::zeros(*shape, DType::F32, &Device::Cpu).unwrap())
    });
    safetensors::save(&dir.path().join(TENSORS), tensors, &[]).unwrap();
    dir
}

const Q: &[(&str, &[usize])] =
    &[("0.self_attn.q_proj.lora_a", &[6, 4]), ("0.self_attn.q_proj.lora_b", &[4, 5])];

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let with = |key: &str, value: Value| {
        let mut map = json!({"rank": 4, "scale": 2.0});
        map[key] = value;
        json!({ "lora_parameters": map })
    };
    for (change, words) in [
        (json!({"fine_tune_type": "full"}), "fine_tune_type: wants \"lora\" or \"dora\""),
        (json!({"lora_parameters": null}), "lora_parameters: wants rank and scale, got none"),
        (with("rank", json!(0)), "lora_parameters: rank: wants a rank above 0, got 0"),
        (with("scale", Value::Null), "lora_parameters: scale: wants the factor of the update, got none"),
        (with("dropout", json!(2)), "lora_parameters: dropout: wants a probability"),
        (with("alpha", json!(16)), "lora_parameters: alpha: wants none"),
        (with("keys", json!("q_proj")), "lora_parameters: keys: wants a list"),
        (with("rslora", json!(true)), "lora_parameters: rslora: wants"),
        (
            with("keys", json!(["self_attn.k_proj"])),
            "q_proj: wants a module that lora_parameters: keys names",
        ),
    ] {
        let error = read(directory(change, Q).path()).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(read(directory(with("alpha", json!(4)), Q).path()).is_ok());
}

#[test]
fn bad_tensors_are_all_in_one_error() {
    let tensors: &[(&str, &[usize])] = &[
        ("0.self_attn.q_proj.lora_a", &[6, 3]),
        ("0.self_attn.q_proj.lora_b", &[4, 5]),
        ("0.self_attn.k_proj.lora_a", &[6, 4]),
        ("0.self_attn.v_proj.weight", &[6, 4]),
        ("0.mlp.experts.lora_a", &[2, 4, 6]),
        ("0.mlp.experts.lora_b", &[2, 5, 4]),
        ("0.o_proj.lora_a", &[6, 4]),
        ("0.o_proj.lora_b", &[4, 5]),
        ("0.o_proj.m", &[5]),
        ("embed_tokens.lora_a", &[9, 4]),
    ];
    let error = read(directory(json!({}), tensors).path()).unwrap_err().to_string();
    for problem in [
        "6 tensor problem(s)",
        "q_proj: wants lora_a (in, 4) and lora_b (4, out), got lora_a [6, 3] and lora_b [4, 5]",
        "k_proj: wants lora_a (in, 4) and lora_b (4, out), got lora_a [6, 4]",
        "v_proj.weight: wants <module>.lora_a or .lora_b",
        "experts: wants lora_a (in, 4) and lora_b (4, out), got lora_a [2, 4, 6]",
        "o_proj.m: wants",
        "embed_tokens: wants a linear layer, got the embedding",
    ] {
        assert!(error.contains(problem), "{problem} not in {error}");
    }
    let error = read(directory(json!({"fine_tune_type": "dora"}), Q).path()).unwrap_err().to_string();
    assert!(error.contains("and m (out), got lora_a [6, 4] and lora_b [4, 5]"), "{error}");
}

#[test]
fn a_multimodal_model_is_named_as_each_names_it() {
    let dir = directory(json!({}), &[]);
    let ours = "model.language_model.layers.0.self_attn.q_proj";
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let pair = LoraPair { a: zeros((4, 6)), b: zeros((5, 4)), magnitude: None };
    let config = PeftConfig { r: 4, ..PeftConfig::default() };
    let adapter = Adapter { config, tensors: [(ours.to_string(), pair)].into(), saved: BTreeMap::new() };
    write(dir.path(), &adapter, None).unwrap();
    let weights = Weights::open_file(&dir.path().join(TENSORS)).unwrap();
    assert!(weights.contains("language_model.model.layers.0.self_attn.q_proj.lora_a"));
    assert!(read(dir.path()).unwrap().tensors.contains_key(ours));
}

#[test]
fn what_mlx_lm_has_no_word_for_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (name, key) in [("patterns", "rank_pattern"), ("modules_to_save", "modules_to_save")] {
        let error =
            write(dir.path(), &read(&fixture("peft").join(name)).unwrap(), None).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("mlx-lm"), "{error}");
    }
    let mut adapter = read(&fixture("peft/rslora")).unwrap();
    adapter.config.alpha_pattern = vec![("v_proj".to_string(), 3.0)];
    let error = write(dir.path(), &adapter, None).unwrap_err().to_string();
    assert!(error.contains("alpha_pattern: wants one scale for mlx-lm"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
