//! Linear layers of one input on a CUDA GPU, one product for all: `y = x [W1; W2; ..]ᵀ + b + onto`, each with its low-rank
//! update, or none of them. What queries, keys and values, or gate and up, are made by; one layer is the least case.
//!
//! The base product is added to a `y` that begins as all else: `s t Bᵀ + b + onto`, with `t = x [A1; A2; ..]ᵀ`. With
//! `u = s [g1 B1, g2 B2, ..]`: `dx = u [A1; A2; ..] + g W`, `dA = uᵀ x`, `dB = s gᵀ t`, and `onto` has the gradient `g`.

use super::linear::{FEW, Few, begun};
use super::lora_linear::Up;
use crate::kernels::casts;
use crate::kernels::gpu::{self, Buffer, Gpu, Operand};
use crate::kernels::tape::{contiguous, follow, in_order, plain, recording, tracked};
use crate::kernels::{Held, with_inputs};
use candle_core::{D, DType, Result, Tensor};

const OP: &str = "joined_linear";

/// The most ranks that parts have together.
const MOST: usize = 96;

/// One of the layers.
pub(crate) struct Part<'a> {
    /// Its outputs.
    pub outputs: usize,
    /// A `(rank, in)` and B `(outputs, rank)`, and what the update is multiplied by.
    pub lora: Option<(&'a Tensor, &'a Tensor, f64)>,
}

/// `x` `(.., in)` through layers of `weight` `(out, in)` and `bias` `(out)`, whose rows are those of `parts` one after the
/// other; plus `onto` `(.., out)`. None where this is no faster than each alone, or cannot be: the caller takes another way.
///
/// Gradients are recorded by a tape only.
///
/// # Errors
///
/// When the GPU has no room.
pub(crate) fn joined_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    parts: &[Part<'_>],
    onto: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let (n, k) = weight.dims2()?;
    let rows = x.elem_count() / k.max(1);
    let loras: Vec<_> = parts.iter().filter_map(|part| part.lora).collect();
    let rank = loras.first().map_or(Ok(0), |(a, ..)| a.dim(0))?;
    let factors = || loras.iter().flat_map(|(a, b, _)| [*a, *b]);
    let fits = x.device().is_cuda()
        && rows > 0
        && k > 0
        && x.dim(D::Minus1)? == k
        && weight.dtype() == x.dtype()
        && !tracked(weight)
        && !bias.is_some_and(tracked)
        && onto.is_none_or(|onto| onto.dtype() == x.dtype() && onto.elem_count() == rows * n)
        && (loras.is_empty() || loras.len() == parts.len())
        && loras.iter().all(|(a, b, _)| a.dims() == [rank, k] && b.dims()[1] == rank)
        && factors().all(|factor| factor.dtype() == DType::F32)
        && (1..=MOST).contains(&(rank * parts.len()).max(1))
        && Up::fits(x.dtype(), rank, parts.iter().map(|part| part.outputs))
        && Up::fits(x.dtype(), rank, [k].into_iter());
    let trained = [x].into_iter().chain(factors()).chain(onto).any(tracked);
    if !fits || (trained && !recording()) || (rows <= FEW && !loras.is_empty()) {
        return Ok(None);
    }
    let x = contiguous(x)?;
    let onto = onto.map(contiguous).transpose()?;
    let layers = Layers {
        weight: weight.contiguous()?,
        a: joined(loras.iter().map(|lora| lora.0), x.dtype(), (rank * parts.len(), k))?,
        b: joined(loras.iter().map(|lora| lora.1), x.dtype(), (n, rank))?,
        parts: parts.iter().map(|part| (part.outputs, part.lora.map_or(0.0, |lora| lora.2 as f32))).collect(),
        rank,
    };
    let Some(made) = gpu::on(&x, |gpu| layers.forward(gpu, &x, bias, onto.as_ref())) else { return Ok(None) };
    let (y, t) = made?;
    let inputs: Vec<Tensor> = [&x].into_iter().chain(factors()).chain(onto.as_ref()).cloned().collect();
    let needs: Vec<bool> = inputs.iter().map(tracked).collect();
    let of = x.clone();
    let backward = move |g: &Tensor| {
        let g = in_order(g)?;
        gpu::on(&g, |gpu| layers.backward(gpu, &of, t.as_ref(), &g, &needs))
            .unwrap_or_else(|| candle_core::bail!("{OP}: wants a gradient on the GPU"))
    };
    follow(&inputs.iter().collect::<Vec<_>>(), || Ok(y), backward).map(Some)
}

/// Factors one below the other in `dtype`, in `shape`.
fn joined<'a>(
    factors: impl Iterator<Item = &'a Tensor>,
    dtype: DType,
    shape: (usize, usize),
) -> Result<Option<Factors>> {
    let factors: Vec<&Tensor> = factors.collect();
    if factors.is_empty() {
        return Ok(None);
    }
    let held: Vec<Held<'_>> = factors.iter().map(|factor| Held::new(factor)).collect();
    let inputs: Vec<_> = held.iter().map(|held| held.input(OP)).collect();
    if let Some(copied) = casts::find(&inputs, dtype, shape) {
        return Ok(Some(Factors::Copied(copied)));
    }
    drop(inputs);
    drop(held);
    factors.first().map_or(Ok(()), |factor| plain(factor))?;
    let cast: Vec<Tensor> =
        factors.iter().map(|factor| factor.detach().to_dtype(dtype)).collect::<Result<_>>()?;
    Ok(Some(Factors::Made(Tensor::cat(&cast, 0)?)))
}

enum Factors {
    Copied(casts::Copied),
    Made(Tensor),
}

impl Factors {
    fn with<R>(&self, f: impl FnOnce(crate::kernels::Input<'_>) -> Result<R>) -> Result<R> {
        match self {
            Factors::Copied(copied) => f(copied.input(OP)),
            Factors::Made(made) => f(Held::new(made).input(OP)),
        }
    }
}

struct Layers {
    weight: Tensor,
    /// `(parts x rank, in)`.
    a: Option<Factors>,
    /// `(out, rank)`.
    b: Option<Factors>,
    parts: Vec<(usize, f32)>,
    rank: usize,
}

impl Layers {
    /// The output, and `t`.
    fn forward(
        &self,
        gpu: Gpu<'_>,
        x: &Tensor,
        bias: Option<&Tensor>,
        onto: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (n, k) = self.weight.dims2()?;
        let (m, ranks) = (x.elem_count() / k, self.rank * self.parts.len());
        let (bias, onto) = (bias.map(Held::new), onto.map(Held::new));
        let bias = bias.as_ref().map(|held| held.input(OP));
        let onto = onto.as_ref().map(|held| held.input(OP));
        with_inputs(OP, [x, &self.weight], |[xs, w]| {
            if Few::fits(gpu, xs, w)? {
                return Ok((Few { bias, onto, ..Few::of(xs, w) }.run(gpu)?.tensor(), None));
            }
            let base = [Operand::rows(xs, k), Operand::rows(w, k).t()];
            let (Some(a), Some(b)) = (&self.a, &self.b) else {
                let (mut y, beta) = match onto {
                    None => begun(gpu, xs, n, bias)?,
                    // Nothing of rank zero, onto what is there.
                    Some(_) => {
                        let mut y = begun(gpu, xs, n, None)?.0;
                        let (t, factor, parts) = (xs, w, &self.parts);
                        Up { t, factor, rank_first: false, rank: 0, bias, onto, parts }
                            .run(gpu, m, &mut y)?;
                        (y, 1.0)
                    }
                };
                gpu.product((m, n, k), 1.0, base[0], base[1], beta, &mut y, 0)?;
                return Ok((y.tensor(), None));
            };
            let mut t = Buffer::new(gpu, (m, ranks), x.dtype())?;
            a.with(|a| gpu.product((m, ranks, k), 1.0, base[0], Operand::rows(a, k).t(), 0.0, &mut t, 0))?;
            let mut y = begun(gpu, xs, n, None)?.0;
            b.with(|factor| {
                let (t, parts) = (t.input(OP), &self.parts);
                Up { t, factor, rank_first: false, rank: self.rank, bias, onto, parts }.run(gpu, m, &mut y)
            })?;
            gpu.product((m, n, k), 1.0, base[0], base[1], 1.0, &mut y, 0)?;
            Ok((y.tensor(), Some(t.tensor())))
        })
    }

    /// The gradients of `x`, of each part's A and B, and of what is added to.
    fn backward(
        &self,
        gpu: Gpu<'_>,
        x: &Tensor,
        t: Option<&Tensor>,
        g: &Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (n, k) = self.weight.dims2()?;
        let (m, rank, ranks) = (x.elem_count() / k, self.rank, self.rank * self.parts.len());
        let mut grads = vec![None; needs.len()];
        with_inputs(OP, [x, &self.weight, g], |[xs, w, gs]| {
            let mut dx = needs[0].then(|| Buffer::new(gpu, x.shape(), x.dtype())).transpose()?;
            let whole = Operand::rows(gs, n);
            let mut beta = 0.0;
            if let (Some(a), Some(b), Some(t)) = (&self.a, &self.b, t) {
                let mut u = Buffer::new(gpu, (m, ranks), g.dtype())?;
                let mut at = 0;
                for (i, (outputs, scale)) in self.parts.iter().enumerate() {
                    let part = Operand::columns(gs, n, at);
                    b.with(|b| {
                        let size = (m, rank, *outputs);
                        let b = Operand::columns(b, rank, at * rank);
                        gpu.product_into(size, *scale, part, b, 0.0, &mut u, (i * rank, ranks))
                    })?;
                    if needs[2 + 2 * i] {
                        let mut db = Buffer::new(gpu, (*outputs, rank), DType::F32)?;
                        let held = Held::new(t);
                        let t = Operand::columns(held.input(OP), ranks, i * rank);
                        gpu.product((*outputs, rank, m), *scale, part.t(), t, 0.0, &mut db, 0)?;
                        grads[2 + 2 * i] = Some(db.tensor());
                    }
                    at += outputs;
                }
                let u = u.input(OP);
                if let Some(dx) = &mut dx {
                    a.with(|factor| {
                        let parts = &[(k, 1.0)];
                        let (bias, onto) = (None, None);
                        Up { t: u, factor, rank_first: true, rank: ranks, bias, onto, parts }.run(gpu, m, dx)
                    })?;
                    beta = 1.0;
                }
                if (0..self.parts.len()).any(|i| needs[1 + 2 * i]) {
                    let mut da = Buffer::new(gpu, (ranks, k), DType::F32)?;
                    let size = (ranks, k, m);
                    gpu.product(
                        size,
                        1.0,
                        Operand::rows(u, ranks).t(),
                        Operand::rows(xs, k),
                        0.0,
                        &mut da,
                        0,
                    )?;
                    let da = da.tensor();
                    for i in 0..self.parts.len() {
                        grads[1 + 2 * i] =
                            needs[1 + 2 * i].then(|| da.narrow(0, i * rank, rank)).transpose()?;
                    }
                }
            }
            if let Some(dx) = &mut dx {
                gpu.product((m, k, n), 1.0, whole, Operand::rows(w, k), beta, dx, 0)?;
            }
            grads[0] = dx.map(Buffer::tensor);
            Ok(())
        })?;
        let factors = if self.a.is_some() { 2 * self.parts.len() } else { 0 };
        if needs.get(1 + factors).is_some_and(|needed| *needed) {
            grads[1 + factors] = Some(g.clone());
        }
        Ok(grads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::casts;
    use crate::kernels::tape::Tape;
    use crate::ops::near::{noise, off};
    use crate::ops::{LoraLinear, lora_linear};
    use candle_core::{Device, Var};

    /// The output and the gradients: of x, of what is added to, of each A and B.
    fn run(
        dtype: DType,
        device: &Device,
        (rows, k, outputs, rank): (usize, usize, &[usize], usize),
        (bias, onto): (bool, bool),
        together: bool,
    ) -> Result<Vec<Tensor>> {
        let n: usize = outputs.iter().sum();
        let at = |x: Tensor| x.to_dtype(DType::BF16)?.to_dtype(dtype)?.to_device(device);
        let (x, w) = (at(noise((rows, k), 2., 1)?)?, at(noise((n, k), 0.2, 2)?)?);
        let bias = bias.then(|| at(noise(n, 1., 3)?)).transpose()?;
        let onto = onto.then(|| at(noise((rows, n), 2., 4)?)).transpose()?;
        let g = at(noise((rows, n), 1., 5)?)?;
        let var = |shape, seed| Var::from_tensor(&noise(shape, 0.3, seed)?.to_device(device)?);
        let loras: Vec<_> = outputs
            .iter()
            .enumerate()
            .filter(|_| rank > 0)
            .map(|(i, outputs)| {
                let seed = 10 + 2 * i as u32;
                Ok((var((rank, k), seed)?, var((*outputs, rank), seed + 1)?, 0.5 + i as f64))
            })
            .collect::<Result<_>>()?;
        let mut leaves = vec![&x];
        leaves.extend(onto.as_ref());
        let mut factors: Vec<&Tensor> = loras.iter().map(|lora| lora.0.as_tensor()).collect();
        factors.extend(loras.iter().map(|lora| lora.1.as_tensor()));
        let (y, tape) = Tape::record(&leaves, || {
            if together {
                let parts: Vec<Part<'_>> = outputs
                    .iter()
                    .enumerate()
                    .map(|(i, outputs)| {
                        let lora = loras.get(i).map(|(a, b, s)| (a.as_tensor(), b.as_tensor(), *s));
                        Part { outputs: *outputs, lora }
                    })
                    .collect();
                let run = || joined_linear(&x, &w, bias.as_ref(), &parts, onto.as_ref());
                let copies = casts::Table::new(&factors, dtype)?;
                let y = casts::during(copies.as_ref(), run)?;
                return y.ok_or_else(|| candle_core::Error::Msg("wants a joined product".into()));
            }
            let mut at = 0;
            let mut parts = Vec::new();
            for (i, outputs) in outputs.iter().enumerate() {
                let weight = w.narrow(0, at, *outputs)?;
                let bias = bias.as_ref().map(|bias| bias.narrow(0, at, *outputs)).transpose()?;
                parts.push(match loras.get(i) {
                    Some((a, b, scale)) => {
                        let base = LoraLinear { weight, bias, scale: *scale, dropout: None };
                        lora_linear(&x, a, b, &base)?
                    }
                    None => crate::ops::linear(&x, &weight, bias.as_ref())?,
                });
                at += outputs;
            }
            // A tape sees no plain Candle op: one part at a time has its gradient.
            let mut y = parts[0].clone();
            if let ([_], Some(onto)) = (&parts[..], &onto) {
                y = crate::ops::add(&y, onto)?;
            }
            Ok(if parts.len() == 1 {
                y
            } else {
                crate::kernels::tape::follow(
                    &parts.iter().collect::<Vec<_>>(),
                    || match &onto {
                        Some(onto) => Tensor::cat(&parts, 1)? + onto,
                        None => Tensor::cat(&parts, 1),
                    },
                    {
                        let outputs = outputs.to_vec();
                        move |g| {
                            let mut at = 0;
                            outputs
                                .iter()
                                .map(|n| {
                                    let part = g.narrow(1, at, *n)?.contiguous()?;
                                    at += n;
                                    Ok(Some(part))
                                })
                                .collect()
                        }
                    },
                )?
            })
        })?;
        let gradients = tape.backward(&y, g.clone())?;
        let mut all = vec![y];
        all.extend(gradients.get(&x).cloned());
        for (a, b, _) in &loras {
            all.extend([gradients.get(a), gradients.get(b)].into_iter().flatten().cloned());
        }
        if together && let Some(onto) = &onto {
            let added = gradients.get(onto).ok_or_else(|| candle_core::Error::Msg("no gradient".into()))?;
            assert!(off(added, &g.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)? == 0.0);
        }
        Ok(all)
    }

    /// On the GPU of `METAL_CANDLE_TEST_DEVICE`, if it is one of CUDA's.
    #[test]
    fn layers_together_are_as_near_as_each_alone() -> Result<()> {
        let device =
            crate::device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into()))?;
        if !device.is_cuda() {
            return Ok(());
        }
        for sizes in [
            (5, 64, &[64usize, 32, 40][..], 16),
            (130, 96, &[96, 32], 8),
            (33, 64, &[72], 16),
            (257, 128, &[128, 64, 64], 32),
            (70, 64, &[64, 32, 32], 0),
            (3, 64, &[64, 32, 32], 0),
        ] {
            for dtype in [DType::BF16, DType::F16] {
                for (bias, onto) in [(false, false), (true, false), (true, true)] {
                    let with = (bias, onto);
                    let right = run(DType::F32, &Device::Cpu, sizes, with, false)?;
                    let together = run(dtype, &device, sizes, with, true)?;
                    let alone = run(dtype, &device, sizes, with, false)?;
                    assert_eq!(
                        (together.len(), right.len()),
                        (right.len(), 2 + 2 * sizes.2.len() * (sizes.3 > 0) as usize)
                    );
                    for (i, ((together, alone), right)) in together.iter().zip(&alone).zip(&right).enumerate()
                    {
                        let (ours, plain) = (off(together, right)?, off(alone, right)?);
                        assert!(
                            ours <= 2. * plain + 1e-6,
                            "{sizes:?} {dtype:?} {with:?} {i}: {ours} against {plain}"
                        );
                    }
                }
            }
        }
        Ok(())
    }
}
