//! What computes matrix products, and why.

use super::super::bench::matmul::{flops, in_words};
use crate::matmul::{self, Backend, Chosen, Rule, Shape, Table, Why, measure};
use candle_core::{DType, Device};
use serde::Serialize;

/// What computes the matrix products of a device.
#[derive(Serialize)]
pub struct Products {
    pub device: &'static str,
    /// What is known, and the crossovers that follow.
    pub choice: Vec<String>,
    /// What it comes to for some products.
    pub examples: Vec<Example>,
}

/// A product, and what computes it.
#[derive(Serialize)]
pub struct Example {
    pub product: String,
    pub dtype: &'static str,
    pub backend: Backend,
    pub why: String,
}

/// A row of decoding, a small product, the factors of a LoRA, a prompt's rows.
fn shapes() -> [Shape; 5] {
    [
        Shape::new(1, 1, 2048, 2048).by_weight(),
        Shape::new(1, 64, 64, 64),
        Shape::new(1, 512, 16, 2048).by_weight(),
        Shape::new(1, 512, 2048, 16).by_weight(),
        Shape::new(1, 512, 5632, 2048).by_weight(),
    ]
}

impl Products {
    /// Of a device; a table that is not used is named on stderr.
    pub fn of(device: &Device) -> Self {
        let name = match device {
            Device::Cpu => "CPU",
            Device::Cuda(_) => "CUDA",
            Device::Metal(_) => "Metal",
        };
        Self::read(name, device).unwrap_or_else(|error| Products {
            device: name,
            choice: vec![error.to_string()],
            examples: vec![],
        })
    }

    fn read(name: &'static str, device: &Device) -> candle_core::Result<Self> {
        let named = matmul::environment()?;
        let kept = measure::kept(device)?;
        let choice = match (named, &kept) {
            (Some(name), _) => {
                vec![format!("METAL_CANDLE_MATMUL={name}: {name} where it computes, else candle")]
            }
            (None, Some((path, table))) => {
                let count = table.entries.len();
                let what = format!("{count} measured on {}, in {}", table.date, path.display());
                std::iter::once(what).chain(in_words(&table.rules())).collect()
            }
            (None, None) => {
                let bf16 = if device.is_cpu() { ", in bf16 packed" } else { "" };
                vec![format!("candle{bf16}: nothing was measured; `metal-candle bench matmul` does")]
            }
        };
        let table = kept.map(|(_, table)| table);
        let rules = table.as_ref().map_or(vec![], Table::rules);
        let mut examples = Vec::new();
        for dtype in [DType::F32, DType::BF16] {
            for shape in shapes() {
                let chosen = matmul::choice(device, dtype, &shape)?;
                let why = why(chosen, named, table.as_ref(), &rules, dtype, &shape);
                let (product, backend) = (shape.to_string(), chosen.backend);
                examples.push(Example { product, dtype: dtype.as_str(), backend, why });
            }
        }
        Ok(Products { device: name, choice, examples })
    }
}

/// The reason, in words.
fn why(
    Chosen { backend, why }: Chosen,
    named: Option<Backend>,
    table: Option<&Table>,
    rules: &[Rule],
    dtype: DType,
    shape: &Shape,
) -> String {
    match why {
        Why::Forced => match named.filter(|named| *named != backend) {
            Some(named) => format!("{named} does not compute it"),
            None => "named by METAL_CANDLE_MATMUL".into(),
        },
        Why::Measured => {
            let times = table.and_then(|table| table.entry(dtype, shape)).map(|entry| &entry.times);
            let us = |backend| times.and_then(|times| times.get(&backend)).map_or(f64::NAN, |t| t.median_us);
            let others = times.into_iter().flatten().filter(|(other, _)| **other != backend);
            match others.map(|(other, _)| *other).min_by(|a, b| us(*a).total_cmp(&us(*b))) {
                Some(other) if us(other) >= us(backend) => {
                    format!("measured: {:.2} times as fast as {other}", us(other) / us(backend))
                }
                Some(other) => format!("measured: as fast as {other}, but for noise"),
                None => "measured alone".into(),
            }
        }
        Why::Fitted => {
            let Some(rule) = Rule::of(rules, dtype, shape) else { return "fitted".into() };
            let like = |next: &&Rule| {
                (&next.dtype, next.class, next.b_transposed) == (&rule.dtype, rule.class, rule.b_transposed)
            };
            match rules.iter().filter(like).find(|next| next.from_flops > rule.from_flops) {
                Some(next) => format!("fitted: {} from {} on", next.backend, flops(next.from_flops)),
                None if rule.from_flops > 0.0 => format!("fitted: from {} on", flops(rule.from_flops)),
                None => "fitted: at any size".into(),
            }
        }
        Why::Unmeasured => "not measured: the default".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::{Entry, Key, Timing};

    /// MPS overtakes where candle's product takes 200 µs; of one row nothing is known.
    fn table() -> Table {
        let key =
            Key { kind: "cpu".into(), device: "a".into(), system: "linux".into(), versions: "1".into() };
        let timing = |us: f64| Timing { median_us: us, p20_us: us, p80_us: us };
        let entries = [128, 256, 512, 1024].map(|n| {
            let shape = Shape::new(1, n, n, n);
            let us = shape.flops() / 1e6;
            let times = [(Backend::Candle, timing(us)), (Backend::Mps, timing(100.0 + us / 2.0))];
            Entry { dtype: "f32".into(), shape, times: times.into() }
        });
        Table::new(key, String::new(), entries)
    }

    #[test]
    fn a_reason_for_each_choice() {
        let (table, square) = (table(), |n| Shape::new(1, n, n, n));
        let rules = table.rules();
        let reason = |shape: Shape| {
            let chosen = table.choose(&rules, DType::F32, &shape);
            why(chosen, None, Some(&table), &rules, DType::F32, &shape)
        };
        assert_eq!(reason(square(1024)), "measured: 1.83 times as fast as candle");
        assert_eq!(reason(square(256)), "measured: 3.48 times as fast as mps");
        let below = reason(square(300));
        assert!(below.starts_with("fitted: mps from ") && below.ends_with(" MFLOP on"), "{below}");
        assert!(reason(square(2000)).starts_with("fitted: from "));
        assert_eq!(reason(Shape::new(1, 1, 2048, 2048)), "not measured: the default");
        let forced = |backend| {
            let chosen = Chosen { backend, why: Why::Forced };
            why(chosen, Some(Backend::Mps), None, &[], DType::F32, &square(8))
        };
        assert_eq!(forced(Backend::Mps), "named by METAL_CANDLE_MATMUL");
        assert_eq!(forced(Backend::Candle), "mps does not compute it");
    }

    #[test]
    fn a_tie_is_called_one() {
        let mut table = table();
        let entry = &mut table.entries[0];
        entry.times.insert(Backend::Mps, Timing { median_us: 4.15, p20_us: 4.1, p80_us: 4.2 });
        let (rules, shape) = (table.rules(), table.entries[0].shape);
        let chosen = table.choose(&rules, DType::F32, &shape);
        assert_eq!(chosen.backend, Backend::Candle);
        let text = why(chosen, None, Some(&table), &rules, DType::F32, &shape);
        assert_eq!(text, "measured: as fast as mps, but for noise");
    }
}
