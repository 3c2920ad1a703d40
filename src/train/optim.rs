//! AdamW with decoupled weight decay and clipping by the global norm.
//!
//! Loshchilov and Hutter, [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101), as PyTorch
//! computes it: `p -= lr decay p`, `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g²`,
//! `p -= lr / (1 - b1ᵗ) m / (sqrt(v / (1 - b2ᵗ)) + eps)`. Moments are `f32`.

use super::step::Gradients;
use crate::kernels::cpu::{self, simd};
use crate::kernels::{for_dtype, with_inputs};
use crate::ops::adamw::{Adam, Moments};
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Mutex;

/// The optimiser's constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// What a parameter loses of itself a step, times the learning rate.
    pub weight_decay: f64,
    /// Whether the moments' start at zero is corrected for.
    pub bias_correction: bool,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, bias_correction: true }
    }
}

/// The optimiser and its state.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    state: State,
}

/// The moments of all variables.
#[derive(Debug)]
enum State {
    /// First and second of each variable.
    Cpu(Vec<[Vec<f32>; 2]>),
    Gpu(Moments),
}

/// The first or second moment of a variable.
#[derive(Debug)]
pub enum Moment<'a> {
    /// Its elements.
    Cpu(&'a [f32]),
    /// As a view of a GPU's memory.
    Gpu(Tensor),
}

impl Moment<'_> {
    /// Its elements, which are waited for if a GPU has them.
    ///
    /// # Errors
    ///
    /// When the GPU has failed.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match self {
            Moment::Cpu(values) => Ok(values.to_vec()),
            Moment::Gpu(tensor) => tensor.flatten_all()?.to_vec1(),
        }
    }
}

simd! {
    fn adamw_run<>(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], keep: f32, rate: f32, b1: f32, b2: f32, root: f32, eps: f32, clip: f32) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
            let g = g * clip;
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            *p = *p * keep - rate * *m / (v.sqrt() * root + eps);
        }
    }

    fn sum_squares<>(x: &[f32]) -> f32 {
        cpu::sum_by(x.len(), |i| x[i] * x[i])
    }
}

/// Elements a task takes at a time.
const RUN: usize = 16 * 1024;

impl AdamW {
    /// An optimiser for these variables, which must be `f32`.
    ///
    /// # Errors
    ///
    /// When a variable is not `f32`.
    pub fn new(config: AdamWConfig, vars: &[(String, Var)]) -> Result<Self> {
        if let Some((name, var)) = vars.iter().find(|(_, var)| var.dtype() != candle_core::DType::F32) {
            bail!("adamw: wants variables of f32, got {name} in {:?}", var.dtype())
        }
        let zeros = |var: &Var| [vec![0f32; var.elem_count()], vec![0f32; var.elem_count()]];
        let state = match Moments::new(&tensors(vars))? {
            Some(moments) => State::Gpu(moments),
            None => State::Cpu(vars.iter().map(|(_, var)| zeros(var)).collect()),
        };
        Ok(AdamW { config, step: 0, state })
    }

    /// How many updates it has made.
    pub fn updates(&self) -> u64 {
        self.step
    }

    /// The first and second moment of each variable, in the order of [`AdamW::new`].
    ///
    /// # Errors
    ///
    /// None that a caller causes.
    pub fn moments(&self) -> Result<Vec<[Moment<'_>; 2]>> {
        match &self.state {
            State::Cpu(all) => Ok(all.iter().map(|[m, v]| [Moment::Cpu(m), Moment::Cpu(v)]).collect()),
            State::Gpu(all) => (0..all.len()).map(|i| Ok(all.of(i)?.map(Moment::Gpu))).collect(),
        }
    }

    /// Goes on after `updates` updates with these moments, in the order of [`AdamW::new`].
    ///
    /// # Errors
    ///
    /// When they are not of as many elements as the variables.
    pub fn restore(&mut self, updates: u64, moments: Vec<[Vec<f32>; 2]>) -> Result<()> {
        let wanted: Vec<usize> = match &self.state {
            State::Cpu(all) => all.iter().map(|[m, _]| m.len()).collect(),
            State::Gpu(all) => (0..all.len()).map(|i| all.elements(i)).collect(),
        };
        let sizes = moments.iter().map(|[m, v]| (m.len(), v.len()));
        if !sizes.eq(wanted.iter().map(|n| (*n, *n))) {
            bail!("adamw: wants the moments of {} variables, got others", wanted.len())
        }
        match &mut self.state {
            State::Cpu(all) => *all = moments,
            State::Gpu(all) => {
                for (i, [m, v]) in moments.iter().enumerate() {
                    all.set(i, [m, v])?;
                }
            }
        }
        self.step = updates;
        Ok(())
    }

    /// Updates every variable that has a gradient, the same ones in the same order as [`AdamW::new`] was given.
    /// Gradients are first scaled so that their global norm is at most `max_norm`. Returns the norm before that.
    ///
    /// A norm that is not finite changes nothing: the caller decides what a run does then.
    ///
    /// # Errors
    ///
    /// When a gradient has another shape than its variable.
    pub fn step(
        &mut self,
        vars: &[(String, Var)],
        gradients: &Gradients,
        lr: f64,
        max_norm: Option<f64>,
    ) -> Result<f64> {
        Ok(self.step_after(&[], vars, gradients, lr, max_norm)?.0)
    }

    /// As [`AdamW::step`], after the losses that the gradients are of, which are returned beside the norm: a GPU is
    /// waited for once. A loss that is not finite, too, changes nothing.
    ///
    /// # Errors
    ///
    /// As [`AdamW::step`].
    pub fn step_after(
        &mut self,
        losses: &[Tensor],
        vars: &[(String, Var)],
        gradients: &Gradients,
        lr: f64,
        max_norm: Option<f64>,
    ) -> Result<(f64, Vec<f32>)> {
        let AdamWConfig { betas: [b1, b2], eps, weight_decay, bias_correction } = self.config;
        let correction = |b: f64| if bias_correction { 1.0 - b.powf((self.step + 1) as f64) } else { 1.0 };
        let adam = Adam::new(
            (1.0 - lr * weight_decay) as f32,
            (lr / correction(b1)) as f32,
            [b1 as f32, b2 as f32],
            (1.0 / correction(b2).sqrt()) as f32,
            eps as f32,
        );
        let (norm, losses) = match &mut self.state {
            State::Gpu(moments) => {
                let of: Vec<_> = vars.iter().map(|(_, var)| gradients.get(var)).collect();
                let (norm, losses) = moments.step(&tensors(vars), &of, losses, max_norm, adam)?;
                (norm as f64, losses)
            }
            State::Cpu(moments) => {
                let losses: Vec<f32> = losses.iter().map(Tensor::to_scalar).collect::<Result<_>>()?;
                let norm = match losses.iter().all(|loss| loss.is_finite()) {
                    true => cpu_step(moments, vars, gradients, max_norm, adam)?,
                    false => f64::NAN,
                };
                (norm, losses)
            }
        };
        self.step += norm.is_finite() as u64;
        Ok((norm, losses))
    }
}

fn tensors(vars: &[(String, Var)]) -> Vec<&Tensor> {
    vars.iter().map(|(_, var)| var.as_tensor()).collect()
}

/// Updates variables on the CPU; the norm of their gradients.
fn cpu_step(
    moments: &mut [[Vec<f32>; 2]],
    vars: &[(String, Var)],
    gradients: &Gradients,
    max_norm: Option<f64>,
    adam: Adam,
) -> Result<f64> {
    let grads: Vec<Option<Vec<f32>>> =
        vars.iter().map(|(_, var)| gradients.get(var).map(read).transpose()).collect::<Result<_>>()?;
    let norm =
        grads.iter().flatten().flat_map(|g| g.chunks(RUN)).map(|g| sum_squares(g) as f64).sum::<f64>().sqrt();
    if !norm.is_finite() {
        return Ok(norm);
    }
    // As torch's clip_grad_norm_.
    let clip = max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
    for (((_, var), g), moments) in vars.iter().zip(&grads).zip(moments) {
        if let Some(g) = g {
            var.inplace_op1(&Update { adam, clip: clip as f32, g, moments: Mutex::new(moments) })?;
        }
    }
    Ok(norm)
}

fn read(g: &Tensor) -> Result<Vec<f32>> {
    with_inputs(
        "adamw",
        [&g.contiguous()?],
        |[g]| for_dtype!("adamw", g.dtype(), T => Ok(cpu::to_f32(g.slice::<T>()?))),
    )
}

/// One variable's update, in place.
struct Update<'a> {
    adam: Adam,
    clip: f32,
    g: &'a [f32],
    moments: Mutex<&'a mut [Vec<f32>; 2]>,
}

impl InplaceOp1 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(p), Some((from, to))) = (storage, layout.contiguous_offsets()) else {
            bail!("adamw: wants a contiguous f32 variable")
        };
        let p = &mut p[from..to];
        if p.len() != self.g.len() {
            bail!("adamw: wants a gradient of {} elements, got {}", p.len(), self.g.len())
        }
        let Adam { keep, rate, betas: [b1, b2], root, eps, .. } = self.adam;
        let mut moments = self.moments.lock().unwrap_or_else(|e| e.into_inner());
        let [m, v] = &mut **moments;
        let runs = p
            .par_chunks_mut(RUN)
            .zip(self.g.par_chunks(RUN))
            .zip(m.par_chunks_mut(RUN).zip(v.par_chunks_mut(RUN)));
        runs.for_each(|((p, g), (m, v))| adamw_run(p, g, m, v, keep, rate, b1, b2, root, eps, self.clip));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
