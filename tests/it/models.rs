//! Every architecture against what transformers and PEFT computed for the same tiny checkpoint.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::device;
use candle_core::{DType, Device, Tensor};
use metal_candle::load::adapter::{self, PeftConfig};
use metal_candle::load::{Adapter, ModelDir, TargetModules};
use metal_candle::models::{Config, Model};
use metal_candle::nn::Pass;
use metal_candle::ops::{CrossEntropy, Keys, linear_cross_entropy};

pub const ALL: [&str; 8] =
    ["llama", "llama2", "qwen2", "qwen3", "mistral", "gemma3", "phi3", "phi3_longrope"];

/// Those that a test of every model runs on: `METAL_CANDLE_TEST_MODELS` names some of [`ALL`], with commas between.
pub fn chosen() -> impl Iterator<Item = &'static str> {
    let only = std::env::var("METAL_CANDLE_TEST_MODELS").unwrap_or_default();
    let named: Vec<String> = only.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    for name in &named {
        assert!(ALL.contains(&name.as_str()), "METAL_CANDLE_TEST_MODELS: wants some of {ALL:?}, got {name}");
    }
    ALL.into_iter().filter(move |name| named.is_empty() || named.iter().any(|only| only == name))
}

pub fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

pub fn config(name: &str) -> Config {
    Config::open(&ModelDir::at(directory(name))).unwrap()
}

pub fn model(name: &str) -> Model {
    Model::from_dir(&directory(name), DType::F32, &device()).unwrap()
}

pub fn golden(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(directory(name).join("golden.safetensors"), &device()).unwrap()
}

pub fn lora(name: &str) -> Adapter {
    adapter::read(&directory(name).join("adapter")).unwrap()
}

pub fn input_ids(golden: &HashMap<String, Tensor>) -> Tensor {
    golden["input_ids"].to_dtype(DType::U32).unwrap()
}

pub fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let [a, b] = [a, b].map(|x| x.to_device(&Device::Cpu).unwrap());
    let largest = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    largest.to_scalar::<f32>().unwrap()
}

pub fn norm(x: &Tensor) -> f32 {
    x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt()
}

/// The next token for each position, -100 where there is none.
pub fn targets(labels: &Tensor) -> Tensor {
    let next = |row: Vec<i64>| row[1..].iter().copied().chain([-100]).collect::<Vec<i64>>();
    let rows: Vec<i64> = labels.to_vec2::<i64>().unwrap().into_iter().flat_map(next).collect();
    Tensor::new(rows, &device()).unwrap()
}

pub fn loss(model: &Model, ids: &Tensor, targets: &Tensor) -> Tensor {
    let (rows, len) = ids.dims2().unwrap();
    let pass = Pass { gradients: true, dropout_seed: None };
    let context = model.context(rows, len, Keys::All, pass).unwrap();
    let hidden = model.hidden(ids, &context).unwrap().flatten_to(1).unwrap();
    linear_cross_entropy(&hidden, model.head(), targets, &CrossEntropy::default()).unwrap()
}

#[test]
fn logits_are_transformers() {
    for name in chosen() {
        let (model, golden) = (model(name), golden(name));
        let ids = input_ids(&golden);
        let off = distance(&model.logits(&ids, Keys::All).unwrap(), &golden["logits"]);
        assert!(off < 1e-4, "{name}: {off}");
        if let Some(short) = golden.get("logits_short") {
            let off = distance(&model.logits(&ids.narrow(1, 0, 12).unwrap(), Keys::All).unwrap(), short);
            assert!(off < 1e-4, "{name}, short: {off}");
        }
    }
}

#[test]
fn both_forms_of_config_json_are_one_model() {
    for name in chosen().filter(|name| *name != "qwen3") {
        let new = std::fs::read(directory(name).join("config_v5.json")).unwrap();
        let mut new = Config::from_json(name, serde_json::from_slice(&new).unwrap()).unwrap();
        let mut old = config(name);
        // These say what is stored and what was read, which is not the model.
        (new.dtype, old.dtype) = (None, None);
        assert_eq!(old.without_json(), new.without_json(), "{name}");
    }
}

#[test]
fn greedy_continuations_with_a_cache_are_transformers() {
    for name in chosen() {
        let (model, golden) = (model(name), golden(name));
        let mut next = input_ids(&golden).narrow(0, 0, 1).unwrap().narrow(1, 0, 8).unwrap();
        let mut cache = model.cache(&[0]);
        let mut tokens = Vec::new();
        for _ in 0..16 {
            let best = model.forward(&next, &mut cache).unwrap().argmax(1).unwrap();
            tokens.push(best.to_vec1::<u32>().unwrap()[0] as i64);
            next = best.unsqueeze(0).unwrap();
        }
        assert_eq!(tokens, golden["greedy"].to_vec1::<i64>().unwrap(), "{name}");
    }
}

#[test]
fn a_cache_in_any_chunks_gives_the_logits_of_the_whole() {
    for name in chosen() {
        let (model, golden) = (model(name), golden(name));
        let ids = input_ids(&golden);
        for chunk in [1, 5, 24] {
            let mut cache = model.cache(&[0, 0]);
            let mut at = 0;
            while at < 24 {
                let len = chunk.min(24 - at);
                let logits = model.forward(&ids.narrow(1, at, len).unwrap(), &mut cache).unwrap();
                at += len;
                let whole = model.logits(&ids.narrow(1, 0, at).unwrap(), Keys::All).unwrap();
                let off = distance(&logits, &whole.narrow(1, at - 1, 1).unwrap().squeeze(1).unwrap());
                assert!(off < 1e-4, "{name}, chunks of {chunk}, {at} tokens: {off}");
            }
        }
    }
}

#[test]
fn a_rewound_cache_continues_from_where_it_was() {
    for name in chosen() {
        let (model, golden) = (model(name), golden(name));
        let ids = input_ids(&golden);
        let mut cache = model.cache(&[0, 0]);
        model.forward(&ids, &mut cache).unwrap();
        // Below the length at which LongRoPE changes its frequencies, and above.
        for to in [19, 9] {
            cache.truncate(to);
            assert_eq!(cache.len(), to);
            let logits = model.forward(&ids.narrow(1, to, 2).unwrap(), &mut cache).unwrap();
            let whole = model.logits(&ids.narrow(1, 0, to + 2).unwrap(), Keys::All).unwrap();
            let off = distance(&logits, &whole.narrow(1, to + 1, 1).unwrap().squeeze(1).unwrap());
            assert!(off < 1e-4, "{name}: {off}");
        }
    }
}

/// On a GPU a token a row is a graph that is replayed: it must be captured anew when what it reads has changed.
#[test]
fn a_token_at_a_time_sees_what_has_changed_since_the_last_one() {
    for name in ["llama", "gemma3", "qwen3"] {
        let (mut model, golden) = (model(name), golden(name));
        let adapter = model.prepare_adapter(&lora(name)).unwrap();
        let ids = input_ids(&golden);
        let (mut one, mut all) = (model.cache(&[0, 3]), model.cache(&[0, 3]));
        model.forward(&ids, &mut one).unwrap();
        model.forward(&ids, &mut all).unwrap();
        let mut rows = 2;
        for (step, change) in
            ["nothing", "adapter", "off", "on", "none", "shorter", "longer", "row"].iter().enumerate()
        {
            match *change {
                "adapter" => model.attach_adapter(&adapter),
                "off" => model.set_lora_enabled(false),
                "on" => model.set_lora_enabled(true),
                "none" => model.detach_adapter(),
                "shorter" => [&mut one, &mut all].into_iter().for_each(|cache| cache.truncate(26)),
                "row" => {
                    rows = 1;
                    [&mut one, &mut all].into_iter().for_each(|cache| cache.keep_rows(&[1]).unwrap());
                }
                _ => {}
            }
            for i in 0..if *change == "longer" { 50 } else { 4 } {
                let next: Vec<u32> = (0..rows).map(|row| (7 * step + 3 * i + row) as u32 % 40).collect();
                let next = Tensor::from_vec(next, (rows, 1), &device()).unwrap();
                let logits = model.forward(&next, &mut one).unwrap();
                let wanted = model.forward_all(&next, &mut all).unwrap().squeeze(1).unwrap();
                let off = distance(&logits, &wanted);
                assert!(off < 1e-4, "{name}, {change}, token {i}: {off}");
            }
            assert_eq!(one.len(), all.len());
        }
    }
}

/// Rows of `lens` tokens, padded with zeros to the longest one.
fn padded(ids: &Tensor, lens: &[usize], left: bool) -> Tensor {
    let width = *lens.iter().max().unwrap();
    let rows = lens.iter().zip(ids.to_vec2::<u32>().unwrap()).map(|(&len, row)| {
        let padding = vec![0; width - len];
        if left { [&padding, &row[..len]].concat() } else { [&row[..len], &padding].concat() }
    });
    Tensor::new(rows.collect::<Vec<_>>(), &device()).unwrap()
}

#[test]
fn a_padded_batch_gives_the_logits_of_its_rows_alone() {
    for name in chosen() {
        let (model, golden) = (model(name), golden(name));
        let ids = input_ids(&golden);
        let lens = [15, 11];
        for left in [true, false] {
            let range = |len: usize| if left { (15 - len as u32, 15) } else { (0, len as u32) };
            let keys = Keys::Rows(lens.iter().map(|&len| range(len)).collect());
            let batch = model.logits(&padded(&ids, &lens, left), keys).unwrap();
            for (i, &len) in lens.iter().enumerate() {
                let row = ids.narrow(0, i, 1).unwrap().narrow(1, 0, len).unwrap();
                let alone = model.logits(&row, Keys::All).unwrap();
                let start = range(len).0 as usize;
                let off = distance(&batch.narrow(0, i, 1).unwrap().narrow(1, start, len).unwrap(), &alone);
                assert!(off < 1e-4, "{name}, row {i}, left {left}: {off}");
            }
        }
    }
}

#[test]
fn a_left_padded_batch_decodes_as_its_rows_alone() {
    for name in chosen() {
        let (model, golden) = (model(name), golden(name));
        let ids = input_ids(&golden);
        let lens = [10, 4];
        let mut cache = model.cache(&[0, 6]);
        let batch = padded(&ids, &lens, true);
        // The first chunk is padding only, for the second row.
        for (at, len) in [(0, 5), (5, 5)] {
            model.forward(&batch.narrow(1, at, len).unwrap(), &mut cache).unwrap();
        }
        let next = |t: usize| {
            let token = |i: usize| ids.narrow(0, i, 1).unwrap().narrow(1, lens[i] + t, 1).unwrap();
            Tensor::cat(&[token(0), token(1)], 0).unwrap()
        };
        let alone = |i: usize, t: usize| {
            let row = ids.narrow(0, i, 1).unwrap().narrow(1, 0, lens[i] + t + 1).unwrap();
            model.logits(&row, Keys::All).unwrap().narrow(1, lens[i] + t, 1).unwrap().squeeze(1).unwrap()
        };
        for t in 0..3 {
            let logits = model.forward(&next(t), &mut cache).unwrap();
            for i in 0..2 {
                let off = distance(&logits.narrow(0, i, 1).unwrap(), &alone(i, t));
                assert!(off < 1e-4, "{name}, row {i}: {off}");
            }
        }
        cache.keep_rows(&[1]).unwrap();
        let logits = model.forward(&next(3).narrow(0, 1, 1).unwrap(), &mut cache).unwrap();
        assert!(distance(&logits, &alone(1, 3)) < 1e-4, "{name}");
    }
}

#[test]
fn packed_documents_give_the_logits_of_each_alone() {
    for name in chosen() {
        let (model, golden) = (model(name), golden(name));
        let ids = input_ids(&golden);
        let firsts: Vec<u32> = [[0; 9].as_slice(), &[9; 15]].concat().repeat(2);
        let packed = model.logits(&ids, Keys::Documents(firsts.into())).unwrap();
        for (at, len) in [(0, 9), (9, 15)] {
            let alone = model.logits(&ids.narrow(1, at, len).unwrap(), Keys::All).unwrap();
            let off = distance(&packed.narrow(1, at, len).unwrap(), &alone);
            assert!(off < 1e-4, "{name}, from {at}: {off}");
        }
    }
}

#[test]
fn every_variable_gets_a_finite_gradient() {
    for name in chosen() {
        let golden = golden(name);
        let ids = input_ids(&golden);
        let mut with_lora = model(name);
        let all = PeftConfig { target_modules: TargetModules::AllLinear, ..PeftConfig::default() };
        with_lora.add_lora(&all, 0).unwrap();
        for (_, lora) in with_lora.loras() {
            lora.b.set(&Tensor::randn(0f32, 0.1, lora.b.shape(), &device()).unwrap()).unwrap();
        }
        let full = |dtype| {
            let mut full = Model::from_dir(&directory(name), dtype, &device()).unwrap();
            full.make_trainable().unwrap();
            full
        };
        for model in [with_lora, full(DType::F32), full(DType::BF16)] {
            let variables = model.trainable();
            assert!(!variables.is_empty());
            let gradients = loss(&model, &ids, &targets(&golden["labels"])).backward().unwrap();
            for (tensor, variable) in variables {
                let gradient =
                    gradients.get(&variable).unwrap_or_else(|| panic!("{name}: none for {tensor}"));
                let size = norm(gradient);
                assert!(size.is_finite() && size > 0., "{name}: {tensor}: {size}");
                assert_eq!(gradient.dims(), variable.dims(), "{name}: {tensor}");
            }
        }
    }
}

#[test]
fn a_full_gradient_is_the_slope_of_the_loss() {
    for name in ["gemma3", "qwen2", "phi3_longrope"] {
        let golden = golden(name);
        let (ids, targets) = (input_ids(&golden), targets(&golden["labels"]));
        let mut model = model(name);
        let tied = model.config.tie_word_embeddings;
        model.make_trainable().unwrap();
        let gradients = loss(&model, &ids, &targets).backward().unwrap();
        let value = || loss(&model, &ids, &targets).to_scalar::<f32>().unwrap();
        for (tensor, variable) in model.trainable() {
            assert!(!(tied && tensor == "lm_head.weight"));
            if !["embed_tokens", "norm", "bias", "layers.1.mlp"].iter().any(|part| tensor.contains(part)) {
                continue;
            }
            // Along the gradient the loss rises by the step times the gradient's size.
            let gradient = gradients.get(&variable).unwrap();
            // Candle's `copy` on Metal is the same memory (docs/candle-bugs.md).
            let (size, start) = (norm(gradient), (variable.as_tensor() * 1.0).unwrap());
            let step = 1e-2 / size;
            let moved = |by: f32| {
                variable.set(&(&start + (gradient * f64::from(by * step)).unwrap()).unwrap()).unwrap();
                value()
            };
            let slope = (moved(1.) - moved(-1.)) / 2e-2;
            moved(0.);
            assert!((slope / size - 1.).abs() < 0.05, "{name}: {tensor}: {slope} {size}");
        }
    }
}

#[test]
fn saved_tensors_load_as_the_same_model() {
    for name in chosen() {
        let (first, golden) = (model(name), golden(name));
        let file = tempfile::NamedTempFile::new().unwrap();
        metal_candle::load::safetensors::save(file.path(), first.named_tensors(), &[]).unwrap();
        let weights = metal_candle::load::Weights::open_file(file.path()).unwrap();
        let again = Model::load(&first.config, &weights, DType::F32, &device()).unwrap();
        let off = distance(&again.logits(&input_ids(&golden), Keys::All).unwrap(), &golden["logits"]);
        assert!(off < 1e-4, "{name}: {off}");
        let listed: Vec<String> = weights.names().map(str::to_string).collect();
        let mut expected: Vec<String> = first.config.tensors().into_iter().map(|(name, _)| name).collect();
        expected.sort();
        assert_eq!(listed, expected, "{name}");
        let count: usize = first.named_tensors().iter().map(|(_, tensor)| tensor.elem_count()).sum();
        assert_eq!(first.parameter_count(), count);
    }
}

#[test]
fn a_bad_checkpoint_is_one_error_with_all_its_tensors() {
    let config = config("llama");
    let mut tensors: HashMap<String, Tensor> = model("llama").named_tensors().into_iter().collect();
    tensors.remove("model.layers.1.mlp.up_proj.weight");
    tensors.insert("model.norm.weight".into(), Tensor::zeros(31, DType::F32, &device()).unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    metal_candle::load::safetensors::save(file.path(), tensors, &[]).unwrap();
    let weights = metal_candle::load::Weights::open_file(file.path()).unwrap();
    let error = Model::load(&config, &weights, DType::F32, &device()).unwrap_err().to_string();
    assert!(error.contains("2 tensor problem(s)"), "{error}");
    assert!(error.contains("model.layers.1.mlp.up_proj.weight: wants shape [56, 32]"), "{error}");
    assert!(error.contains("model.norm.weight: wants shape [32], got [31]"), "{error}");
}

#[test]
fn a_multimodal_checkpoint_gives_its_text_model() {
    let text = config("gemma3");
    let nested = serde_json::json!({
        "model_type": "gemma3", "text_config": text.json(), "vision_config": {}, "torch_dtype": "bfloat16",
    });
    let config = Config::from_json("config.json", nested.as_object().unwrap().clone()).unwrap();
    let golden = golden("gemma3");
    for prefix in ["language_model.model.", "model.language_model."] {
        let rename = |name: String| name.replacen("model.", prefix, 1);
        let tensors =
            model("gemma3").named_tensors().into_iter().map(|(name, tensor)| (rename(name), tensor));
        let file = tempfile::NamedTempFile::new().unwrap();
        metal_candle::load::safetensors::save(file.path(), tensors, &[]).unwrap();
        let weights = metal_candle::load::Weights::open_file(file.path()).unwrap();
        let model = Model::load(&config, &weights, DType::F32, &device()).unwrap();
        assert!(distance(&model.logits(&input_ids(&golden), Keys::All).unwrap(), &golden["logits"]) < 1e-4);
        assert_eq!(model.linears()[0].0, "model.language_model.layers.0.self_attn.q_proj");
    }
}

#[test]
fn half_precision_stays_near_and_keeps_gradients() {
    for name in chosen() {
        let golden = golden(name);
        let ids = input_ids(&golden);
        let spread = norm(&golden["lora_logits"]);
        for dtype in [DType::BF16, DType::F16] {
            let mut model = Model::from_dir(&directory(name), dtype, &device()).unwrap();
            model.load_lora(&lora(name)).unwrap();
            let off =
                norm(&(model.logits(&ids, Keys::All).unwrap() - &golden["lora_logits"]).unwrap()) / spread;
            assert!(off < 0.08, "{name} {dtype:?}: {off}");
            let gradients = loss(&model, &ids, &targets(&golden["labels"])).backward().unwrap();
            for (tensor, variable) in model.trainable() {
                let got = gradients.get(&variable).unwrap_or_else(|| panic!("{name}: none for {tensor}"));
                let want = &golden[&format!("grad.{tensor}")];
                let off = norm(&(got.to_dtype(DType::F32).unwrap() - want).unwrap()) / norm(want);
                assert!(off < 0.3, "{name} {dtype:?}: {tensor}: {off}");
            }
        }
    }
}

#[test]
fn a_new_model_is_seeded_and_learns_from_its_start() {
    let config = config("qwen3");
    let first = Model::init(&config, DType::F32, &device(), 7).unwrap();
    let again = Model::init(&config, DType::F32, &device(), 7).unwrap();
    let other = Model::init(&config, DType::F32, &device(), 8).unwrap();
    let head = |model: &Model| model.head().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(head(&first), head(&again));
    assert_ne!(head(&first), head(&other));
    let values = head(&first);
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt();
    assert!(mean.abs() < 1e-3 && (std - 0.02).abs() < 1e-3, "{mean} {std}");

    // A new model knows nothing: its loss is that of a uniform guess.
    let golden = golden("qwen3");
    let start = loss(&first, &input_ids(&golden), &targets(&golden["labels"])).to_scalar::<f32>().unwrap();
    assert!((start - (config.vocab_size as f32).ln()).abs() < 0.1, "{start}");
}

#[test]
fn bad_inputs_are_errors_and_leave_the_cache_as_it_was() {
    let model = model("llama");
    let mut cache = model.cache(&[0]);
    // On the CPU, where ids are checked before they go to a GPU.
    let ids = |ids: &[u32]| Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    model.forward(&ids(&[1, 2]), &mut cache).unwrap();
    let want =
        model.logits(&ids(&[1, 2, 3]), Keys::All).unwrap().narrow(1, 2, 1).unwrap().squeeze(1).unwrap();
    assert!(model.forward(&ids(&[model.config.vocab_size as u32]), &mut cache).is_err());
    assert!(model.forward(&ids(&[]), &mut cache).is_err());
    assert!(model.forward(&ids(&[1]).repeat((2, 1)).unwrap(), &mut cache).is_err());
    assert!(model.logits(&ids(&[1, 2]), Keys::Rows(Arc::from([(0, 1), (0, 1)]))).is_err());
    assert!(model.logits(&ids(&[1, 2]), Keys::Documents(Arc::from([0]))).is_err());
    assert!(distance(&model.forward(&ids(&[3]), &mut cache).unwrap(), &want) < 1e-5);
}

#[test]
fn inference_keeps_no_graph() {
    let mut model = model("qwen3");
    model.make_trainable().unwrap();
    model.add_lora(&PeftConfig::default(), 0).unwrap();
    let ids = Tensor::new(&[[1u32, 2, 3]], &device()).unwrap();
    assert!(!model.logits(&ids, Keys::All).unwrap().track_op());
    assert!(!model.forward(&ids, &mut model.cache(&[0])).unwrap().track_op());
}
