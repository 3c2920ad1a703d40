//! What the machine does in a second: the two products that decoding and training are made of.

use crate::ops;
use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

/// Speeds measured now.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    /// Weights read by a product with one row, which is decoding, in GB/s.
    pub read_gb_per_s: f64,
    /// A product of many rows in f32, in GFLOP/s.
    pub f32_gflops: f64,
    /// The same in bf16.
    pub bf16_gflops: f64,
}

/// The weights of the one-row product: more than caches hold.
const WIDE: (usize, usize) = (16384, 4096);
/// The width of the square product.
const SQUARE: usize = 1024;
/// Times each is run; the best counts, since others' work only adds time.
const RUNS: usize = 5;

/// Measures all of them.
pub fn speed() -> candle_core::Result<Speed> {
    let device = &Device::Cpu;
    let dtype = if ops::fast_bf16() { DType::BF16 } else { DType::F32 };
    let (rows, columns) = WIDE;
    let weight = Tensor::ones(WIDE, dtype, device)?;
    let seconds = best(&Tensor::ones((1, columns), dtype, device)?, &weight)?;
    let read_gb_per_s = (rows * columns * dtype.size_in_bytes()) as f64 / seconds / 1e9;
    let square = |dtype: DType| {
        let x = Tensor::ones((SQUARE, SQUARE), dtype, device)?;
        candle_core::Result::Ok(2.0 * (SQUARE as f64).powi(3) / best(&x, &x)? / 1e9)
    };
    Ok(Speed { read_gb_per_s, f32_gflops: square(DType::F32)?, bf16_gflops: square(DType::BF16)? })
}

/// The seconds of the fastest product.
fn best(x: &Tensor, weight: &Tensor) -> candle_core::Result<f64> {
    let mut seconds = f64::INFINITY;
    for _ in 0..RUNS {
        let from = Instant::now();
        ops::linear(x, weight, None)?;
        seconds = seconds.min(from.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// The models in a Hugging Face cache, and their bytes on disk.
pub fn cached(cache: &Path) -> (usize, u64) {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let (mut models, mut bytes) = (0, 0);
    for entry in entries(cache) {
        if entry.file_name().to_string_lossy().starts_with("models--") {
            models += 1;
            // Snapshots are links to blobs, which are counted once.
            let blobs = entries(&entry.path().join("blobs"));
            bytes += blobs.filter_map(|blob| blob.metadata().ok()).map(|file| file.len()).sum::<u64>();
        }
    }
    (models, bytes)
}
