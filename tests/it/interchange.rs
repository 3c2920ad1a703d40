//! Adapters of mlx-lm, and models with adapters merged into them, against what the packages computed.

use std::path::Path;

use candle_core::{DType, Tensor};
use metal_candle::load::adapter::{self, Format, Weighted, combine};
use metal_candle::load::{Adapter, ModelDir};
use metal_candle::models::fuse::{FuseOptions, fuse};
use metal_candle::models::{Config, Model};
use metal_candle::ops::Keys;

use crate::device;
use crate::fixture;
use crate::models::{ALL, chosen, config, directory, distance, golden, input_ids, lora, model};

/// `tests/fixtures/mlx`, and the model of each.
const MLX: [(&str, &str); 4] = [("lora", "llama"), ("keys", "llama"), ("paths", "qwen3"), ("dora", "qwen2")];
/// Some of `tests/fixtures/peft`, and the model of each.
const PEFT: [(&str, &str); 3] = [("dora", "llama"), ("modules_to_save", "llama"), ("patterns", "llama")];

fn with(name: &str, adapter: &Adapter) -> Model {
    let mut model = model(name);
    let ready = model.prepare_adapter(adapter).unwrap();
    model.attach_adapter(&ready);
    model
}

fn logits(model: &Model, ids: &Tensor) -> Tensor {
    model.logits(ids, Keys::All).unwrap()
}

#[test]
fn mlx_lm_s_adapters_compute_here_what_they_compute_there() {
    let dir = tempfile::tempdir().unwrap();
    for (variant, name) in MLX {
        let theirs = fixture("mlx").join(variant);
        let wanted = candle_core::safetensors::load(theirs.join("golden.safetensors"), &device()).unwrap();
        let ids = input_ids(&golden(name)).narrow(0, 0, 1).unwrap().narrow(1, 0, 12).unwrap();
        assert!(distance(&logits(&model(name), &ids), &wanted["logits"]) > 0.1, "{variant}");
        let adapter = adapter::read(&theirs).unwrap();
        let mut forms = vec![adapter::read(&theirs).unwrap()];
        for (format, layers) in [(Format::Peft, None), (Format::Mlx, None), (Format::Mlx, Some(2))] {
            let out = dir.path().join(format!("{variant}{format:?}{layers:?}"));
            adapter::write_as(&out, &adapter, format, layers).unwrap();
            forms.push(adapter::read(&out).unwrap());
        }
        for form in forms {
            let off = distance(&logits(&with(name, &form), &ids), &wanted["logits"]);
            assert!(off < 1e-4, "{variant}: {off}");
        }
    }
}

/// Adapters of every kind, each with its model's name.
fn adapters() -> Vec<(String, &'static str, Adapter)> {
    let all = chosen().map(|name| (name.to_string(), name, lora(name)));
    let read = |path: String| adapter::read(&fixture(&path)).unwrap();
    let peft =
        PEFT.iter().map(|(variant, name)| (variant.to_string(), *name, read(format!("peft/{variant}"))));
    let tied = read_tied();
    all.chain(peft).chain([("tied".to_string(), tied.0, tied.1)]).collect()
}

fn read_tied() -> (&'static str, Adapter) {
    let adapter = adapter::read(&fixture("peft/tied")).unwrap();
    let base = adapter.config.base_model_name_or_path.clone().unwrap();
    let name = ALL.into_iter().find(|name| base == format!("models/{name}")).unwrap();
    assert!(config(name).tie_word_embeddings);
    (name, adapter)
}

#[test]
fn a_pass_layer_by_layer_is_the_model_s() {
    for (kind, name, adapter) in adapters() {
        let ids = input_ids(&golden(name));
        let weights = ModelDir::at(directory(name)).weights().unwrap();
        for (adapter, model) in [(None, model(name)), (Some(&adapter), with(name, &adapter))] {
            let rows = ids.to_vec2::<u32>().unwrap();
            let by_layer =
                config(name).logits_by_layer(&weights, adapter, &rows, DType::F32, |_| Ok(())).unwrap();
            for (i, logits) in by_layer.iter().enumerate() {
                let whole = model.logits(&ids.narrow(0, i, 1).unwrap(), Keys::All).unwrap();
                let off = distance(logits, &whole.squeeze(0).unwrap());
                assert!(off < 1e-6, "{kind}: {off}");
            }
        }
    }
}

/// Fuses, and returns the place and the directory in it.
fn fused(name: &str, adapter: &Adapter, dtype: Option<DType>) -> (tempfile::TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("fused");
    let options = FuseOptions { dtype, ..FuseOptions::default() };
    let result =
        fuse(&ModelDir::at(directory(name)), adapter, &out, &options, &mut |_, _, _| Ok(())).unwrap();
    assert!(result.difference.largest <= result.allowed && result.effect > 0.1, "{name}: {result:?}");
    (place, out)
}

#[test]
fn a_fused_model_is_the_model_with_its_adapter() {
    for (kind, name, adapter) in adapters() {
        let ids = input_ids(&golden(name));
        let wanted = logits(&with(name, &adapter), &ids);
        let (_place, out) = fused(name, &adapter, Some(DType::F32));
        let off = distance(&logits(&Model::from_dir(&out, DType::F32, &device()).unwrap(), &ids), &wanted);
        assert!(off < 1e-4, "{kind} in f32: {off}");

        // Stored as it was: what has no update is as it was, to the bit, in the files it was in.
        let (_place, out) = fused(name, &adapter, None);
        let (before, after) =
            (ModelDir::at(directory(name)).weights().unwrap(), ModelDir::at(&out).weights().unwrap());
        let changed = |weight: &str| {
            let module = weight.strip_suffix(".weight").unwrap_or(weight);
            adapter.tensors.contains_key(module) || adapter.saved.contains_key(weight)
        };
        let bits = |tensor: Tensor| {
            tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        for weight in before.names() {
            assert_eq!(after.dtype(weight), before.dtype(weight), "{kind}: {weight}");
            let same =
                bits(after.load(weight, &device()).unwrap()) == bits(before.load(weight, &device()).unwrap());
            assert_eq!(same, !changed(weight), "{kind}: {weight}");
        }
        let new: Vec<_> = after.names().filter(|weight| !before.contains(weight)).collect();
        assert_eq!(new, if kind == "tied" { vec!["lm_head.weight"] } else { vec![] }, "{kind}");
        let files = |dir: &Path| {
            let mut names: Vec<_> = std::fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.retain(|name| name != "adapter" && name != "golden.safetensors");
            names.sort();
            names
        };
        assert_eq!(files(&out), files(&directory(name)), "{kind}");
        assert_eq!(
            Config::open(&ModelDir::at(&out)).unwrap().tie_word_embeddings,
            kind != "tied" && config(name).tie_word_embeddings
        );
    }
}

#[test]
fn an_index_says_what_is_in_the_shards() {
    for dtype in [None, Some(DType::F32)] {
        let (_place, out) = fused("llama2", &lora("llama2"), dtype);
        let read = |dir: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(dir.join("model.safetensors.index.json")).unwrap()).unwrap()
        };
        let (index, before) = (read(&out), read(&directory("llama2")));
        assert_eq!(index["weight_map"], before["weight_map"]);
        let factor = if dtype.is_some() { 2 } else { 1 };
        let size = |index: &serde_json::Value| index["metadata"]["total_size"].as_u64().unwrap();
        assert_eq!(size(&index), factor * size(&before));
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["torch_dtype"], if dtype.is_some() { "float32" } else { "float16" });
    }
}

#[test]
fn combined_adapters_are_one_that_computes_their_sum() {
    let part = |path: &str, weight: f64| {
        let adapter = adapter::read(&fixture(path)).unwrap();
        Weighted { name: path.to_string(), adapter, weight }
    };
    let parts = || vec![part("peft/patterns", 0.7), part("peft/layers", -1.3), part("mlx/keys", 0.2)];
    // The same sum, one merge after the other.
    let place = tempfile::tempdir().unwrap();
    let mut dir = directory("llama");
    for (i, part) in parts().into_iter().enumerate() {
        let out = place.path().join(i.to_string());
        let one = combine(vec![part]).unwrap();
        fuse(&ModelDir::at(&dir), &one, &out, &FuseOptions::default(), &mut |_, _, _| Ok(())).unwrap();
        dir = out;
    }
    let ids = input_ids(&golden("llama"));
    let wanted = logits(&Model::from_dir(&dir, DType::F32, &device()).unwrap(), &ids);
    let sum = combine(parts()).unwrap();
    let off = distance(&logits(&with("llama", &sum), &ids), &wanted);
    assert!(off < 1e-4, "{off}");
}
