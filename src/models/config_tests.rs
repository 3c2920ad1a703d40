//! What `config.json` files of the hub become, and what is refused.

use serde_json::json;

use super::*;
use crate::nn::RopeScaling;

fn read(json: Value) -> Result<Config> {
    Config::from_json("config.json", json.as_object().unwrap().clone())
}

fn error(json: Value) -> String {
    read(json).unwrap_err().to_string()
}

fn windows(config: &Config) -> Vec<Option<usize>> {
    config.layers.iter().map(|layer| layer.window).collect()
}

#[test]
fn missing_fields_are_transformers_defaults() {
    let llama = read(json!({"model_type": "llama"})).unwrap();
    assert_eq!((llama.vocab_size, llama.hidden_size, llama.layers.len()), (32_000, 4096, 32));
    assert_eq!((llama.num_key_value_heads, llama.head_dim, llama.ropes[0].theta), (32, 128, 10_000.));
    assert_eq!(llama.parameter_count(), 6_738_415_616, "Llama 2 7B");
    let mistral = read(json!({"model_type": "mistral"})).unwrap();
    assert_eq!((mistral.num_key_value_heads, windows(&mistral)[31]), (8, Some(4096)));
    let gemma = read(json!({"model_type": "gemma3_text"})).unwrap();
    assert!(gemma.tie_word_embeddings && gemma.head_dim == 256 && gemma.attention_scale == 0.0625);
    assert_eq!(windows(&gemma)[4..7], [Some(4096), None, Some(4096)]);
    assert_eq!((gemma.ropes[0].theta, gemma.ropes[1].theta), (1e6, 1e4));
    let phi = read(json!({"model_type": "phi3"})).unwrap();
    assert_eq!(phi.parameter_count(), 3_821_079_552, "Phi-3-mini");
}

#[test]
fn windows_are_given_by_null_flags_and_types() {
    let mistral = read(json!({"model_type": "mistral", "sliding_window": null})).unwrap();
    assert_eq!(windows(&mistral)[0], None);
    let qwen = |fields: Value| {
        let mut json = json!({"model_type": "qwen2", "num_hidden_layers": 3, "sliding_window": 8});
        json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        windows(&read(json).unwrap())
    };
    assert_eq!(qwen(json!({"max_window_layers": 0})), [None; 3]);
    assert_eq!(qwen(json!({"use_sliding_window": true, "max_window_layers": 2})), [None, None, Some(8)]);
    assert_eq!(qwen(json!({"use_sliding_window": true, "max_window_layers": 0})), [Some(8); 3]);
    let types = ["sliding_attention", "full_attention", "full_attention"];
    assert_eq!(qwen(json!({"use_sliding_window": true, "layer_types": types})), [Some(8), None, None]);
}

#[test]
fn ropes_of_the_hub() {
    let rope = |model_type: &str, scaling: Value| {
        let json =
            json!({"model_type": model_type, "max_position_embeddings": 8192, "rope_scaling": scaling});
        read(json).unwrap().ropes.swap_remove(0).scaling
    };
    let yarn =
        rope("qwen2", json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}));
    let RopeScaling::Yarn { factor, original, attention_factor, truncate: true, .. } = yarn else {
        panic!("{yarn:?}")
    };
    assert_eq!((factor, original), (4., 2048));
    assert!((attention_factor - 1.138_629_4).abs() < 1e-6);
    let dynamic = rope("llama", json!({"type": "dynamic", "factor": 2.0}));
    assert_eq!(dynamic, RopeScaling::Dynamic { factor: 2., max_positions: 8192 });
    let factors = vec![1.5; 48];
    let su = rope("phi3", json!({"type": "su", "short_factor": factors, "long_factor": factors}));
    let RopeScaling::LongRope { original: 4096, attention_factor, .. } = su else { panic!("{su:?}") };
    assert!((attention_factor - (1f32 + 2f32.ln() / 4096f32.ln()).sqrt()).abs() < 1e-6);
}

#[test]
fn what_is_not_supported_is_named_with_what_is() {
    let cases = [
        (
            json!({}),
            "config.json: model_type: wants one of llama, mistral, qwen2, qwen3, gemma3_text, gemma3, phi3, got no such field",
        ),
        (
            json!({"model_type": "mixtral"}),
            "config.json: model_type: wants one of llama, mistral, qwen2, qwen3, gemma3_text, gemma3, phi3, got \"mixtral\"",
        ),
        (json!({"model_type": 3}), "config.json: model_type: wants a string, got 3"),
        (
            json!({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}),
            "config.json: quantization_config: wants weights in f32, f16 or bf16, got gptq weights",
        ),
        (
            json!({"model_type": "llama", "hidden_act": "gelu"}),
            "config.json: hidden_act: wants silu or gelu_pytorch_tanh, got \"gelu\"",
        ),
        (
            json!({"model_type": "llama", "hidden_size": "4096"}),
            "config.json: hidden_size: wants a whole number of at least 1, got \"4096\"",
        ),
        (
            json!({"model_type": "llama", "hidden_size": 100}),
            "config.json: hidden_size: wants a multiple of num_attention_heads (32), or a head_dim, got 100",
        ),
        (
            json!({"model_type": "llama", "num_hidden_layers": 1e9}),
            "config.json: num_hidden_layers: wants at most 4096, got 1000000000.0",
        ),
        (
            json!({"model_type": "llama", "num_key_value_heads": 5}),
            "config.json: num_key_value_heads: wants a divisor of num_attention_heads (32), got 5",
        ),
        (
            json!({"model_type": "llama", "head_dim": 7}),
            "config.json: head_dim: wants an even number of rotated dimensions, at least 2 (7 here), got 7",
        ),
        (
            json!({"model_type": "llama", "rope_theta": -1}),
            "config.json: rope_theta: wants a number above 0, got -1",
        ),
        (
            json!({"model_type": "llama", "rope_scaling": {"rope_type": "mrope"}}),
            "config.json: rope_scaling: rope_type: wants default, linear, dynamic, llama3, longrope or yarn, got \"mrope\"",
        ),
        (
            json!({"model_type": "llama", "rope_parameters": {"rope_type": "linear"}}),
            "config.json: rope_parameters: factor: wants a number above 0 for linear, got no such field",
        ),
        (
            json!({"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1.0]}}),
            "config.json: rope_scaling: short_factor: wants 48 numbers above 0, got [1.0]",
        ),
        (
            json!({"model_type": "llama", "partial_rotary_factor": 0.5}),
            "config.json: partial_rotary_factor: wants 1, got 0.5",
        ),
        (
            json!({"model_type": "llama", "torch_dtype": "int8"}),
            "config.json: torch_dtype: wants float32, float16 or bfloat16, got \"int8\"",
        ),
        (
            json!({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}),
            "config.json: final_logit_softcapping: wants null: soft caps are Gemma 2's, got 30.0",
        ),
        (
            json!({"model_type": "gemma3", "text_config": {"layer_types": ["full_attention"]}}),
            "config.json: text_config: layer_types: wants 26 of full_attention or sliding_attention, got [\"full_attention\"]",
        ),
    ];
    for (json, expected) in cases {
        assert_eq!(error(json), expected);
    }
}
