//! What each backend takes here, measured: interleaved, each sample to a synchronisation.

use super::site::Site;
use super::{Backend, Entry, Shape, Table, Timing, choose, matmul, store, with_backend};
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// About the shortest sample: products of less are repeated in it, and it ends with a synchronisation.
const SAMPLE: Duration = Duration::from_micros(300);
/// The most products of a sample.
const REPEATS: usize = 256;
/// The fewest samples of a backend.
const SAMPLES: usize = 5;

/// What a model's layers multiply, and squares: to measure a device with.
pub fn grid(device: &Device) -> Vec<Shape> {
    let largest = if device.is_cpu() { 2048 } else { 4096 };
    let squares = [64, 128, 256, 512, 1024, 2048, 4096].into_iter().filter(|n| *n <= largest);
    let mut shapes: Vec<_> = squares.map(|n| Shape::new(1, n, n, n)).collect();
    // Decoding: a row, and a few, against weights `(out, in)`.
    shapes.push(Shape::new(1, 1, 2048, 2048));
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
pub fn backends(device: &Device) -> candle_core::Result<&'static [Backend]> {
    Ok(Backend::on(Site::on(device)?))
}

/// Times a product on every backend of a device that computes it, in turns, for at least `budget`.
///
/// # Errors
///
/// When a product fails.
pub fn entry(device: &Device, dtype: DType, shape: Shape, budget: Duration) -> candle_core::Result<Entry> {
    let site = Site::on(device)?;
    let backends = Backend::on(site).iter().filter(|backend| backend.computes(site, dtype, &shape));
    let backends: Vec<Backend> = backends.copied().collect();
    let Shape { batch, m, n, k, a_transposed, b_transposed } = shape;
    let operand = |rows: usize, cols: usize, transposed: bool| -> candle_core::Result<Tensor> {
        let dims = if transposed { [batch, cols, rows] } else { [batch, rows, cols] };
        let x = Tensor::randn(0f32, 1.0, &dims, device)?.to_dtype(dtype)?;
        let x = if transposed { x.transpose(1, 2)? } else { x };
        if batch == 1 { x.squeeze(0) } else { Ok(x) }
    };
    let (a, b) = (operand(m, k, a_transposed)?, operand(k, n, b_transposed)?);
    let sample = |backend: Backend, repeats: usize| -> candle_core::Result<Duration> {
        let start = Instant::now();
        for _ in 0..repeats {
            with_backend(backend, || matmul(&a, &b))?;
        }
        device.synchronize()?;
        Ok(start.elapsed())
    };
    // The first call makes what later ones find made; the second says how many fill a sample.
    let repeats = backends
        .iter()
        .map(|backend| {
            sample(*backend, 1)?;
            let one = sample(*backend, 1)?.as_secs_f64().max(1e-7);
            Ok(((SAMPLE.as_secs_f64() / one).ceil() as usize).clamp(1, REPEATS))
        })
        .collect::<candle_core::Result<Vec<_>>>()?;
    let mut samples = vec![Vec::new(); backends.len()];
    let start = Instant::now();
    while start.elapsed() < budget || samples[0].len() < SAMPLES {
        for (i, (backend, repeats)) in backends.iter().zip(&repeats).enumerate() {
            samples[i].push(sample(*backend, *repeats)?.as_secs_f64() * 1e6 / *repeats as f64);
        }
    }
    let times = backends.iter().zip(samples).map(|(backend, samples)| (*backend, Timing::of(samples)));
    Ok(Entry { dtype: dtype.as_str().into(), shape, times: times.collect() })
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
