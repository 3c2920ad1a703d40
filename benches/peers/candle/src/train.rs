//! A LoRA training step as one writes it in plain Candle: composed ops, which have gradients where candle_nn's
//! fused ones have none, and candle_nn's AdamW.

use crate::protocol::{micros, peak_bytes, tokens};
use candle_core::{D, DType, Device, IndexOp, Result, Tensor, Var};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use candle_nn::{VarBuilder, ops, rotary_emb};
use candle_transformers::models::llama::Config;
use serde_json::{Value, json};
use std::time::Instant;

const MODULES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

struct Linear {
    weight: Tensor,
    a: Var,
    b: Var,
    scale: f64,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let update = x.matmul(&self.a.t()?)?.matmul(&self.b.t()?)?;
        x.matmul(&self.weight.t()?)? + (update * self.scale)?
    }
}

struct Layer {
    norms: [Tensor; 2],
    linears: Vec<Linear>,
}

pub struct Trainer {
    config: Config,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
    rotation: (Tensor, Tensor),
    mask: Tensor,
    optimizer: AdamW,
    ids: Tensor,
    targets: Tensor,
    batch: (usize, usize),
}

impl Trainer {
    pub fn new(config: Config, weights: VarBuilder, request: &Value) -> Result<Self> {
        let size = |field: &str| request[field].as_u64().unwrap_or(1) as usize;
        let (rows, len, rank) = (size("batch"), size("length"), size("rank"));
        let (dtype, device) = (weights.dtype(), &Device::Cpu);
        let get = |name: &str| weights.get_unchecked(&format!("{name}.weight"));
        let mut layers = Vec::new();
        let mut vars = Vec::new();
        for i in 0..config.num_hidden_layers {
            let get = |name: &str| get(&format!("model.layers.{i}.{name}"));
            let mut linears = Vec::new();
            for name in MODULES {
                let weight = get(name)?;
                let (outputs, inputs) = weight.dims2()?;
                let bound = (inputs as f64).powf(-0.5);
                let a =
                    Var::from_tensor(&Tensor::rand(-bound, bound, (rank, inputs), device)?.to_dtype(dtype)?)?;
                let b = Var::zeros((outputs, rank), dtype, device)?;
                vars.extend([a.clone(), b.clone()]);
                linears.push(Linear { weight, a, b, scale: 2.0 });
            }
            let norms = [get("input_layernorm")?, get("post_attention_layernorm")?];
            layers.push(Layer { norms, linears });
        }
        let half = config.hidden_size / config.num_attention_heads / 2;
        let angle = |i: usize| (i / half) as f32 * config.rope_theta.powf(-((i % half) as f32) / half as f32);
        let angles = Tensor::from_iter((0..len * half).map(angle), device)?.reshape((len, half))?;
        let above = |i: usize| if i % len > i / len { f32::NEG_INFINITY } else { 0.0 };
        let mask = Tensor::from_iter((0..len * len).map(above), device)?.reshape((len, len))?;
        let ids = Tensor::new(tokens(1, config.vocab_size as u32, rows * len), device)?;
        Ok(Trainer {
            embedding: get("model.embed_tokens")?,
            norm: get("model.norm")?,
            head: get("lm_head")?,
            rotation: (angles.cos()?.to_dtype(dtype)?, angles.sin()?.to_dtype(dtype)?),
            mask: mask.to_dtype(dtype)?,
            optimizer: AdamW::new(vars, ParamsAdamW { lr: 1e-4, ..Default::default() })?,
            targets: ids.reshape((rows, len))?.i((.., 1..))?.flatten_all()?,
            batch: (rows, len),
            ids,
            layers,
            config,
        })
    }

    pub fn answer(&mut self, request: &Value) -> Result<Value> {
        let (mut samples, mut losses) = (Vec::new(), Vec::new());
        for _ in 0..request["count"].as_u64().unwrap_or(1) {
            let start = Instant::now();
            let loss = self.loss()?;
            self.optimizer.backward_step(&loss)?;
            losses.push(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?);
            samples.push(micros(start));
        }
        Ok(json!({ "samples_us": samples, "losses": losses, "peak_bytes": peak_bytes() }))
    }

    fn loss(&self) -> Result<Tensor> {
        let eps = self.config.rms_norm_eps as f32;
        let mut x = self.embedding.index_select(&self.ids, 0)?;
        for Layer { norms, linears } in &self.layers {
            let h = ops::rms_norm_slow(&x, &norms[0], eps)?;
            x = (x + linears[3].forward(&self.attention(&h, linears)?)?)?;
            let h = ops::rms_norm_slow(&x, &norms[1], eps)?;
            let h = (ops::silu(&linears[4].forward(&h)?)? * linears[5].forward(&h)?)?;
            x = (x + linears[6].forward(&h)?)?;
        }
        let (rows, len) = self.batch;
        let x = ops::rms_norm_slow(&x, &self.norm, eps)?.reshape((rows, len, ()))?;
        let logits = x.i((.., ..len - 1))?.flatten_to(1)?.matmul(&self.head.t()?)?;
        candle_nn::loss::cross_entropy(&logits.to_dtype(DType::F32)?, &self.targets)
    }

    fn attention(&self, x: &Tensor, linears: &[Linear]) -> Result<Tensor> {
        let (rows, len) = self.batch;
        let (heads, kv) = (self.config.num_attention_heads, self.config.num_key_value_heads);
        let dim = self.config.hidden_size / heads;
        let split = |linear: &Linear, heads: usize| {
            linear.forward(x)?.reshape((rows, len, heads, dim))?.transpose(1, 2)?.contiguous()
        };
        let (cos, sin) = &self.rotation;
        let q = rotary_emb::rope_slow(&split(&linears[0], heads)?, cos, sin)?;
        let k = rotary_emb::rope_slow(&split(&linears[1], kv)?, cos, sin)?;
        let v = split(&linears[2], kv)?;
        let repeat = |x: Tensor| {
            let wide = (rows, kv, heads / kv, len, dim);
            x.unsqueeze(2)?.broadcast_as(wide)?.reshape((rows, heads, len, dim))
        };
        let (k, v) = (repeat(k)?, repeat(v)?);
        let scores = (q.matmul(&k.t()?)? * (dim as f64).powf(-0.5))?.broadcast_add(&self.mask)?;
        let y = ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        y.transpose(1, 2)?.reshape((rows * len, heads * dim))
    }
}
