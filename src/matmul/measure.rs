//! What each backend takes here, measured: interleaved, each sample to a synchronisation.

use super::site::Site;
use super::{Backend, Entry, Shape, Table, Timing, choose, matmul, store, with_backend};
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// About the shortest sample: products of less are repeated in it, and it ends with a synchronisation.
const SAMPLE: Duration = Duration::from_micros(300);
/// The most products of a sample.
const REPEATS: usize = 256;
/// The fewest samples of a backend.
const SAMPLES: usize = 5;
/// How far a median may be from that of endless samples, as a share of it: a backend that is 3 % faster is found out.
const DOUBT: f64 = 0.007;
/// How many budgets are spent at most on removing the doubt.
const PATIENCE: u32 = 10;
/// Which backends the doubt counts of: those of less than so many times the least median.
const CONTENDER: f64 = 1.25;

/// What a model's layers multiply, and squares: to measure a device with.
pub fn grid(device: &Device) -> Vec<Shape> {
    let largest = if device.is_cpu() { 2048 } else { 4096 };
    let squares = [64, 128, 256, 512, 1024, 2048, 4096].into_iter().filter(|n| *n <= largest);
    let mut shapes: Vec<_> = squares.map(|n| Shape::new(1, n, n, n)).collect();
    // Decoding: a row, and a few, against weights `(out, in)`.
    for n in [2048, 5632] {
        shapes.push(Shape::new(1, 1, n, 2048));
    }
    for (m, n, k) in [(1, 896, 896), (1, 2048, 2048), (1, 5632, 2048), (1, 2048, 5632)] {
        shapes.push(Shape::new(1, m, n, k).by_weight());
    }
    for m in [2, 4] {
        shapes.push(Shape::new(1, m, 2048, 2048).by_weight());
    }
    // A chunk of a prompt, and a training batch's rows.
    for (m, n, k) in [(128, 896, 896), (512, 2048, 2048), (512, 5632, 2048)] {
        shapes.push(Shape::new(1, m, n, k).by_weight());
    }
    // The gradient of a weight.
    shapes.push(Shape::new(1, 2048, 2048, 512).of_gradient());
    // LoRA's factors of rank 16, of a prompt's rows and of a batch's.
    for rows in [512, 4096] {
        for (n, k) in [(16, 2048), (2048, 16)] {
            shapes.push(Shape::new(1, rows, n, k).by_weight());
        }
    }
    // Attention's heads.
    shapes.push(Shape::new(16, 128, 128, 64).by_weight());
    shapes.push(Shape::new(16, 128, 64, 128));
    shapes.push(Shape::new(8, 512, 512, 64).by_weight());
    shapes
}

/// What computes products on a device.
///
/// # Errors
///
/// When the device is not of this build.
pub fn backends(device: &Device) -> candle_core::Result<Vec<Backend>> {
    Ok(Backend::on(Site::on(device)?).collect())
}

/// Times a product on every backend of a device that computes it, in turns, for at least `budget`; for up to ten of it
/// while the samples leave in doubt which is the fastest.
///
/// # Errors
///
/// When a product fails.
pub fn entry(device: &Device, dtype: DType, shape: Shape, budget: Duration) -> candle_core::Result<Entry> {
    let backends = computing(device, dtype, &shape)?;
    let who: Vec<_> = backends.iter().copied().map(Some).collect();
    let times = backends.into_iter().zip(timed(device, dtype, shape, budget, &who)?).collect();
    Ok(Entry { dtype: dtype.as_str().into(), shape, times })
}

/// What the choice by table took beside every backend, in a run of its own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// `f32`, `f16` or `bf16`.
    pub dtype: String,
    /// Of what.
    pub shape: Shape,
    /// What the table chose.
    pub chosen: Backend,
    /// With the choice, as a caller of [`matmul`] has it.
    pub auto: Timing,
    /// The backend of the least median in this run.
    pub best: Backend,
    /// That median.
    pub best_us: f64,
    /// What each backend took in this run.
    pub times: BTreeMap<Backend, Timing>,
}

impl Check {
    /// The median of the choice over that of the best backend.
    pub fn of_best(&self) -> f64 {
        self.auto.median_us / self.best_us
    }
}

/// Times a product as the table of this process chooses, in turns with every backend, as [`entry`] does.
///
/// # Errors
///
/// When a product fails, or `METAL_CANDLE_MATMUL` names no backend.
pub fn check(device: &Device, dtype: DType, shape: Shape, budget: Duration) -> candle_core::Result<Check> {
    let backends = computing(device, dtype, &shape)?;
    let chosen = choose::choice(device, dtype, &shape)?.backend;
    let who: Vec<_> = std::iter::once(None).chain(backends.iter().copied().map(Some)).collect();
    let mut times = timed(device, dtype, shape, budget, &who)?.into_iter();
    let auto = times.next().unwrap_or(Timing { median_us: f64::NAN, p20_us: f64::NAN, p80_us: f64::NAN });
    let times: BTreeMap<_, _> = backends.into_iter().zip(times).collect();
    let medians = times.iter().map(|(backend, time)| (*backend, time.median_us));
    let (best, best_us) = medians.min_by(|x, y| x.1.total_cmp(&y.1)).unwrap_or((chosen, f64::NAN));
    Ok(Check { dtype: dtype.as_str().into(), shape, chosen, auto, best, best_us, times })
}

/// The backends of a device that compute a product.
fn computing(device: &Device, dtype: DType, shape: &Shape) -> candle_core::Result<Vec<Backend>> {
    let site = Site::on(device)?;
    Ok(Backend::on(site).filter(|backend| backend.computes(site, dtype, shape)).collect())
}

/// What a product takes on each backend, or by the choice where that is none.
fn timed(
    device: &Device,
    dtype: DType,
    shape: Shape,
    budget: Duration,
    who: &[Option<Backend>],
) -> candle_core::Result<Vec<Timing>> {
    let Shape { batch, m, n, k, a_transposed, b_transposed } = shape;
    let operand = |rows: usize, cols: usize, transposed: bool| -> candle_core::Result<Tensor> {
        let dims = if transposed { [batch, cols, rows] } else { [batch, rows, cols] };
        let x = Tensor::randn(0f32, 1.0, &dims, device)?.to_dtype(dtype)?;
        let x = if transposed { x.transpose(1, 2)? } else { x };
        if batch == 1 { x.squeeze(0) } else { Ok(x) }
    };
    let (a, b) = (operand(m, k, a_transposed)?, operand(k, n, b_transposed)?);
    let sample = |backend: Option<Backend>, repeats: usize| -> candle_core::Result<Duration> {
        let start = Instant::now();
        for _ in 0..repeats {
            match backend {
                Some(backend) => with_backend(backend, || matmul(&a, &b))?,
                None => matmul(&a, &b)?,
            };
        }
        device.synchronize()?;
        Ok(start.elapsed())
    };
    // The first call makes what later ones find made; the others say how many fill a sample.
    let once = |backend: &Option<Backend>| -> candle_core::Result<f64> {
        sample(*backend, 1)?;
        let times = (0..3).map(|_| sample(*backend, 1)).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(times.into_iter().min().unwrap_or_default().as_secs_f64().max(1e-7))
    };
    let once = who.iter().map(once).collect::<candle_core::Result<Vec<_>>>()?;
    let least = once.iter().copied().fold(f64::INFINITY, f64::min);
    // A call after another backend's finds colder caches than one after its own: the fast have as many of those each.
    let of = |one: f64| SAMPLE.as_secs_f64() / if one < 2.0 * least { least } else { one };
    let repeats: Vec<_> = once.into_iter().map(|one| (of(one).ceil() as usize).clamp(1, REPEATS)).collect();
    let mut samples = vec![Vec::new(); who.len()];
    let mut order: Vec<_> = (0..who.len()).collect();
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let start = Instant::now();
    let (mut count, mut enough) = (0, SAMPLES);
    while start.elapsed() < budget || count < enough {
        // In another order each time: no backend is always the one after the same other, whose caches it finds.
        order.shuffle(&mut random);
        for &i in &order {
            samples[i].push(sample(who[i], repeats[i])?.as_secs_f64() * 1e6 / repeats[i] as f64);
        }
        count += 1;
        let spent = start.elapsed();
        if count >= enough && (budget..budget * PATIENCE).contains(&spent) {
            let doubtful = in_doubt(&calmer(&samples));
            if !doubtful.is_empty() {
                order = doubtful;
                enough = count * 9 / 8 + 1;
            }
        }
    }
    Ok(calmer(&samples).into_iter().map(Timing::of).collect())
}

/// The samples of the calmer half of the turns: what else the machine does, and the pace it is at, last for many turns, and
/// a median of two paces says more of how many turns fell to each than of a backend.
fn calmer(samples: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let turns = samples.iter().map(Vec::len).max().unwrap_or(0);
    // Of all alike, the fast and the slow. Who was left out of later turns says nothing of them.
    let always = samples.iter().filter(|samples| samples.len() == turns);
    let relative = always.map(|samples| (samples, Timing::of(samples.clone()).median_us));
    let relative: Vec<_> = relative.collect();
    let pace = |turn: usize| relative.iter().map(|(samples, median)| samples[turn] / median).sum::<f64>();
    let paces: Vec<f64> = (0..turns).map(pace).collect();
    let most = Timing::of(paces.clone()).median_us;
    let of = |samples: &Vec<f64>| {
        let calm = samples.iter().zip(&paces).filter(|(_, pace)| **pace <= most).map(|(sample, _)| *sample);
        Some(calm.collect::<Vec<_>>()).filter(|calm| !calm.is_empty()).unwrap_or_else(|| samples.clone())
    };
    samples.iter().map(of).collect()
}

/// Those of whom more samples may change which median is the least.
fn in_doubt(samples: &[Vec<f64>]) -> Vec<usize> {
    let medians = samples.iter().map(|samples| {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |rank: f64| sorted[(rank.max(0.0) as usize).min(sorted.len() - 1)];
        // Between these two is the median of endless samples, 19 times of 20, however they are distributed.
        let (half, away) = (sorted.len() as f64 / 2.0, 0.98 * (sorted.len() as f64).sqrt());
        (at(half), (at(half + away) - at(half - away)) / 2.0)
    });
    let medians: Vec<_> = medians.collect();
    let least = medians.iter().map(|(median, _)| *median).fold(f64::INFINITY, f64::min);
    let mut contenders: Vec<_> = (0..medians.len()).filter(|&i| medians[i].0 < least * CONTENDER).collect();
    if contenders.len() == 1 || contenders.iter().all(|&i| medians[i].1 <= medians[i].0 * DOUBT) {
        contenders.clear();
    }
    contenders
}

impl Timing {
    /// Of samples in microseconds, of which there is one.
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| samples.get(((samples.len() - 1) as f64 * share).round() as usize);
        let at = |share| at(share).copied().unwrap_or(f64::NAN);
        Timing { median_us: at(0.5), p20_us: at(0.2), p80_us: at(0.8) }
    }
}

/// What was measured on a device today.
///
/// # Errors
///
/// When the device is not of this build.
pub fn table(device: &Device, entries: Vec<Entry>) -> candle_core::Result<Table> {
    let date = chrono::Local::now().format("%Y-%m-%d").to_string();
    Ok(Table::new(Site::on(device)?.key(), date, entries))
}

/// Keeps what was measured on a device, beside what was before, and lets it count in this process: the file it is in.
///
/// # Errors
///
/// When the cache directory cannot be written, or the device is not of this build.
pub fn keep(device: &Device, table: &Table) -> Result<PathBuf> {
    let path = store::save(table)?;
    choose::forget(Site::on(device)?);
    Ok(path)
}

/// What is kept of a device, and where: nothing if it was never measured, or as another device.
pub fn kept(device: &Device) -> candle_core::Result<Option<(PathBuf, Table)>> {
    let key = Site::on(device)?.key();
    Ok(store::path(&key).zip(store::load(&key)))
}

#[cfg(test)]
mod tests {
    use super::{Timing, calmer, in_doubt};

    /// Two paces of the machine, of which the slow one has a few more turns: a median of all would be of one or the other.
    #[test]
    fn turns_of_another_pace_count_for_nobody() {
        let pace = |turn: usize| if turn % 41 < 21 { 1.4 } else { 1.0 };
        let noise = |turn: usize, seed: usize| 1.0 + (turn * seed % 101) as f64 / 1000.0;
        let of = |us: f64, seed: usize, turns: usize| -> Vec<f64> {
            (0..turns).map(|turn| us * pace(turn) * noise(turn, seed)).collect()
        };
        let medians = calmer(&[of(10.0, 37, 2000), of(9.8, 53, 2000), of(30.0, 71, 50)]);
        let medians: Vec<f64> = medians.into_iter().map(|samples| Timing::of(samples).median_us).collect();
        assert!(
            (medians[0] / 10.5 - 1.0).abs() < 0.01 && (medians[1] / 10.29 - 1.0).abs() < 0.01,
            "{medians:?}"
        );
        assert!((medians[2] / 31.5 - 1.0).abs() < 0.02, "{medians:?}");
        assert_eq!(calmer(&[vec![1.0], vec![2.0]]), [[1.0], [2.0]]);
    }

    #[test]
    fn doubt_is_between_those_who_may_be_the_fastest() {
        let even = |from: f64, width: f64, count: u32| {
            (0..count)
                .map(|i| from + width * f64::from(i * 37 % count) / f64::from(count))
                .collect::<Vec<_>>()
        };
        // Two alike of wide samples, and one far behind; with samples enough they are told apart.
        assert_eq!(in_doubt(&[even(1.0, 0.5, 50), even(2.0, 0.5, 50), even(1.05, 0.5, 50)]), [0, 2]);
        assert!(in_doubt(&[even(1.0, 0.5, 9000), even(2.0, 0.5, 50), even(1.05, 0.5, 9000)]).is_empty());
        // Narrow samples leave no doubt, nor does a lead however wide they are.
        assert!(in_doubt(&[even(1.0, 0.005, 20), even(1.02, 0.005, 20)]).is_empty());
        assert!(in_doubt(&[even(1.0, 0.5, 20), even(2.0, 0.5, 20)]).is_empty());
        assert!(in_doubt(&[even(1.0, 0.5, 1)]).is_empty());
    }
}
