//! What is no function of tensors with gradients: an optimiser's step, and the choice of a token.

use super::cases::Case;
use super::measure::Prepared;
use super::ops::absent;
use candle_core::{DType, Result, Tensor, Var, bail};
use candle_nn::Optimizer;
use metal_candle::generate::{Sampler, SamplerConfig};
use metal_candle::ops::{self, sample::Choice};
use metal_candle::train::optim::{AdamW, AdamWConfig};
use metal_candle::train::step::Gradients;
use std::cell::RefCell;
use std::rc::Rc;

const LR: f64 = 1e-3;
const DECAY: f64 = 0.01;
const TEMPERATURE: f32 = 0.8;

type Step = Box<dyn FnMut(&[(String, Var)]) -> Result<()>>;

/// A step of AdamW over the LoRA factors of a model: `[layers, hidden, key width, feed-forward width, rank]`, all
/// seven linear layers of each block.
pub fn adamw(case: &Case) -> Result<Prepared> {
    let &[layers, hidden, keys, wide, rank] = case.shape.as_slice() else { return absent(case) };
    let linears = [
        (hidden, hidden),
        (hidden, keys),
        (hidden, keys),
        (hidden, hidden),
        (hidden, wide),
        (hidden, wide),
        (wide, hidden),
    ];
    let factors = (0..layers).flat_map(|_| linears).flat_map(|(i, o)| [[rank, i], [o, rank]]);
    let (mut vars, mut grads) = (Vec::new(), Vec::new());
    for (i, shape) in factors.enumerate() {
        let seed = 2 * i as u32;
        vars.push((format!("{i}"), Var::from_tensor(&case.noise(seed, 0.02, &shape)?)?));
        grads.push(case.noise(seed + 1, 0.01, &shape)?);
    }
    let step: Step = match case.variant.as_str() {
        "ours" => {
            let mut gradients = Gradients::default();
            for ((_, var), g) in vars.iter().zip(grads) {
                gradients.add(var, g)?;
            }
            let config = AdamWConfig { weight_decay: DECAY, ..Default::default() };
            let mut optimizer = AdamW::new(config, &vars)?;
            Box::new(move |vars| optimizer.step(vars, &gradients, LR, None).map(|_| ()))
        }
        "candle_nn" => {
            // Only a backward makes a store of gradients.
            let mut store = vars[0].1.sum_all()?.backward()?;
            for ((_, var), g) in vars.iter().zip(grads) {
                store.insert(var, g);
            }
            let config = candle_nn::ParamsAdamW { lr: LR, weight_decay: DECAY, ..Default::default() };
            let mut optimizer =
                candle_nn::AdamW::new(vars.iter().map(|(_, var)| var.clone()).collect(), config)?;
            Box::new(move |_| optimizer.step(&store))
        }
        _ => return absent(case),
    };
    let (step, vars) = (Rc::new(RefCell::new(step)), Rc::new(vars));
    Ok(Prepared::new(1, move |_| {
        let (step, vars) = (step.clone(), vars.clone());
        Ok(Box::new(move || {
            (step.borrow_mut())(&vars)?;
            // The first two tell.
            Ok(vars.iter().take(2).map(|(_, var)| var.as_tensor().clone()).collect())
        }))
    }))
}

/// A token out of the logits of one row, known to the host: `[vocabulary, k, p in thousandths]`; 0 and 1000 are off.
pub fn sample(case: &Case) -> Result<Prepared> {
    let &[vocabulary, top_k, thousandths] = case.shape.as_slice() else { return absent(case) };
    if case.variant != "ours" {
        return absent(case);
    }
    let logits = Rc::new(case.noise(0, 3.0, &[1, vocabulary])?);
    let top_p = thousandths as f32 / 1000.0;
    let choice = Choice::draw(TEMPERATURE, top_k, top_p, 0.0, 0.5);
    let config =
        SamplerConfig { temperature: TEMPERATURE, top_k, top_p, seed: Some(1), ..Default::default() };
    let sampler = Rc::new(RefCell::new(Sampler::new(config).map_err(candle_core::Error::wrap)?));
    Ok(Prepared::new(1, move |_| {
        let (logits, sampler) = (logits.clone(), sampler.clone());
        Ok(Box::new(move || {
            let row = logits.to_dtype(DType::F32)?;
            let id = match ops::sample::sample(&row, &[choice])?.as_deref() {
                Some([Some((id, _))]) => *id,
                // As the generator does on the CPU, and where a GPU leaves a row to it.
                _ => {
                    let row = row.flatten_all()?.to_vec1::<f32>()?;
                    let mut sampler = sampler.borrow_mut();
                    sampler.sample(&row, &[], 0).map_err(candle_core::Error::wrap)?.id
                }
            };
            if id as usize >= vocabulary {
                bail!("sample: got the token {id} of {vocabulary}")
            }
            // Nothing to compare: every library has its own random numbers.
            Ok(Vec::<Tensor>::new())
        }))
    }))
}
