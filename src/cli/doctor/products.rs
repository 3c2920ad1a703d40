//! What computes matrix products, and why.

use super::super::bench::matmul::{flops, in_words, micros};
use crate::matmul::{self, Backend, Chosen, Entry, Rule, Shape, Table, User, Why, measure};
use candle_core::{DType, Device};
use serde::Serialize;
use std::collections::BTreeMap;

/// What computes the matrix products of a device.
#[derive(Serialize)]
pub struct Products {
    pub device: &'static str,
    /// What is known, and the crossovers that follow.
    pub choice: Vec<String>,
    /// What each backend took.
    pub measured: Vec<Entry>,
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
    /// What multiplies in a layer, and why, where that asks the table, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
}

/// In the order of their columns.
const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

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
            measured: vec![],
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
        let reasons = Reasons { named, table: table.as_ref() };
        let mut examples = Vec::new();
        for dtype in DTYPES {
            for shape in shapes() {
                let chosen = matmul::choice(device, dtype, &shape)?;
                let why = reasons.why(User::Calls, chosen, dtype, &shape);
                let layer = matmul::choice_of_layer(device, dtype, &shape)?;
                let layer = layer.map(|(user, chosen)| {
                    format!("{}, {}", chosen.backend, reasons.why(user, chosen, dtype, &shape))
                });
                let (product, backend) = (shape.to_string(), chosen.backend);
                examples.push(Example { product, dtype: dtype.as_str(), backend, why, layer });
            }
        }
        let measured = table.map_or(vec![], |table| table.entries);
        Ok(Products { device: name, choice, measured, examples })
    }

    /// What was measured, a product a line: what is chosen in each dtype, and the fastest of the others.
    pub fn table(&self) -> Vec<String> {
        let mut rows: BTreeMap<Shape, [String; DTYPES.len()]> = BTreeMap::new();
        for entry in &self.measured {
            let Some(column) = DTYPES.iter().position(|dtype| dtype.as_str() == entry.dtype) else {
                continue;
            };
            rows.entry(entry.shape).or_default()[column] = fastest(entry);
        }
        let line = |name: &str, cells: [&str; DTYPES.len()]| {
            let cells: String = cells.iter().map(|cell| format!("{cell:<28}")).collect();
            format!("{name:<24}{cells}").trim_end().to_string()
        };
        let head = line("measured, µs", DTYPES.map(|dtype| dtype.as_str()));
        let body = rows.iter().map(|(shape, cells)| line(&shape.to_string(), cells.each_ref().map(|c| &**c)));
        if rows.is_empty() { vec![] } else { std::iter::once(head).chain(body).collect() }
    }
}

/// What is chosen, and the fastest of the others.
fn fastest(entry: &Entry) -> String {
    let winner = entry.winner();
    let mut times: Vec<_> = entry.times.iter().map(|(backend, time)| (*backend, time.median_us)).collect();
    times.sort_by(|x, y| (x.0 != winner).cmp(&(y.0 != winner)).then(x.1.total_cmp(&y.1)));
    let cells: Vec<_> =
        times.iter().take(2).map(|(backend, us)| format!("{backend} {}", micros(*us))).collect();
    cells.join(", ")
}

/// What choices are made by.
struct Reasons<'a> {
    named: Option<Backend>,
    table: Option<&'a Table>,
}

impl Reasons<'_> {
    /// The reason, in words.
    fn why(&self, user: User, Chosen { backend, why }: Chosen, dtype: DType, shape: &Shape) -> String {
        let &Reasons { named, table } = self;
        match why {
            Why::Forced => match named.filter(|named| *named != backend) {
                Some(named) if !user.admits(dtype.as_str(), named) => format!("layers do not call {named}"),
                Some(named) => format!("{named} does not compute it"),
                None => "named by METAL_CANDLE_MATMUL".into(),
            },
            Why::Measured => {
                let times = table.and_then(|table| table.entry(dtype, shape)).map(|entry| &entry.times);
                let us =
                    |backend| times.and_then(|times| times.get(&backend)).map_or(f64::NAN, |t| t.median_us);
                let others = times.into_iter().flatten();
                let others =
                    others.filter(|(other, _)| **other != backend && user.admits(dtype.as_str(), **other));
                match others.map(|(other, _)| *other).min_by(|a, b| us(*a).total_cmp(&us(*b))) {
                    Some(other) if us(other) >= us(backend) => {
                        format!("measured: {:.2} times as fast as {other}", us(other) / us(backend))
                    }
                    Some(other) => format!("measured: as fast as {other}, but for noise"),
                    None => "measured alone".into(),
                }
            }
            Why::Fitted => {
                let rules = table.map_or(vec![], |table| table.rules_for(user));
                let Some(rule) = Rule::of(&rules, dtype, shape) else { return "fitted".into() };
                let like = |next: &&Rule| {
                    (&next.dtype, next.class, next.b_transposed)
                        == (&rule.dtype, rule.class, rule.b_transposed)
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
            Reasons { named: None, table: Some(&table) }.why(User::Calls, chosen, DType::F32, &shape)
        };
        assert_eq!(reason(square(1024)), "measured: 1.83 times as fast as candle");
        assert_eq!(reason(square(256)), "measured: 3.48 times as fast as mps");
        let below = reason(square(300));
        assert!(below.starts_with("fitted: mps from ") && below.ends_with(" MFLOP on"), "{below}");
        assert!(reason(square(2000)).starts_with("fitted: from "));
        assert_eq!(reason(Shape::new(1, 1, 2048, 2048)), "not measured: the default");
        let forced = |backend| {
            let chosen = Chosen { backend, why: Why::Forced };
            let reasons = Reasons { named: Some(Backend::Mps), table: None };
            reasons.why(User::Calls, chosen, DType::F32, &square(8))
        };
        assert_eq!(forced(Backend::Mps), "named by METAL_CANDLE_MATMUL");
        assert_eq!(forced(Backend::Candle), "mps does not compute it");
    }

    #[test]
    fn a_tie_is_called_one() {
        let mut table = table();
        let entry = &mut table.entries[0];
        entry.times.insert(Backend::Mps, Timing { median_us: 4.19, p20_us: 4.1, p80_us: 4.2 });
        let (rules, shape) = (table.rules(), table.entries[0].shape);
        let chosen = table.choose(&rules, DType::F32, &shape);
        assert_eq!(chosen.backend, Backend::Candle);
        let reasons = Reasons { named: None, table: Some(&table) };
        let text = reasons.why(User::Calls, chosen, DType::F32, &shape);
        assert_eq!(text, "measured: as fast as mps, but for noise");
    }

    #[test]
    fn a_layer_has_reasons_of_its_own_and_a_table_a_line_for_each_product() {
        let timing = |us: f64| Timing { median_us: us, p20_us: us, p80_us: us };
        let shape = Shape::new(1, 1, 512, 512).by_weight();
        let entry = |dtype: &str, us: [f64; 3]| {
            let backends = [Backend::Candle, Backend::CublasLt, Backend::Fused];
            let times = backends.into_iter().zip(us.map(timing)).collect();
            Entry { dtype: dtype.into(), shape, times }
        };
        let entries = [entry("f32", [10.0, 5.0, 8.0]), entry("f16", [100.0, 101.0, 120.0])];
        let table = Table::new(table().key, String::new(), entries);
        let reasons = Reasons { named: None, table: Some(&table) };
        let of = |user| {
            let chosen = table.choose_for(user, &table.rules_for(user), DType::F32, &shape);
            (chosen.backend, reasons.why(user, chosen, DType::F32, &shape))
        };
        assert_eq!(of(User::Calls), (Backend::CublasLt, "measured: 1.60 times as fast as fused".into()));
        // A layer calls no cuBLASLt: what that took is no reason.
        assert_eq!(of(User::Layers), (Backend::Fused, "measured: 1.25 times as fast as candle".into()));
        let products = Products { device: "CUDA", choice: vec![], measured: table.entries, examples: vec![] };
        let lines = products.table();
        let words: Vec<String> =
            lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            words,
            [
                "measured, µs f32 bf16 f16",
                "1x512 by 512x512ᵀ cublaslt 5.00, fused 8.00 candle 100, cublaslt 101",
            ]
        );
        // What was not measured leaves its column empty.
        let columns = ["f16", "candle 100"].map(|text| lines.iter().find_map(|line| line.find(text)));
        assert_eq!(lines[0].chars().position(|c| c == 'b'), Some(24 + 28));
        assert!(columns.iter().all(Option::is_some), "{lines:?}");
    }
}
