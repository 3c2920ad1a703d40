//! The cases: an op of this crate (`ours`), the same in plain Candle ops (`composed`), and `candle_nn`'s own
//! fused one where it has one, which has no gradient (`candle_nn`).

use super::protocol::{Case, Run, noise};
use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, Var, bail};
use candle_nn::attention::AttnMask;
use metal_candle::ops;

const EPS: f32 = 1e-5;
const LORA_SCALE: f64 = 2.0;

/// A function of the tensors that have gradients; what is frozen, it holds.
type Op = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// Prepares a case.
pub fn build(case: &Case) -> Result<Run> {
    let (inputs, op) = op(case)?;
    if !case.backward {
        return Ok(Box::new(move || Ok(vec![op(&inputs)?])));
    }
    let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = op(&inputs)?;
    let g = match y.rank() {
        0 => None,
        _ => Some(noise(9, 1.0, y.dims(), y.dtype())?),
    };
    drop(y);
    Ok(Box::new(move || {
        let y = op(&inputs)?;
        let loss = match &g {
            Some(g) => y.apply_op1(Seed(g.clone()))?,
            None => y.clone(),
        };
        let mut grads = loss.backward()?;
        let mut results = vec![y.detach()];
        for var in &vars {
            match grads.remove(var) {
                Some(g) => results.push(g),
                None => bail!("no gradient"),
            }
        }
        Ok(results)
    }))
}

fn op(case: &Case) -> Result<(Vec<Tensor>, Op)> {
    let (s, d) = (case.shape.as_slice(), case.dtype);
    let last = s.last().copied().unwrap_or(1);
    let variant = case.variant.as_str();
    Ok(match (case.op.as_str(), s) {
        ("softmax", _) => (
            vec![noise(0, 2.0, s, d)?],
            match variant {
                "ours" => Box::new(|t| ops::softmax_last_dim(&t[0])),
                "composed" => Box::new(|t| candle_nn::ops::softmax(&t[0], D::Minus1)),
                "candle_nn" => Box::new(|t| candle_nn::ops::softmax_last_dim(&t[0])),
                _ => return absent(case),
            },
        ),
        ("rms_norm", _) => (
            vec![noise(0, 1.0, s, d)?, noise(1, 1.0, &[last], d)?],
            match variant {
                "ours" => Box::new(|t| ops::rms_norm(&t[0], &t[1], EPS)),
                "composed" => Box::new(|t| candle_nn::ops::rms_norm_slow(&t[0], &t[1], EPS)),
                "candle_nn" => Box::new(|t| candle_nn::ops::rms_norm(&t[0], &t[1], EPS)),
                _ => return absent(case),
            },
        ),
        ("silu_mul", _) => (
            vec![noise(0, 1.0, s, d)?, noise(1, 1.0, s, d)?],
            match variant {
                "ours" => Box::new(|t| ops::silu_mul(&t[0], &t[1])),
                "composed" => Box::new(|t| candle_nn::ops::silu(&t[0])? * &t[1]),
                _ => return absent(case),
            },
        ),
        ("cross_entropy", &[rows, classes]) => {
            let targets = (0..rows).map(|i| (i * 7919 % classes) as u32);
            let targets = Tensor::from_iter(targets, &Device::Cpu)?;
            (
                vec![noise(0, 2.0, s, d)?],
                match variant {
                    "ours" => Box::new(move |t| ops::cross_entropy(&t[0], &targets)),
                    "composed" => Box::new(move |t| candle_nn::loss::cross_entropy(&t[0], &targets)),
                    _ => return absent(case),
                },
            )
        }
        ("linear", &[rows, inputs, outputs]) => {
            let w = noise(1, (inputs as f32).powf(-0.5), &[outputs, inputs], d)?;
            (
                vec![noise(0, 1.0, &[rows, inputs], d)?],
                match variant {
                    "ours" => Box::new(move |t| ops::linear(&t[0], &w, None)),
                    "composed" => Box::new(move |t| t[0].matmul(&w.t()?)),
                    _ => return absent(case),
                },
            )
        }
        ("lora_linear", &[rows, inputs, outputs, rank]) => {
            let std = |n: usize| (n as f32).powf(-0.5);
            let weight = noise(3, std(inputs), &[outputs, inputs], d)?;
            let trained = vec![
                noise(0, 1.0, &[rows, inputs], d)?,
                noise(1, std(inputs), &[rank, inputs], d)?,
                noise(2, std(rank), &[outputs, rank], d)?,
            ];
            let op: Op = match variant {
                "ours" => {
                    let base = ops::LoraLinear { weight, bias: None, scale: LORA_SCALE, dropout: None };
                    Box::new(move |t| ops::lora_linear(&t[0], &t[1], &t[2], &base))
                }
                "composed" => Box::new(move |t| {
                    let update = t[0].matmul(&t[1].t()?)?.matmul(&t[2].t()?)?;
                    t[0].matmul(&weight.t()?)? + (update * LORA_SCALE)?
                }),
                _ => return absent(case),
            };
            (trained, op)
        }
        ("rope", &[_, _, len, dim]) => {
            let (cos, sin) = (noise(1, 1.0, &[len, dim / 2], d)?, noise(2, 1.0, &[len, dim / 2], d)?);
            (
                vec![noise(0, 1.0, s, d)?],
                match variant {
                    "ours" => Box::new(move |t| ops::rope(&t[0], &cos, &sin)),
                    "composed" => Box::new(move |t| candle_nn::rotary_emb::rope_slow(&t[0], &cos, &sin)),
                    "candle_nn" => Box::new(move |t| candle_nn::rotary_emb::rope(&t[0], &cos, &sin)),
                    _ => return absent(case),
                },
            )
        }
        ("attention", &[_, _, len, dim]) => {
            let qkv = (0..3).map(|seed| noise(seed, 1.0, s, d)).collect::<Result<Vec<_>>>()?;
            let scale = (dim as f32).powf(-0.5);
            attention(case, qkv, len, scale)?
        }
        _ => return absent(case),
    })
}

fn attention(case: &Case, mut qkv: Vec<Tensor>, len: usize, scale: f32) -> Result<(Vec<Tensor>, Op)> {
    let op: Op = match case.variant.as_str() {
        "ours" => {
            let options = ops::Attention { scale, causal: true, ..Default::default() };
            Box::new(move |t| ops::attention(&t[0], &t[1], &t[2], &options))
        }
        "composed" => {
            let above = |i: usize| if i % len > i / len { f32::NEG_INFINITY } else { 0.0 };
            let mask = Tensor::from_iter((0..len * len).map(above), &Device::Cpu)?.reshape((len, len))?;
            let mask = mask.to_dtype(case.dtype)?;
            Box::new(move |t| {
                let scores = (t[0].matmul(&t[1].t()?)? * scale as f64)?.broadcast_add(&mask)?;
                candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&t[2])
            })
        }
        "candle_nn" if case.dtype == DType::F32 => {
            // Its inputs are (B, T, H, D), its output (B, H, T, D).
            for x in &mut qkv {
                *x = x.transpose(1, 2)?.contiguous()?;
            }
            let mask = AttnMask::causal;
            Box::new(move |t| {
                candle_nn::attention::flash_attn::<f32>(&t[0], &t[1], &t[2], scale, mask(), None, None)
            })
        }
        _ => return absent(case),
    };
    Ok((qkv, op))
}

fn absent<T>(case: &Case) -> Result<T> {
    bail!("no such case: {case:?}")
}

/// A scalar whose gradient at its input is the tensor it holds: where `y.backward(g)` starts in PyTorch.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}
