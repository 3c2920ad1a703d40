//! A model from its configuration and a source of tensors: a checkpoint, a random start, or just their names.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Shape, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::layer::FeedforwardNorms;
use super::{Config, Layer, LayerConfig, Model};
use crate::Result;
use crate::load::Weights;
use crate::nn::{Embedding, GateUp, Linear, Mlp, Projections, RmsNorm, Rope, SelfAttention};

/// What a tensor is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Matrix,
    Bias,
    Norm,
}

/// Gives the tensor of a name, shape and role.
type Source<'a> = dyn FnMut(&str, Shape, Role) -> Result<Tensor> + 'a;

impl Config {
    /// The names and shapes of the model's tensors, as its checkpoints have them. A tied head is not listed.
    pub fn tensors(&self) -> Vec<(String, Shape)> {
        let mut tensors = Vec::new();
        let mut record = |name: &str, shape: Shape, _: Role| {
            tensors.push((name.to_string(), shape));
            Ok(Tensor::zeros((), DType::F32, &Device::Cpu)?)
        };
        // Nothing here can fail: no tensor of a size is made.
        drop(build(self, DType::F32, &Device::Cpu, &mut record));
        tensors
    }

    /// The number of weights; a tied head counts once.
    pub fn parameter_count(&self) -> usize {
        let count = |shape: &Shape| shape.dims().iter().fold(1usize, |n, &dim| n.saturating_mul(dim));
        self.tensors().iter().fold(0, |n, (_, shape)| n.saturating_add(count(shape)))
    }
}

impl Model {
    /// Takes a model's weights from a checkpoint and converts them to `dtype`.
    ///
    /// # Errors
    ///
    /// When tensors are missing or of another shape than the configuration says: all are listed.
    pub fn load(config: &Config, weights: &Weights, dtype: DType, device: &Device) -> Result<Self> {
        let names = Names::checked(config, weights)?;
        build(config, dtype, device, &mut |name, shape, _| {
            weights.get(&names.stored(name), shape, dtype, device)
        })
    }

    /// A model whose weights have their shapes and take no memory: all of one value, to be exchanged.
    pub(super) fn hollow(config: &Config, dtype: DType, device: &Device) -> Result<Self> {
        build(config, dtype, device, &mut |_, shape, _| {
            Ok(Tensor::zeros((), dtype, device)?.broadcast_as(shape)?)
        })
    }

    /// A model with random weights, as transformers starts one: matrices are normal with standard deviation
    /// `initializer_range`, biases zero, norms the identity. Equal seeds give equal models.
    ///
    /// # Errors
    ///
    /// When the device has no room for it.
    pub fn init(config: &Config, dtype: DType, device: &Device, seed: u64) -> Result<Self> {
        let std = config.initializer_range as f32;
        let mut stream = 0;
        build(config, dtype, device, &mut |_, shape, role| {
            let tensor = match role {
                Role::Matrix => {
                    stream += 1;
                    normal(seed, stream << 32, std, shape, device)?
                }
                Role::Norm if !config.gemma => Tensor::ones(shape, DType::F32, device)?,
                Role::Norm | Role::Bias => Tensor::zeros(shape, DType::F32, device)?,
            };
            Ok(tensor.to_dtype(dtype)?)
        })
    }
}

/// Where a checkpoint keeps the decoder and the head.
pub(super) struct Names<'a> {
    prefix: &'a str,
    stored: &'static str,
    head: &'static str,
}

impl<'a> Names<'a> {
    /// The names in a checkpoint that has all tensors of the configuration; the error lists those it lacks.
    pub fn checked(config: &'a Config, weights: &Weights) -> Result<Self> {
        let names = Names::find(config, weights);
        let wanted: Vec<_> =
            config.tensors().into_iter().map(|(name, shape)| (names.stored(&name), shape)).collect();
        weights.check(&wanted)?;
        Ok(names)
    }

    /// A checkpoint may be of the whole model, of the decoder alone, or of a multimodal model in either of the
    /// forms it has had.
    fn find(config: &'a Config, weights: &Weights) -> Self {
        let stored = ["model.", "model.language_model.", "language_model.model.", ""];
        let embedding = |prefix: &&str| weights.contains(&format!("{prefix}embed_tokens.weight"));
        let head = ["lm_head.weight", "language_model.lm_head.weight"];
        Names {
            prefix: &config.prefix,
            stored: stored.into_iter().find(embedding).unwrap_or("model."),
            head: head.into_iter().find(|name| weights.contains(name)).unwrap_or("lm_head.weight"),
        }
    }

    /// The name in the checkpoint.
    pub fn stored(&self, name: &str) -> String {
        match name.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix('.')) {
            Some(rest) => format!("{}{rest}", self.stored),
            None => self.head.to_string(),
        }
    }
}

/// Normally distributed values, by Box and Muller's transform. Each run of them has a stream of numbers of its own,
/// from number `first` on, so that any number of threads gives the same.
fn normal(seed: u64, first: u64, std: f32, shape: Shape, device: &Device) -> Result<Tensor> {
    const RUN: usize = 1 << 16;
    let mut values = vec![0f32; shape.elem_count()];
    values.par_chunks_mut(RUN).enumerate().for_each(|(i, run)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(first + i as u64);
        for pair in run.chunks_mut(2) {
            let radius = std * (-2. * (1. - rng.random::<f32>()).ln()).sqrt();
            let (sin, cos) = (std::f32::consts::TAU * rng.random::<f32>()).sin_cos();
            pair.iter_mut().zip([cos, sin]).for_each(|(value, of)| *value = radius * of);
        }
    });
    Ok(Tensor::from_vec(values, shape, device)?)
}

fn build(config: &Config, dtype: DType, device: &Device, source: &mut Source) -> Result<Model> {
    let (prefix, hidden) = (&config.prefix, config.hidden_size);
    let table = (config.vocab_size, hidden);
    let embed_tokens = Embedding {
        weight: source(&format!("{prefix}.embed_tokens.weight"), table.into(), Role::Matrix)?,
        scale: config.gemma.then(|| (hidden as f64).sqrt()),
        padding: config.pad_token_id,
    };
    #[cfg_attr(not(feature = "cuda"), allow(unused_mut, reason = "CUDA joins products"))]
    let mut layers = (config.layers.iter().enumerate())
        .map(|(i, this)| layer(&mut Part { config, path: format!("{prefix}.layers.{i}"), source }, *this))
        .collect::<Result<Vec<Layer>>>()?;
    let norm = Part { config, path: prefix.clone(), source }.norm("norm", hidden)?;
    let lm_head = match config.tie_word_embeddings {
        true => None,
        false => Some(source("lm_head.weight", table.into(), Role::Matrix)?),
    };
    let ropes = config.ropes.iter().map(|rope| Rope::new(rope.clone(), device)).collect();
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        layers.iter_mut().try_for_each(Layer::join)?;
    }
    Ok(Model {
        config: config.clone(),
        embed_tokens,
        layers,
        norm,
        lm_head,
        ropes,
        dtype,
        device: device.clone(),
        replaced: BTreeMap::new(),
        adapter_off: false,
        #[cfg(feature = "cuda")]
        compiled: std::sync::OnceLock::new(),
    })
}

/// A module's place in the checkpoint, and where its tensors come from.
struct Part<'a, 'b> {
    config: &'a Config,
    path: String,
    source: &'a mut Source<'b>,
}

impl Part<'_, '_> {
    fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Linear> {
        let path = format!("{}.{name}", self.path);
        let weight = (self.source)(&format!("{path}.weight"), (outputs, inputs).into(), Role::Matrix)?;
        let bias = match bias {
            true => Some((self.source)(&format!("{path}.bias"), outputs.into(), Role::Bias)?),
            false => None,
        };
        Ok(Linear::new(weight, bias))
    }

    fn norm(&mut self, name: &str, size: usize) -> Result<RmsNorm> {
        let weight = (self.source)(&format!("{}.{name}.weight", self.path), size.into(), Role::Norm)?;
        Ok(RmsNorm::new(weight, self.config.rms_norm_eps, self.config.gemma))
    }
}

fn layer(part: &mut Part, this: LayerConfig) -> Result<Layer> {
    let (config, hidden) = (part.config, part.config.hidden_size);
    Ok(Layer {
        self_attn: attention(part, this.window)?,
        mlp: mlp(part)?,
        input_layernorm: part.norm("input_layernorm", hidden)?,
        post_attention_layernorm: part.norm("post_attention_layernorm", hidden)?,
        feedforward_layernorms: match config.gemma {
            true => Some(FeedforwardNorms {
                pre_feedforward_layernorm: part.norm("pre_feedforward_layernorm", hidden)?,
                post_feedforward_layernorm: part.norm("post_feedforward_layernorm", hidden)?,
            }),
            false => None,
        },
        rope: this.rope,
    })
}

fn attention(part: &mut Part, window: Option<usize>) -> Result<SelfAttention> {
    let (config, hidden) = (part.config, part.config.hidden_size);
    let (heads, kv_heads, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    let bias = config.qkv_bias;
    let projections = match config.fused_projections {
        true => Projections::Fused {
            qkv_proj: part.linear("self_attn.qkv_proj", hidden, (heads + 2 * kv_heads) * dim, bias)?,
        },
        false => Projections::Split {
            q_proj: part.linear("self_attn.q_proj", hidden, heads * dim, bias)?,
            k_proj: part.linear("self_attn.k_proj", hidden, kv_heads * dim, bias)?,
            v_proj: part.linear("self_attn.v_proj", hidden, kv_heads * dim, bias)?,
        },
    };
    let o_proj = part.linear("self_attn.o_proj", heads * dim, hidden, config.output_bias)?;
    let (q_norm, k_norm) = match config.qk_norm {
        true => (Some(part.norm("self_attn.q_norm", dim)?), Some(part.norm("self_attn.k_norm", dim)?)),
        false => (None, None),
    };
    let scale = config.attention_scale;
    Ok(SelfAttention {
        projections,
        o_proj,
        q_norm,
        k_norm,
        heads,
        kv_heads,
        scale,
        window,
        #[cfg(feature = "cuda")]
        joined: None,
    })
}

fn mlp(part: &mut Part) -> Result<Mlp> {
    let (config, hidden, inner) = (part.config, part.config.hidden_size, part.config.intermediate_size);
    let bias = config.mlp_bias;
    let gate_up = match config.fused_projections {
        true => GateUp::Fused { gate_up_proj: part.linear("mlp.gate_up_proj", hidden, 2 * inner, bias)? },
        false => GateUp::Split {
            gate_proj: part.linear("mlp.gate_proj", hidden, inner, bias)?,
            up_proj: part.linear("mlp.up_proj", hidden, inner, bias)?,
        },
    };
    let down_proj = part.linear("mlp.down_proj", inner, hidden, bias)?;
    Ok(Mlp {
        gate_up,
        down_proj,
        activation: config.activation,
        #[cfg(feature = "cuda")]
        joined: None,
    })
}
