//! What products took on a machine, and where one backend overtakes another.

use super::site::Key;
use super::{Backend, Product};
use candle_core::DType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Of one product: `batch` times `(m, k)` by `(k, n)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// Products of one call.
    pub batch: usize,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of a sum.
    pub k: usize,
    /// Whether the first operand is the transpose of what is stored.
    pub a_transposed: bool,
    /// Whether the second is, as a weight `(out, in)` is.
    pub b_transposed: bool,
}

impl Shape {
    /// Of contiguous matrices, without transposes.
    pub fn new(batch: usize, m: usize, n: usize, k: usize) -> Self {
        Shape { batch, m, n, k, a_transposed: false, b_transposed: false }
    }

    /// With the second operand the transpose of what is stored.
    pub fn by_weight(self) -> Self {
        // Of one row or column the transpose is the same.
        Shape { b_transposed: self.n > 1 && self.k > 1, ..self }
    }

    pub(crate) fn of(product: &Product<'_>) -> Self {
        let [batch, m, n, k] = product.sizes();
        // Of one row or column either is the other.
        let flipped = |x: &super::View<'_>| x.transposed && x.rows > 1 && x.cols > 1;
        let (a_transposed, b_transposed) = (flipped(&product.a), flipped(&product.b));
        Shape { batch, m, n, k, a_transposed, b_transposed }
    }

    /// With the first operand the transpose of what is stored, as in the gradient of a weight.
    pub fn of_gradient(self) -> Self {
        Shape { a_transposed: self.m > 1 && self.k > 1, ..self }
    }

    /// Multiplications and additions.
    pub fn flops(&self) -> f64 {
        2.0 * self.batch as f64 * self.m as f64 * self.n as f64 * self.k as f64
    }

    /// What bounds it.
    pub fn class(&self) -> Class {
        /// Rows up to which a product is one read of the second operand.
        const FEW: usize = 4;
        /// The side of a factor of low rank.
        const THIN: usize = 64;
        match self {
            Shape { m: ..=FEW, .. } => Class::Few,
            Shape { batch: 2.., .. } => Class::Batched,
            _ if self.n.min(self.k) > THIN || self.m.max(self.n).max(self.k) <= 2 * THIN => Class::Wide,
            _ if self.k < self.n => Class::Up,
            _ => Class::Down,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flip = |flipped| if flipped { "ᵀ" } else { "" };
        let (a, b) = (flip(self.a_transposed), flip(self.b_transposed));
        let batch = if self.batch > 1 { format!("{} x ", self.batch) } else { String::new() };
        f.pad(&format!("{batch}{}x{}{a} by {}x{}{b}", self.m, self.k, self.k, self.n))
    }
}

/// Products that one bound holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Up to four rows, as in decoding: one read of the second operand.
    Few,
    /// To a low rank, as LoRA's first factor: `n` up to 64.
    Down,
    /// From a low rank, as LoRA's second factor: `k` up to 64.
    Up,
    /// Several matrices, as attention's.
    Batched,
    /// The rest: as fast as the arithmetic.
    Wide,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Class::Few => "few rows",
            Class::Down => "to rank",
            Class::Up => "from rank",
            Class::Batched => "batched",
            Class::Wide => "wide",
        })
    }
}

/// Microseconds of one product, each measured to a synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// The median.
    pub median_us: f64,
    /// A fifth is faster.
    pub p20_us: f64,
    /// A fifth is slower.
    pub p80_us: f64,
}

/// What one product took on each backend, interleaved in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// `f32`, `f16` or `bf16`.
    pub dtype: String,
    /// Of what.
    pub shape: Shape,
    /// By backend.
    pub times: BTreeMap<Backend, Timing>,
}

impl Entry {
    /// The backend that is chosen: the fastest, but candle's where that is within the noise of measuring.
    pub fn winner(&self) -> Backend {
        self.winner_for(User::Calls)
    }

    /// Takes what the backends took in another run as half of the truth.
    pub fn join(&mut self, again: &BTreeMap<Backend, Timing>) {
        let mean = |here: f64, there: f64| (here * there).sqrt();
        for (backend, here) in &mut self.times {
            let Some(there) = again.get(backend) else { continue };
            *here = Timing {
                median_us: mean(here.median_us, there.median_us),
                p20_us: mean(here.p20_us, there.p20_us),
                p80_us: mean(here.p80_us, there.p80_us),
            };
        }
    }

    pub(super) fn winner_for(&self, user: User) -> Backend {
        let admitted = self.times.iter().filter(|(backend, _)| user.admits(&self.dtype, **backend));
        user.fastest(admitted.map(|(backend, time)| (*backend, time.median_us)))
    }
}

/// Who multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// [`matmul`](super::matmul) and [`addmm`](super::addmm).
    Calls,
    /// Layers on a GPU, whose kernels add a bias or an update in the same pass.
    Layers,
}

/// What the usual backend may take more than the fastest and still be chosen.
const TIE: f64 = 1.005;

impl User {
    /// What is kept where it is within the noise of the fastest.
    pub fn usual(self) -> Backend {
        match self {
            User::Calls => Backend::Candle,
            User::Layers => Backend::Fused,
        }
    }

    /// Whether its products of a dtype may be a backend's. Layers call no cuBLASLt, and MPS would widen weights of bf16 for
    /// each product.
    pub fn admits(self, dtype: &str, backend: Backend) -> bool {
        match (self, backend) {
            (User::Calls, _) => true,
            (User::Layers, Backend::CublasLt) => false,
            (User::Layers, Backend::Mps | Backend::MpsVector) => dtype != "bf16",
            (User::Layers, _) => true,
        }
    }

    fn fastest(self, times: impl Iterator<Item = (Backend, f64)> + Clone) -> Backend {
        let best = times.clone().min_by(|a, b| a.1.total_cmp(&b.1));
        let Some((backend, time)) = best else { return self.usual() };
        match times.into_iter().any(|(b, t)| b == self.usual() && t <= TIE * time) {
            true => self.usual(),
            false => backend,
        }
    }
}

/// From how many operations on a backend is chosen for a dtype and class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// `f32`, `f16` or `bf16`.
    pub dtype: String,
    /// Of which products.
    pub class: Class,
    /// Of products whose second operand is the transpose of what is stored, as a weight is, or of the others.
    pub b_transposed: bool,
    /// Multiplications and additions from which on it holds.
    pub from_flops: f64,
    /// What is chosen.
    pub backend: Backend,
}

/// What was measured on a device, and the crossovers that follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// The format: 2.
    pub schema: u32,
    /// What it holds for.
    pub key: Key,
    /// The day of the latest measurement.
    pub date: String,
    /// In the order of dtype and shape, as [`Table::new`] puts them.
    pub entries: Vec<Entry>,
}

impl Table {
    /// The format's number.
    pub const SCHEMA: u32 = 2;

    /// Of entries; a later one of the same dtype and shape counts.
    pub fn new(key: Key, date: String, entries: impl IntoIterator<Item = Entry>) -> Self {
        let by_shape: BTreeMap<_, _> =
            entries.into_iter().map(|entry| ((entry.dtype.clone(), entry.shape), entry)).collect();
        Table { schema: Self::SCHEMA, key, date, entries: by_shape.into_values().collect() }
    }

    /// What was measured of exactly this product.
    pub fn entry(&self, dtype: DType, shape: &Shape) -> Option<&Entry> {
        let wanted = (dtype.as_str(), *shape);
        let at = self.entries.binary_search_by(|entry| (entry.dtype.as_str(), entry.shape).cmp(&wanted));
        at.ok().map(|at| &self.entries[at])
    }

    /// The crossovers, in order: those of a dtype and class by operations.
    pub fn rules(&self) -> Vec<Rule> {
        self.rules_for(User::Calls)
    }

    pub(crate) fn rules_for(&self, user: User) -> Vec<Rule> {
        let mut curves: BTreeMap<(&str, Class, bool), BTreeMap<u64, Vec<&Entry>>> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.shape.flops() >= 1.0) {
            let at = entry.shape.flops() as u64;
            let key = (entry.dtype.as_str(), entry.shape.class(), entry.shape.b_transposed);
            curves.entry(key).or_default().entry(at).or_default().push(entry);
        }
        let mut rules: Vec<Rule> = Vec::new();
        for ((dtype, class, b_transposed), points) in curves {
            let points: Vec<_> =
                points.iter().map(|(at, entries)| Point::of(*at as f64, entries, user)).collect();
            let mut last = None;
            let mut push = |from_flops: f64, backend| {
                if last.replace(backend) != Some(backend) {
                    rules.push(Rule { dtype: dtype.into(), class, b_transposed, from_flops, backend });
                }
            };
            for (i, point) in points.iter().enumerate() {
                let from = if i == 0 { 0.0 } else { points[i - 1].crossover(point) };
                push(from, point.winner);
            }
        }
        rules
    }
}

/// What a number of operations took: of several shapes of as many, the geometric mean for each backend.
struct Point {
    flops: f64,
    times: BTreeMap<Backend, f64>,
    winner: Backend,
}

impl Point {
    /// Of entries of one dtype.
    fn of(flops: f64, entries: &[&Entry], user: User) -> Self {
        let mut logs: BTreeMap<Backend, (f64, usize)> = BTreeMap::new();
        let admitted = |entry: &&Entry, backend| user.admits(&entry.dtype, backend);
        let times = entries.iter().flat_map(|entry| entry.times.iter().filter(|(b, _)| admitted(entry, **b)));
        for (backend, time) in times {
            let (sum, count) = logs.entry(*backend).or_default();
            *sum += time.median_us.max(1e-3).ln();
            *count += 1;
        }
        // One that was not measured for all of them cannot be compared.
        let times = logs.into_iter().filter(|(_, (_, count))| *count == entries.len());
        let times: BTreeMap<_, _> = times.map(|(b, (sum, count))| (b, (sum / count as f64).exp())).collect();
        let winner = user.fastest(times.iter().map(|(backend, time)| (*backend, *time)));
        Point { flops, times, winner }
    }

    /// Where, between this point and a larger one, the winner of that one overtakes the winner of this one: times are
    /// straight lines in logarithms of both.
    fn crossover(&self, next: &Point) -> f64 {
        let (here, there) = (self.winner, next.winner);
        let lead = |point: &Point| Some((point.times.get(&there)? / point.times.get(&here)?).ln());
        let at = match (lead(self), lead(next)) {
            (Some(before), Some(after)) if before > 0.0 && after < 0.0 => before / (before - after),
            _ => 0.5,
        };
        (self.flops.ln() + at * (next.flops.ln() - self.flops.ln())).exp()
    }
}
