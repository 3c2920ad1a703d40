//! Adapters that PEFT wrote, adapters that we write, and adapters that must be refused.

use candle_core::DType;
use serde_json::{Value, json};

use super::*;

fn pair(r: usize, inner: usize, out: usize) -> LoraPair {
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    LoraPair { a: zeros((r, inner)), b: zeros((out, r)), magnitude: None }
}

fn parse(change: Value) -> Result<PeftConfig> {
    let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]});
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    PeftConfig::from_json(Path::new("adapter_config.json"), config.as_object().unwrap())
}

#[test]
fn what_peft_wrote_is_read_and_written_back_the_same() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let adapter = read(&fixtures.join("models/llama/adapter")).unwrap();
    assert_eq!((adapter.config.r, adapter.config.scale("model.layers.0.mlp.up_proj").unwrap()), (4, 2.0));
    assert!(adapter.tensors.contains_key("model.layers.0.self_attn.q_proj"));

    let dir = tempfile::tempdir().unwrap();
    for name in ["models/llama/adapter", "peft/patterns", "peft/dora", "peft/dora_saved", "peft/tied"] {
        let (fixture, out) = (fixtures.join(name), dir.path().join("new").join(name));
        let adapter = read(&fixture).unwrap();
        write(&out, &adapter).unwrap();
        // The safetensors crate is PEFT's writer too: the same tensors give the same bytes.
        let bytes = |dir: &Path| std::fs::read(dir.join(TENSORS)).unwrap();
        assert!(bytes(&out) == bytes(&fixture), "{name}");
        let keys = |dir: &Path| -> BTreeMap<String, Value> { json::read(&dir.join(CONFIG), "JSON").unwrap() };
        let (ours, theirs) = (keys(&out), keys(&fixture));
        for (key, value) in &ours {
            assert_eq!(Some(value), theirs.get(key), "{name}: {key}");
        }
        let text = std::fs::read_to_string(out.join(CONFIG)).unwrap();
        let keys: Vec<&str> = text.lines().filter(|line| line.starts_with("  \"")).collect();
        assert!(text.starts_with("{\n  \"alpha_pattern\": {") && keys.is_sorted(), "{text}");
        assert_eq!(read(&out).unwrap().config, adapter.config);
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2, "no temporary files stay");
    }
}

/// Some writers leave the adapter's name and PEFT's wrappers in the names.
#[test]
fn names_with_the_adapters_name_in_them_are_read_as_those_without() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft/dora_saved");
    let plain = read(&fixture).unwrap();
    let tensors = candle_core::safetensors::load(fixture.join(TENSORS), &Device::Cpu).unwrap();
    for (saved, vector) in
        [("", ".default"), (".modules_to_save.default", ".default.weight"), (".modules_to_save", ".weight")]
    {
        let named = tensors.iter().map(|(name, tensor)| {
            let (module, end) = name.rsplit_once('.').unwrap();
            let name = match end {
                "lora_magnitude_vector" => format!("{name}{vector}"),
                _ if module.contains(".lora_") => format!("{module}.default.{end}"),
                _ => format!("{module}{saved}.{end}"),
            };
            (name, tensor.clone())
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(fixture.join(CONFIG), dir.path().join(CONFIG)).unwrap();
        safetensors::save(&dir.path().join(TENSORS), named, &[]).unwrap();
        let adapter = read(dir.path()).unwrap();
        assert!(adapter.tensors.keys().eq(plain.tensors.keys()), "{saved}");
        assert!(adapter.tensors.values().all(|pair| pair.magnitude.is_some()));
        assert!(adapter.saved.keys().eq(plain.saved.keys()), "{saved}");
    }
}

#[test]
fn peft_chose_the_modules_and_ranks_that_its_configuration_gives() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["rslora", "patterns", "regex", "layers", "dora", "modules_to_save"] {
        // Reading compares the rank of every tensor with what the configuration says of its module.
        let adapter = read(&fixtures.join("peft").join(name)).unwrap();
        let base = adapter.config.base_model_name_or_path.as_deref().unwrap();
        let base = Weights::open(&fixtures.join(base)).unwrap();
        let linear = base.names().filter_map(|name| name.strip_suffix("_proj.weight"));
        let linear: Vec<String> = linear.map(|name| format!("{name}_proj")).collect();
        let chosen: Vec<&String> =
            linear.iter().filter(|name| adapter.config.targets(name).unwrap()).collect();
        assert_eq!(chosen, adapter.tensors.keys().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn patterns_choose_rank_and_scale_as_peft_does() {
    let config = parse(json!({
        "rank_pattern": {"layers.0.self_attn.q_proj": 16, "q_proj": 2},
        "alpha_pattern": {"^model.layers.1.*": 32},
        "use_rslora": true
    }))
    .unwrap();
    assert_eq!(config.rank("model.layers.0.self_attn.q_proj").unwrap(), 16);
    assert_eq!(config.rank("model.layers.1.self_attn.q_proj").unwrap(), 2);
    assert_eq!(config.rank("model.layers.1.self_attn.xq_proj").unwrap(), 4);
    assert_eq!(config.scale("model.layers.1.self_attn.k_proj").unwrap(), 16.0);
    assert_eq!(config.scale("model.layers.0.self_attn.k_proj").unwrap(), 4.0);
}

#[test]
fn modules_are_chosen_by_suffix_expression_and_layer() {
    let chosen = |change: Value, module: &str| parse(change).unwrap().targets(module).unwrap();
    let q1 = "model.layers.1.self_attn.q_proj";
    assert!(chosen(json!({}), q1) && !chosen(json!({}), "model.layers.1.self_attn.eq_proj"));
    assert!(
        !chosen(json!({"layers_to_transform": 0}), q1) && chosen(json!({"layers_to_transform": [0, 1]}), q1)
    );
    assert!(chosen(json!({"layers_to_transform": [1], "layers_pattern": "layers"}), q1));
    assert!(!chosen(json!({"layers_to_transform": [1], "layers_pattern": ["h"]}), q1));
    assert!(chosen(json!({"target_modules": r".*\.1\..*q_proj"}), q1));
    assert!(!chosen(json!({"target_modules": "q_proj"}), q1), "an expression matches the whole path");
    assert!(!chosen(json!({"target_modules": "all-linear", "exclude_modules": ["self_attn.q_proj"]}), q1));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (key, value) in [
        ("use_dora", json!("yes")),
        ("bias", json!("all")),
        ("modules_to_save", json!("lm_head")),
        ("ensure_weight_tying", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("target_parameters", json!(["mlp.experts"])),
        ("trainable_token_indices", json!([1, 2])),
        ("layer_replication", json!([[0, 2]])),
        ("use_qalora", json!(true)),
        ("alora_invocation_tokens", json!([1])),
        ("init_lora_weights", json!("pissa")),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("something_new", json!(1)),
        ("r", json!(0)),
        ("lora_alpha", json!("x")),
        ("rank_pattern", json!({"a": 0})),
        ("rank_pattern", json!({"(": 1})),
        ("target_modules", json!(null)),
        ("target_modules", json!("(")),
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
    ] {
        let error = parse(json!({ key: value })).expect_err(key).to_string();
        assert!(error.contains(key) && error.contains("wants"), "{error}");
    }
    assert!(parse(json!({"something_new": [], "another": false, "peft_version": "0.99"})).is_ok());
}

#[test]
fn bad_tensors_are_all_in_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = parse(json!({})).unwrap();
    let adapter = |config: &PeftConfig, pair: LoraPair| {
        let tensors = BTreeMap::from([("model.x".to_string(), pair)]);
        Adapter { config: config.clone(), tensors, saved: BTreeMap::new() }
    };
    write(dir.path(), &adapter(&config, pair(4, 6, 5))).unwrap();
    let p = |name: &str| format!("base_model.model.model.{name}");
    let zeros = |r, c| Tensor::zeros((r, c), DType::F32, &Device::Cpu).unwrap();
    let names = [
        (p("a.lora_A.weight"), zeros(4, 6)),
        (p("b.lora_A.default.weight"), zeros(4, 6)),
        (p("b.lora_B.default.weight"), zeros(5, 4)),
        (p("c.lora_A.weight"), zeros(3, 6)),
        (p("c.lora_B.weight"), zeros(5, 4)),
        (p("d.lora_magnitude_vector"), zeros(1, 1)),
        ("other.lora_A.weight".to_string(), zeros(4, 6)),
    ];
    safetensors::save(&dir.path().join(TENSORS), names.clone(), &[]).unwrap();
    let error = read(dir.path()).unwrap_err().to_string();
    for problem in [
        "4 tensor problem(s)",
        "model.a: wants lora_A and lora_B, got lora_A\n",
        "model.c: wants A (4, in) and B (out, 4), got [3, 6] and [5, 4]",
        "model.d: wants lora_A and lora_B, got lora_magnitude_vector",
        "other.lora_A.weight: wants",
    ] {
        assert!(error.contains(problem), "{problem} not in {error}");
    }
    safetensors::save(&dir.path().join(TENSORS), names[1..3].to_vec(), &[]).unwrap();
    assert!(read(dir.path()).unwrap().tensors.contains_key("model.b"), "the name `default` is accepted");

    let error = write(dir.path(), &adapter(&config, pair(3, 6, 5))).unwrap_err().to_string();
    assert!(error.contains("wants A (4, in)"), "{error}");
    std::fs::remove_file(dir.path().join(TENSORS)).unwrap();
    std::fs::write(dir.path().join("adapters.safetensors"), "").unwrap();
    assert!(read(dir.path()).unwrap_err().to_string().contains("got only adapters.safetensors"));
}
