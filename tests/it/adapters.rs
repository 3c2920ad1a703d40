//! Adapters on models, against what PEFT computed with them: LoRA, DoRA, modules_to_save.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::device;
use crate::models::{chosen, directory, distance, golden, input_ids, lora, loss, model, norm, targets};
use crate::train::{batch, ten_steps};
use crate::{fixture, models};
use candle_core::{DType, Tensor};
use metal_candle::load::{PeftConfig, TargetModules, Weights, safetensors};
use metal_candle::models::Model;
use metal_candle::ops::Keys;
use metal_candle::train::checkpoint::Checkpoint;
use metal_candle::train::step::{GradCheckpoint, Gradients, StepOptions, loss_and_gradients};
use serde_json::Value;

/// `tests/fixtures/peft`: what they are is in `make.py`.
const VARIANTS: [&str; 8] =
    ["rslora", "patterns", "regex", "layers", "dora", "modules_to_save", "dora_saved", "tied"];
const TRAINED: [&str; 4] = ["dora", "modules_to_save", "dora_saved", "tied"];

/// An adapter's directory, the name of its model and what PEFT computed.
fn variant(name: &str) -> (PathBuf, String, HashMap<String, Tensor>) {
    let dir = fixture("peft").join(name);
    let config: Value = read_json(&dir);
    let base = config["base_model_name_or_path"].as_str().unwrap().strip_prefix("models/").unwrap();
    let computed = candle_core::safetensors::load(dir.join("golden.safetensors"), &device()).unwrap();
    (dir, base.to_string(), computed)
}

fn read_json(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
}

/// A model with the adapter of a variant, to be trained.
fn with_adapter(name: &str) -> (Model, PeftConfig) {
    let (dir, base, _) = variant(name);
    let mut model = model(&base);
    let adapter = model.read_adapter(&dir).unwrap();
    model.load_lora(&adapter).unwrap();
    (model, adapter.config)
}

fn logits(model: &Model, ids: &Tensor) -> Tensor {
    model.logits(ids, Keys::All).unwrap()
}

#[test]
fn lora_logits_and_gradients_are_pefts() {
    for name in chosen() {
        let (mut model, golden) = (model(name), golden(name));
        let ids = input_ids(&golden);
        model.load_lora(&lora(name)).unwrap();
        let off = distance(&model.logits(&ids, Keys::All).unwrap(), &golden["lora_logits"]);
        assert!(off < 1e-4, "{name}: {off}");

        let loss = loss(&model, &ids, &targets(&golden["labels"]));
        let off = (loss.to_scalar::<f32>().unwrap() - golden["losses"].to_vec1::<f32>().unwrap()[0]).abs();
        assert!(off < 1e-4, "{name}: {off}");
        let gradients = loss.backward().unwrap();
        let variables = model.trainable();
        let expected = golden.keys().filter(|key| key.starts_with("grad.")).count();
        assert_eq!(variables.len(), expected, "{name}");
        for (tensor, variable) in variables {
            let want = &golden[&format!("grad.{tensor}")];
            let got = gradients.get(&variable).unwrap_or_else(|| panic!("{name}: no gradient for {tensor}"));
            let off = norm(&(got - want).unwrap()) / norm(want);
            assert!(off < 1e-3, "{name}: {tensor}: {off}");
        }

        model.set_lora_enabled(false);
        let off = distance(&model.logits(&ids, Keys::All).unwrap(), &golden["logits"]);
        assert!(off < 1e-4, "{name}, LoRA off: {off}");
        model.set_lora_enabled(true);
        model.detach_adapter();
        assert!(model.trainable().is_empty());
    }
}

#[test]
fn lora_targets_are_names_paths_expressions_and_last_layers() {
    let mut model = model("llama");
    let mut add = |target_modules, layers_to_transform| {
        let config = PeftConfig { target_modules, layers_to_transform, ..PeftConfig::default() };
        model.add_lora(&config, 0).map_err(|error| error.to_string())
    };
    let names = |names: &[&str]| TargetModules::Names(names.iter().map(|name| name.to_string()).collect());
    assert_eq!(add(TargetModules::AllLinear, None).unwrap().len(), 21);
    assert_eq!(add(names(&["q_proj", "mlp.up_proj"]), None).unwrap().len(), 6);
    let regex = TargetModules::Regex(r"model\.layers\.[02]\..*_proj".into());
    assert_eq!(add(regex, None).unwrap().len(), 14);
    let last = add(names(&["v_proj"]), Some(vec![1, 2])).unwrap();
    assert_eq!(last, ["model.layers.1.self_attn.v_proj", "model.layers.2.self_attn.v_proj"]);
    for bad in
        [names(&["q_proj", "qq_proj"]), names(&["lm_head"]), names(&[]), TargetModules::Regex("q".into())]
    {
        let error = add(bad, None).unwrap_err();
        assert!(
            error.starts_with("target_modules: wants linear layers of the model (down_proj, "),
            "{error}"
        );
    }
    assert_eq!(model.trainable().len(), 4, "a refused LoRA leaves the last one");
}

#[test]
fn an_adapter_of_another_model_is_refused_by_module() {
    let error = model("phi3").load_lora(&lora("llama")).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.self_attn.q_proj: wants a linear layer of the model"), "{error}");
    let error = model("llama2").load_lora(&lora("mistral")).unwrap_err().to_string();
    assert!(
        error.contains("self_attn.k_proj: wants A (4, 32) and B (32, 4), got [4, 32] and [16, 4]"),
        "{error}"
    );
}

#[test]
fn every_kind_of_adapter_gives_pefts_logits_and_comes_off() {
    for name in VARIANTS {
        let (dir, base, computed) = variant(name);
        let golden = golden(&base);
        let ids = input_ids(&golden).narrow(0, 0, 1).unwrap();
        let plain = golden["logits"].narrow(0, 0, 1).unwrap();
        let mut model = model(&base);
        let adapter = model.read_adapter(&dir).unwrap();
        let ready = model.prepare_adapter(&adapter).unwrap();
        let check = |model: &Model, want: &Tensor, what: &str| {
            let off = distance(&logits(model, &ids), want);
            assert!(off < 1e-4, "{name}, {what}: {off}");
        };
        model.attach_adapter(&ready);
        check(&model, &computed["lora_logits"], "to run");
        let last = model.forward(&ids, &mut model.cache(&[0])).unwrap();
        let want = computed["lora_logits"].narrow(1, 23, 1).unwrap().squeeze(1).unwrap();
        assert!(distance(&last, &want) < 1e-4, "{name}, with a cache");
        for _ in 0..2 {
            model.set_lora_enabled(false);
            check(&model, &plain, "off");
        }
        for _ in 0..2 {
            model.set_lora_enabled(true);
            check(&model, &computed["lora_logits"], "on again");
        }
        model.set_lora_enabled(false);
        model.load_lora(&adapter).unwrap();
        check(&model, &computed["lora_logits"], "to train");
        model.detach_adapter();
        check(&model, &plain, "detached");
        assert!(model.trainable().is_empty(), "{name}");
        let names =
            |model: &Model| model.named_tensors().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&model), names(&models::model(&base)), "{name}: a tied head is tied again");
    }
}

#[test]
fn gradients_and_ten_losses_of_dora_and_saved_modules_are_pefts() {
    for name in TRAINED {
        let (_, base, computed) = variant(name);
        let batch = batch(&golden(&base)).unwrap();
        let (model, _) = with_adapter(name);
        let vars = model.trainable();
        let mut gradients = Gradients::default();
        loss_and_gradients(&model, &vars, &batch, 1.0, StepOptions::default(), &mut gradients).unwrap();
        assert_eq!(vars.len(), computed.keys().filter(|key| key.starts_with("grad.")).count(), "{name}");
        for (tensor, var) in &vars {
            let in_file = tensor.trim_start_matches("base_model.model.");
            let want = &computed[&format!("grad.base_model.model.{in_file}")];
            let off = norm(&(gradients.get(var).unwrap() - want).unwrap()) / norm(want);
            assert!(off < 1e-3, "{name}: {tensor}: {off}");
        }

        for grad_checkpoint in [false, true] {
            let (losses, norms) = ten_steps(&with_adapter(name).0, &batch, grad_checkpoint).unwrap();
            for (i, (ours, theirs)) in
                losses.iter().zip(computed["losses"].to_vec1::<f32>().unwrap()).enumerate()
            {
                assert!((ours - theirs).abs() < 1e-4, "{name}: loss {i} is {ours}, not {theirs}");
            }
            for (ours, theirs) in norms.iter().zip(computed["grad_norms"].to_vec1::<f32>().unwrap()) {
                assert!((ours - theirs).abs() < 1e-3 * theirs, "{name}: norm {ours}, not {theirs}");
            }
        }
    }
}

/// What is left in `target/tmp/peft` is what `tests/fixtures/check_peft.py` gives to PEFT itself.
#[test]
fn a_trained_adapter_is_written_as_peft_writes_it_and_computes_the_same() {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peft");
    for name in TRAINED {
        let (dir, base, _) = variant(name);
        let golden = golden(&base);
        let ids = input_ids(&golden);
        let (model, config) = with_adapter(name);
        ten_steps(&model, &batch(&golden).unwrap(), false).unwrap();
        let out = place.join(name);
        Checkpoint::Lora(config).save(&model, &out).unwrap();

        let open = |dir: &Path| Weights::open_file(&dir.join("adapter_model.safetensors")).unwrap();
        let (ours, theirs) = (open(&out), open(&dir));
        assert_eq!(ours.names().collect::<Vec<_>>(), theirs.names().collect::<Vec<_>>(), "{name}");
        for tensor in ours.names() {
            assert_eq!(ours.shape(tensor), theirs.shape(tensor), "{name}: {tensor}");
            assert_eq!(ours.dtype(tensor), Some(DType::F32), "{name}: {tensor}");
        }
        let (ours, theirs) = (read_json(&out), read_json(&dir));
        for (key, value) in ours.as_object().unwrap() {
            assert_eq!(theirs.get(key), Some(value), "{name}: {key}");
        }

        let mut again = models::model(&base);
        let adapter = again.read_adapter(&out).unwrap();
        again.attach_adapter(&again.prepare_adapter(&adapter).unwrap());
        let trained = logits(&model, &ids);
        assert!(distance(&trained, &golden["logits"]) > 0.1);
        assert_eq!(distance(&logits(&again, &ids), &trained), 0., "{name}");
        safetensors::save(&out.join("logits.safetensors"), [("logits", trained)], &[]).unwrap();
    }
}

#[test]
fn a_new_dora_with_saved_modules_computes_what_the_model_did() {
    for name in ["qwen2", "gemma3", "phi3"] {
        let golden = golden(name);
        let ids = input_ids(&golden);
        let config = PeftConfig {
            use_dora: true,
            lora_dropout: 0.3,
            modules_to_save: vec!["lm_head".into(), "norm".into()],
            ..PeftConfig::default()
        };
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let mut model = Model::from_dir(&directory(name), dtype, &device()).unwrap();
            let before = logits(&model, &ids);
            model.add_lora(&config, 0).unwrap();
            let off = norm(&(logits(&model, &ids) - &before).unwrap()) / norm(&before);
            let allowed = if dtype == DType::F32 { 1e-6 } else { 0.03 };
            assert!(off < allowed, "{name} {dtype:?}: {off}");
            for (path, lora) in model.loras() {
                lora.b.set(&Tensor::randn(0f32, 0.1, lora.b.shape(), &device()).unwrap()).unwrap();
                assert!(lora.magnitude.is_some(), "{path}");
            }
            let batch = batch(&golden).unwrap();
            let vars = model.trainable();
            let options = StepOptions { grad_checkpoint: GradCheckpoint::None, dropout_seed: Some(1) };
            let mut gradients = Gradients::default();
            let dropped = loss_and_gradients(&model, &vars, &batch, 1., options, &mut gradients).unwrap();
            for (tensor, var) in &vars {
                let size = norm(gradients.get(var).unwrap_or_else(|| panic!("{name}: none for {tensor}")));
                assert!(size.is_finite() && size > 0., "{name} {dtype:?}: {tensor}: {size}");
            }
            // The same elements are dropped when a layer is run again.
            let options = StepOptions { grad_checkpoint: GradCheckpoint::All, ..options };
            let mut again = Gradients::default();
            let repeated = loss_and_gradients(&model, &vars, &batch, 1., options, &mut again).unwrap();
            assert_eq!(dropped, repeated);
            for (tensor, var) in &vars {
                assert_eq!(distance(gradients.get(var).unwrap(), again.get(var).unwrap()), 0., "{tensor}");
            }
        }
    }
    let config =
        PeftConfig { modules_to_save: vec!["lm_head".into(), "score".into()], ..PeftConfig::default() };
    let error = model("llama").add_lora(&config, 0).unwrap_err().to_string();
    assert!(
        error.starts_with("modules_to_save: wants modules of the model (down_proj, embed_tokens"),
        "{error}"
    );
    assert!(error.ends_with("got score"), "{error}");
}

#[test]
fn norms_are_made_anew_when_training_has_changed_the_factors() {
    let golden = golden("llama");
    let (ids, batch) = (input_ids(&golden), batch(&golden).unwrap());
    let (model, config) = with_adapter("dora");
    let first = logits(&model, &ids);
    ten_steps(&model, &batch, true).unwrap();
    let trained = logits(&model, &ids);
    assert!(distance(&trained, &first) > 0.1);
    let mut fresh = models::model("llama");
    fresh.load_lora(&model.adapter(&config)).unwrap();
    assert_eq!(distance(&logits(&fresh, &ids), &trained), 0.);
}

/// The file's own mistakes and those that only the model shows are told at once.
#[test]
fn all_that_is_wrong_with_an_adapter_is_in_one_error() {
    let (dir, ..) = variant("dora_saved");
    let file = dir.join("adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &device()).unwrap();
    let p = |name: &str| format!("base_model.model.{name}");
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device()).unwrap();
    let q = "model.layers.0.self_attn.q_proj";
    let up = "model.layers.0.mlp.up_proj";
    tensors.remove(&p(&format!("{q}.lora_magnitude_vector"))).unwrap();
    tensors.insert(p(&format!("{up}.lora_A.weight")), zeros(&[2, 47]));
    tensors.insert(p("model.layers.0.mlp.gate_proj.lora_magnitude_vector"), zeros(&[79]));
    for (end, shape) in
        [("lora_A.weight", &[2, 48][..]), ("lora_B.weight", &[80, 2]), ("lora_magnitude_vector", &[80])]
    {
        tensors.remove(&p(&format!("model.layers.1.mlp.up_proj.{end}"))).unwrap();
        tensors.insert(p(&format!("model.layers.7.mlp.up_proj.{end}")), zeros(shape));
    }
    tensors.remove(&p("model.layers.1.self_attn.k_proj.bias")).unwrap();
    tensors.insert(p("lm_head.weight"), zeros(&[295, 48]));
    tensors.insert(p("model.layers.0.self_attn.v_proj.weight"), zeros(&[16, 48]));
    let place = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join("adapter_config.json"), place.path().join("adapter_config.json")).unwrap();
    safetensors::save(&place.path().join("adapter_model.safetensors"), tensors, &[]).unwrap();
    let error = model("qwen2").read_adapter(place.path()).unwrap_err().to_string();
    for problem in [
        "8 tensor problem(s)",
        "q_proj: wants lora_A and lora_B and lora_magnitude_vector, got lora_A and lora_B",
        "layers.0.mlp.up_proj: wants A (2, 48) and B (80, 2) and a magnitude (80), got [2, 47] and [80, 2] and [80]",
        "layers.0.mlp.gate_proj: wants A (2, in) and B (out, 2) and a magnitude (out), got [2, 48] and [80, 2] and [79]",
        "layers.1.mlp.up_proj: wants lora_A and lora_B, being in target_modules, got none",
        "layers.7.mlp.up_proj: wants a linear layer of the model, got no such module",
        "layers.1.self_attn.k_proj.bias: wants a weight, being in modules_to_save, got none",
        "lm_head.weight: wants shape [296, 48], got [295, 48]",
        "v_proj.weight: wants base_model.model.<module>.lora_A.weight",
    ] {
        assert!(error.contains(problem), "{problem} not in {error}");
    }
}
