//! The ops: one of this crate (`ours`), the same in plain Candle ops (`composed`), `candle_nn`'s own fused one where
//! it has one, which has no gradient (`candle_nn`), and the frozen product alone of a LoRA layer (`base`).
//!
//! Gradients of ours come from the trainer's tape, and with the variant `ours_backward` from Candle's `backward`, as
//! those of Candle's ops do.

use super::cases::{Case, Pass};
use super::measure::{Call, Prepared};
use super::{attention, steps};
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, Var, bail};
use metal_candle::ops::{self, Tape};
use std::rc::Rc;

const EPS: f32 = 1e-5;
const LORA_SCALE: f64 = 2.0;

/// A function of the tensors that have gradients; what is frozen, it holds. Gradients start at its last result.
pub type Op = Rc<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>>;

/// Inputs of a call, and the gradient that backward starts with.
struct Set {
    inputs: Vec<Tensor>,
    g: Tensor,
}

/// Prepares a case.
pub fn build(case: &Case) -> Result<Prepared> {
    match case.op.as_str() {
        "adamw" => return steps::adamw(case),
        "sample" => return steps::sample(case),
        _ => {}
    }
    let (inputs, op) = op(case)?;
    let g = match case.pass {
        Pass::Forward => Tensor::zeros((), DType::F32, &case.device)?,
        _ => {
            let y = last(op(&inputs)?)?;
            match y.rank() {
                0 => y.ones_like()?,
                _ => case.noise(9, 1.0, y.dims())?,
            }
        }
    };
    let set = |i: usize| {
        let own = |x: &Tensor| if i == 0 { Ok(x.clone()) } else { x.copy() };
        let set = Set { inputs: inputs.iter().map(own).collect::<Result<_>>()?, g: own(&g)? };
        Ok(Rc::new(set))
    };
    let sets = (0..case.sets).map(set).collect::<Result<Vec<_>>>()?;
    match (case.pass, case.variant.as_str()) {
        (Pass::Forward, _) => Ok(Prepared::new(sets.len(), move |i| {
            let (op, set) = (op.clone(), sets[i].clone());
            Ok(Box::new(move || op(&set.inputs)))
        })),
        (_, "base") => base_gradients(sets, op, case),
        (pass, "ours") => Ok(Prepared::new(sets.len(), move |i| {
            let (op, set) = (op.clone(), sets[i].clone());
            Ok(match pass {
                Pass::Both => Box::new(move || backward(record(&op, &set)?, &set, true)),
                _ => {
                    let recorded = record(&op, &set)?;
                    Box::new(move || backward(recorded, &set, false))
                }
            })
        })),
        (pass, _) => graph(sets, op, pass),
    }
}

fn record(op: &Op, set: &Set) -> Result<(Tensor, Tape)> {
    Tape::record(&set.inputs.iter().collect::<Vec<_>>(), || last(op(&set.inputs)?))
}

fn backward((y, tape): (Tensor, Tape), set: &Set, with_result: bool) -> Result<Vec<Tensor>> {
    let gradients = tape.backward(&y, set.g.clone())?;
    let mut results = if with_result { vec![y] } else { Vec::new() };
    for input in &set.inputs {
        match gradients.get(input) {
            Some(g) => results.push(g.clone()),
            None => bail!("no gradient"),
        }
    }
    Ok(results)
}

/// Gradients by Candle's `backward`.
fn graph(sets: Vec<Rc<Set>>, op: Op, pass: Pass) -> Result<Prepared> {
    let variables = |set: &Rc<Set>| set.inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>();
    let vars = sets.iter().map(variables).collect::<Result<Vec<_>>>()?;
    let inputs: Vec<Vec<Tensor>> =
        vars.iter().map(|vars| vars.iter().map(|v| v.as_tensor().clone()).collect()).collect();
    let forward = move |i: usize| -> Result<(Tensor, Tensor)> {
        let y = last(op(&inputs[i])?)?;
        let loss = match y.rank() {
            0 => y.clone(),
            _ => y.apply_op1(Seed(sets[i].g.clone()))?,
        };
        Ok((y, loss))
    };
    let gradients = |loss: &Tensor, vars: &[Var], results: &mut Vec<Tensor>| -> Result<()> {
        let mut grads = loss.backward()?;
        for var in vars {
            match grads.remove(var) {
                Some(g) => results.push(g),
                None => bail!("no gradient"),
            }
        }
        Ok(())
    };
    let count = vars.len();
    let (vars, forward) = (Rc::new(vars), Rc::new(forward));
    let losses = match pass {
        Pass::Backward => (0..count).map(|i| Ok(forward(i)?.1)).collect::<Result<Vec<_>>>()?,
        _ => Vec::new(),
    };
    Ok(Prepared::new(count, move |i| {
        let (vars, forward, loss) = (vars.clone(), forward.clone(), losses.get(i).cloned());
        Ok(Box::new(move || {
            let mut results = Vec::new();
            let loss = match loss {
                Some(loss) => loss,
                None => {
                    let (y, loss) = forward(i)?;
                    results.push(y.detach());
                    loss
                }
            };
            gradients(&loss, &vars[i], &mut results)?;
            Ok(results)
        }))
    }))
}

/// The two products that a frozen linear layer costs in training: `x Wᵀ` and `g W`.
fn base_gradients(sets: Vec<Rc<Set>>, op: Op, case: &Case) -> Result<Prepared> {
    let weight = frozen_weight(case, case.shape[1], case.shape[2])?;
    Ok(Prepared::new(sets.len(), move |i| {
        let (op, set, weight) = (op.clone(), sets[i].clone(), weight.clone());
        let call: Call = Box::new(move || Ok(vec![last(op(&set.inputs)?)?, set.g.matmul(&weight)?]));
        Ok(call)
    }))
}

fn frozen_weight(case: &Case, inputs: usize, outputs: usize) -> Result<Tensor> {
    case.noise(3, (inputs as f32).powf(-0.5), &[outputs, inputs])
}

fn op(case: &Case) -> Result<(Vec<Tensor>, Op)> {
    let s = case.shape.as_slice();
    let variant = case.variant.trim_end_matches("_backward");
    let noise = |seed: u32, std: f32, shape: &[usize]| case.noise(seed, std, shape);
    let width = s.last().copied().unwrap_or(1);
    let std = |n: usize| (n as f32).powf(-0.5);
    Ok(match (case.op.as_str(), s) {
        ("softmax", _) => (
            vec![noise(0, 2.0, s)?],
            match variant {
                "ours" => one(|t| ops::softmax_last_dim(&t[0])),
                "composed" => one(|t| candle_nn::ops::softmax(&t[0], D::Minus1)),
                "candle_nn" => one(|t| candle_nn::ops::softmax_last_dim(&t[0])),
                _ => return absent(case),
            },
        ),
        ("log_softmax", _) => (
            vec![noise(0, 2.0, s)?],
            match variant {
                "ours" => one(|t| ops::log_softmax(&t[0], D::Minus1)),
                "composed" => one(|t| candle_nn::ops::log_softmax(&t[0], D::Minus1)),
                _ => return absent(case),
            },
        ),
        ("rms_norm", _) => (
            vec![noise(0, 1.0, s)?, noise(1, 1.0, &[width])?],
            match variant {
                "ours" => one(|t| ops::rms_norm(&t[0], &t[1], EPS)),
                "composed" => one(|t| candle_nn::ops::rms_norm_slow(&t[0], &t[1], EPS)),
                "candle_nn" => one(|t| candle_nn::ops::rms_norm(&t[0], &t[1], EPS)),
                _ => return absent(case),
            },
        ),
        ("add_rms_norm", _) => (
            vec![noise(0, 1.0, s)?, noise(1, 1.0, s)?, noise(2, 1.0, &[width])?],
            match variant {
                "ours" => Rc::new(|t| {
                    let (sum, y) = ops::add_rms_norm(&t[0], &t[1], &t[2], EPS)?;
                    Ok(vec![sum, y])
                }),
                "composed" => Rc::new(|t| {
                    let sum = (&t[0] + &t[1])?;
                    let y = candle_nn::ops::rms_norm_slow(&sum, &t[2], EPS)?;
                    Ok(vec![sum, y])
                }),
                "candle_nn" => Rc::new(|t| {
                    let sum = (&t[0] + &t[1])?;
                    let y = candle_nn::ops::rms_norm(&sum, &t[2], EPS)?;
                    Ok(vec![sum, y])
                }),
                _ => return absent(case),
            },
        ),
        ("layer_norm", _) => (
            vec![noise(0, 1.0, s)?, noise(1, 1.0, &[width])?, noise(2, 1.0, &[width])?],
            match variant {
                "ours" => one(|t| ops::layer_norm(&t[0], &t[1], &t[2], EPS)),
                "composed" => one(|t| candle_nn::ops::layer_norm_slow(&t[0], &t[1], &t[2], EPS)),
                "candle_nn" => one(|t| candle_nn::ops::layer_norm(&t[0], &t[1], &t[2], EPS)),
                _ => return absent(case),
            },
        ),
        ("silu_mul" | "swiglu", _) => (
            vec![noise(0, 1.0, s)?, noise(1, 1.0, s)?],
            match variant {
                "ours" => one(|t| ops::silu_mul(&t[0], &t[1])),
                "composed" => one(|t| candle_nn::ops::silu(&t[0])? * &t[1]),
                _ => return absent(case),
            },
        ),
        ("geglu", _) => (
            vec![noise(0, 1.0, s)?, noise(1, 1.0, s)?],
            match variant {
                "ours" => one(|t| ops::gelu_mul(&t[0], &t[1])),
                "composed" => one(|t| t[0].gelu()? * &t[1]),
                _ => return absent(case),
            },
        ),
        ("cross_entropy", &[rows, classes]) => {
            let targets = targets(case, rows, classes)?;
            (
                vec![noise(0, 2.0, s)?],
                match variant {
                    "ours" => one(move |t| ops::cross_entropy(&t[0], &targets)),
                    "composed" => {
                        one(move |t| candle_nn::loss::cross_entropy(&t[0].to_dtype(DType::F32)?, &targets))
                    }
                    _ => return absent(case),
                },
            )
        }
        ("linear_cross_entropy", &[rows, hidden, classes]) => {
            let targets = targets(case, rows, classes)?;
            let head = noise(1, std(hidden), &[classes, hidden])?;
            (
                vec![noise(0, 1.0, &[rows, hidden])?],
                match variant {
                    "ours" => one(move |t| {
                        ops::linear_cross_entropy(&t[0], &head, &targets, &ops::CrossEntropy::default())
                    }),
                    "composed" => one(move |t| {
                        let logits = t[0].matmul(&head.t()?)?.to_dtype(DType::F32)?;
                        candle_nn::loss::cross_entropy(&logits, &targets)
                    }),
                    _ => return absent(case),
                },
            )
        }
        ("embedding", &[tokens, vocabulary, width]) => {
            let ids = targets(case, tokens, vocabulary)?.to_dtype(DType::U32)?;
            (
                vec![noise(0, 1.0, &[vocabulary, width])?],
                match variant {
                    "ours" => {
                        let ids = ids.unsqueeze(0)?;
                        one(move |t| ops::embedding(&ids, &t[0]))
                    }
                    "composed" => one(move |t| t[0].index_select(&ids, 0)),
                    _ => return absent(case),
                },
            )
        }
        ("linear", &[rows, inputs, outputs]) => {
            let w = noise(1, std(inputs), &[outputs, inputs])?;
            (
                vec![noise(0, 1.0, &[rows, inputs])?],
                match variant {
                    "ours" => one(move |t| ops::linear(&t[0], &w, None)),
                    "composed" => one(move |t| t[0].matmul(&w.t()?)),
                    _ => return absent(case),
                },
            )
        }
        ("lora_linear", &[rows, inputs, outputs, rank]) => {
            let weight = frozen_weight(case, inputs, outputs)?;
            let trained = vec![
                noise(0, 1.0, &[rows, inputs])?,
                noise(1, std(inputs), &[rank, inputs])?,
                noise(2, std(rank), &[outputs, rank])?,
            ];
            let op = match variant {
                "ours" => {
                    let base = ops::LoraLinear { weight, bias: None, scale: LORA_SCALE, dropout: None };
                    one(move |t| ops::lora_linear(&t[0], &t[1], &t[2], &base))
                }
                "composed" => one(move |t| {
                    let update = t[0].matmul(&t[1].t()?)?.matmul(&t[2].t()?)?;
                    t[0].matmul(&weight.t()?)? + (update * LORA_SCALE)?
                }),
                "base" => one(move |t| t[0].matmul(&weight.t()?)),
                _ => return absent(case),
            };
            (trained, op)
        }
        ("rope", &[_, _, len, dim]) => {
            let (cos, sin) = (noise(1, 1.0, &[len, dim / 2])?, noise(2, 1.0, &[len, dim / 2])?);
            (
                vec![noise(0, 1.0, s)?],
                match variant {
                    "ours" => one(move |t| ops::rope(&t[0], &cos, &sin)),
                    "composed" => one(move |t| candle_nn::rotary_emb::rope_slow(&t[0], &cos, &sin)),
                    "candle_nn" => one(move |t| candle_nn::rotary_emb::rope(&t[0], &cos, &sin)),
                    _ => return absent(case),
                },
            )
        }
        ("attention", &[_, _, len, dim]) => {
            let qkv = (0..3).map(|seed| noise(seed, 1.0, s)).collect::<Result<Vec<_>>>()?;
            attention::build(case, variant, qkv, len, std(dim))?
        }
        _ => return absent(case),
    })
}

/// An op of one result.
pub fn one(f: impl Fn(&[Tensor]) -> Result<Tensor> + 'static) -> Op {
    Rc::new(move |t| Ok(vec![f(t)?]))
}

fn last(mut results: Vec<Tensor>) -> Result<Tensor> {
    match results.pop() {
        Some(y) => Ok(y),
        None => bail!("no result"),
    }
}

fn targets(case: &Case, rows: usize, classes: usize) -> Result<Tensor> {
    Tensor::from_iter((0..rows).map(|i| (i * 7919 % classes) as i64), &case.device)
}

pub fn absent<T>(case: &Case) -> Result<T> {
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        Ok((super::cuda::zero(storage.device())?, Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}
