//! Several adapters as one: Σ wᵢ sᵢ Bᵢ Aᵢ is one product of the factors side by side.
//!
//! ```text
//! A = [A₁; A₂; …]   B = [w₁ s₁ B₁, w₂ s₂ B₂, …]   scale = 1
//! ```
//!
//! It is exact; ranks add up. A DoRA has no such sum, its norm being of the whole weight.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Tensor};

use super::{Adapter, LoraPair, PeftConfig, grid, module_of};
use crate::{Error, Result};

/// An adapter and its part in a sum.
#[derive(Debug)]
pub struct Weighted {
    /// Names it in errors.
    pub name: String,
    /// The adapter.
    pub adapter: Adapter,
    /// What its update is multiplied by.
    pub weight: f64,
}

/// The weighted sum of adapters as one adapter, its factors in f32; a single one of weight 1 as it is.
///
/// # Errors
///
/// When there is none; when a DoRA or modules trained whole would have to be added to another adapter or
/// multiplied; when adapters disagree on the sizes of a module.
pub fn combine(mut adapters: Vec<Weighted>) -> Result<Adapter> {
    if let Some(bad) = adapters.iter().find(|part| !part.weight.is_finite()) {
        return Err(Error::wants(
            format!("weight of {}", bad.name),
            "a finite number",
            bad.weight.to_string(),
        ));
    }
    if adapters.len() == 1 && adapters[0].weight == 1.0 {
        return Ok(adapters.remove(0).adapter);
    }
    let Some(first) = adapters.first() else {
        return Err(Error::wants("adapters", "at least one", "none"));
    };
    let (base, dropout) =
        (first.adapter.config.base_model_name_or_path.clone(), first.adapter.config.lora_dropout);
    let saved = saved(&adapters)?;

    let mut parts: BTreeMap<&String, Vec<(Tensor, Tensor)>> = BTreeMap::new();
    for Weighted { name, adapter, weight } in &adapters {
        if adapter.config.use_dora {
            let wants = "adapters that add up, or a DoRA alone with weight 1";
            return Err(Error::wants(name.as_str(), wants, "a DoRA (use_dora)"));
        }
        for (module, LoraPair { a, b, .. }) in &adapter.tensors {
            let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
            let b = (b * (weight * adapter.config.scale(module)?))?;
            parts.entry(module).or_default().push((a, b));
        }
    }
    let mut problems = Vec::new();
    let mut tensors = BTreeMap::new();
    for (module, parts) in parts {
        let (a, b): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let sizes: BTreeSet<_> = a.iter().zip(&b).map(|(a, b)| (a.dims()[1], b.dims()[0])).collect();
        if sizes.len() > 1 {
            let sizes: Vec<_> =
                sizes.iter().map(|(inputs, outputs)| format!("({outputs}, {inputs})")).collect();
            problems.push((
                module.clone(),
                format!("wants adapters of one weight, got of {}", sizes.join(" and ")),
            ));
            continue;
        }
        let pair = LoraPair { a: Tensor::cat(&a, 0)?, b: Tensor::cat(&b, 1)?, magnitude: None };
        tensors.insert(module.clone(), pair);
    }
    super::refuse("the adapters together".as_ref(), problems)?;

    let rank = |pair: &LoraPair| pair.a.dims()[0];
    let r = tensors.values().map(rank).next().unwrap_or(PeftConfig::default().r);
    let others = || tensors.iter().filter(|(_, pair)| rank(pair) != r);
    let (target_modules, layers_to_transform) = grid::choice(tensors.keys(), true);
    let config = PeftConfig {
        base_model_name_or_path: base,
        r,
        lora_alpha: r as f64,
        lora_dropout: dropout,
        target_modules,
        layers_to_transform,
        rank_pattern: others().map(|(module, pair)| (module.clone(), rank(pair))).collect(),
        alpha_pattern: others().map(|(module, pair)| (module.clone(), rank(pair) as f64)).collect(),
        modules_to_save: saved
            .keys()
            .map(|weight| module_of(weight).to_string())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        ..PeftConfig::default()
    };
    Ok(Adapter { config, tensors, saved })
}

/// The modules trained whole; each must be one adapter's alone.
fn saved(adapters: &[Weighted]) -> Result<BTreeMap<String, Tensor>> {
    let mut saved = BTreeMap::new();
    for (i, Weighted { name, adapter, weight }) in adapters.iter().enumerate() {
        for (key, tensor) in &adapter.saved {
            let module = module_of(key);
            let changes =
                |other: &Adapter| other.tensors.contains_key(module) || other.saved.contains_key(key);
            let other = adapters.iter().enumerate().find(|(j, other)| *j != i && changes(&other.adapter));
            let got = match other {
                Some((_, other)) => format!("{} for it, too", other.name),
                None if *weight != 1.0 => format!("{weight}"),
                None => {
                    saved.insert(key.clone(), tensor.clone());
                    continue;
                }
            };
            let what = format!("{name}: modules_to_save: {module}");
            return Err(Error::wants(what, "weight 1 and no other adapter of a module trained whole", got));
        }
    }
    Ok(saved)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn adapter(r: usize, alpha: f64, modules: &[&str]) -> Adapter {
        let random = |shape: (usize, usize)| Tensor::randn(0f32, 1., shape, &Device::Cpu).unwrap();
        let pair = || LoraPair { a: random((r, 6)), b: random((5, r)), magnitude: None };
        let tensors = modules.iter().map(|module| (module.to_string(), pair())).collect();
        let config = PeftConfig { r, lora_alpha: alpha, ..PeftConfig::default() };
        Adapter { config, tensors, saved: BTreeMap::new() }
    }

    fn update(adapter: &Adapter, module: &str) -> Tensor {
        let Some(pair) = adapter.tensors.get(module) else {
            return Tensor::zeros((5, 6), DType::F32, &Device::Cpu).unwrap();
        };
        (pair.b.matmul(&pair.a).unwrap() * adapter.config.scale(module).unwrap()).unwrap()
    }

    fn weighted(name: &str, adapter: Adapter, weight: f64) -> Weighted {
        Weighted { name: name.to_string(), adapter, weight }
    }

    #[test]
    fn the_update_is_the_weighted_sum() {
        let (q, k) = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj");
        let parts = || [adapter(3, 6.0, &[q]), adapter(2, 7.0, &[q, k])];
        let [one, two] = parts();
        let wanted =
            [q, k].map(|m| ((update(&one, m) * 0.7).unwrap() - (update(&two, m) * 1.3).unwrap()).unwrap());
        let sum = combine(vec![weighted("one", one, 0.7), weighted("two", two, -1.3)]).unwrap();
        for (module, wanted) in [q, k].into_iter().zip(wanted) {
            let off = (update(&sum, module) - wanted).unwrap().abs().unwrap().max_all().unwrap();
            assert!(off.to_scalar::<f32>().unwrap() < 1e-5, "{module}");
        }
        assert_eq!((sum.config.rank(q).unwrap(), sum.config.rank(k).unwrap()), (5, 2));

        // What comes out is an adapter as any other.
        let dir = tempfile::tempdir().unwrap();
        super::super::write(dir.path(), &sum).unwrap();
        assert_eq!(super::super::read(dir.path()).unwrap().config, sum.config);
    }

    #[test]
    fn what_does_not_add_up_is_refused_by_name() {
        let q = "model.layers.0.self_attn.q_proj";
        let plain = || weighted("plain", adapter(2, 2.0, &[q]), 1.0);
        let refused = |other: Weighted| combine(vec![plain(), other]).unwrap_err().to_string();
        let with = |change: &dyn Fn(&mut Adapter), weight: f64| {
            let mut adapter = adapter(2, 2.0, &["lm_head"]);
            change(&mut adapter);
            weighted("other", adapter, weight)
        };
        let whole = |name: &'static str| {
            move |adapter: &mut Adapter| {
                let tensor = Tensor::zeros((5, 6), DType::F32, &Device::Cpu).unwrap();
                adapter.tensors.clear();
                adapter.saved.insert(format!("{name}.weight"), tensor);
            }
        };
        assert!(
            refused(with(&|a| a.config.use_dora = true, 1.0)).contains("other: wants adapters that add up")
        );
        assert!(refused(with(&|_| {}, f64::NAN)).contains("weight of other: wants a finite number"));
        assert!(
            refused(with(&whole("lm_head"), 0.5)).contains("other: modules_to_save: lm_head: wants weight 1")
        );
        assert!(refused(with(&whole(q), 1.0)).contains("got plain for it, too"));
        let other = adapter(2, 2.0, &[q]);
        let narrow = LoraPair {
            a: Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap(),
            ..other.tensors[q].clone()
        };
        assert!(
            refused(with(
                &|a| {
                    a.tensors.insert(q.to_string(), narrow.clone());
                },
                1.0
            ))
            .contains("(5, 4) and (5, 6)")
        );
        assert!(combine(Vec::new()).unwrap_err().to_string().contains("wants at least one"));

        let sum = combine(vec![plain(), with(&whole("lm_head"), 1.0)]).unwrap();
        assert_eq!((sum.saved.len(), sum.config.modules_to_save), (1, vec!["lm_head".to_string()]));
    }
}
