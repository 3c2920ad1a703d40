//! What a product costs beside its arithmetic.

use super::commands::{Commands, On, Step};
use super::kernels::{Kernel, Key, PLAIN, new_queue, queue};
use super::stored::Stored;
use super::{Product, View, run};
use crate::kernels::Held;
use candle_core::{DType, Device, MetalDevice, Result, Tensor, bail};
use objc2::rc::autoreleasepool;
use serde::Serialize;
use std::time::Instant;

/// Products of one command buffer in the mode `batched`, and command buffers under way in `asynchronous`.
const TOGETHER: usize = 8;

/// Medians of one way to compute with `size x size` matrices of f32, in microseconds for one product, row or softmax. Each ends
/// with a wait.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for the command line"))]
pub(crate) struct Cost {
    pub size: usize,
    /// - `queue per call`: a new queue, kernel object and descriptors, one command buffer, a wait;
    /// - `pooled queue`: the same with the device's queue;
    /// - `cached objects`: with the kernel object that is kept, too;
    /// - `batched`: 8 of these products in one command buffer, and a wait;
    /// - `asynchronous`: 8 in a command buffer each, and a wait for all;
    /// - `hand-over`: a product as others call it: `cached objects`, new memory for the result, and the wait for candle;
    /// - `candle`: candle's own product, synchronised;
    /// - `row by matrix`, `row by vector`: a product of one row, which is decoding's, by `MPSMatrixMultiplication` and by
    ///   `MPSMatrixVectorMultiplication`, as `cached objects`;
    /// - `softmax by mps`: of `size` rows by `MPSMatrixSoftMax`, as `cached objects`;
    /// - `softmax`: the same by [`crate::ops::softmax`], synchronised.
    pub mode: &'static str,
    /// Making the queue, in the first mode; 0 where the device's is taken.
    pub queue_us: Option<f64>,
    /// Making the kernel object. 0 where it is kept: finding it is part of encoding.
    pub object_us: Option<f64>,
    /// Making the three descriptors and matrices.
    pub descriptor_us: Option<f64>,
    /// Making and filling the command buffer; of candle's, the call.
    pub encode_us: Option<f64>,
    pub commit_us: Option<f64>,
    /// From the commit to when the host knows that it has completed; of candle's, `synchronize`.
    pub wait_us: Option<f64>,
    /// From `GPUStartTime` to `GPUEndTime`; candle's command buffer is private.
    pub gpu_us: Option<f64>,
    pub total_us: f64,
}

/// What [`Cost`] has medians of, in its order.
type Sample = [Option<f64>; 8];

/// Microseconds since it was asked last.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let lap = now.duration_since(self.0).as_secs_f64() * 1e6;
        self.0 = now;
        lap
    }
}

struct Bench<'a> {
    device: &'a MetalDevice,
    operands: [Stored; 2],
    /// Of each product that is under way.
    results: Vec<Stored>,
}

impl Bench<'_> {
    fn product(&self, rows: usize, result: usize) -> Result<Step> {
        let [a, b] = &self.operands;
        let matrices = [a.first(rows).matrix()?, b.matrix()?, self.results[result].first(rows).matrix()?];
        let key = Key::Product {
            dtype: DType::F32,
            sizes: [rows, b.cols, b.rows],
            transposed: [false; 2],
            factors: PLAIN,
        };
        Ok(Step { key, on: On::Matrices(matrices) })
    }

    fn row_by_vector(&self) -> Result<Step> {
        let [a, b] = &self.operands;
        let key =
            Key::Vector { dtype: DType::F32, sizes: [b.cols, b.rows], transposed: true, factors: PLAIN };
        let vectors = [a.first(1).vector()?, self.results[0].first(1).vector()?];
        Ok(Step { key, on: On::Vector(b.matrix()?, vectors) })
    }

    fn softmax(&self) -> Result<Step> {
        let rows = [self.operands[0].matrix()?, self.results[0].matrix()?];
        Ok(Step { key: Key::SoftMax { dtype: DType::F32 }, on: On::Rows(rows) })
    }

    /// One step, with a wait.
    fn single(
        &self,
        step: impl FnOnce(&Self) -> Result<Step>,
        pooled_queue: bool,
        cached: bool,
    ) -> Result<Sample> {
        let mut clock = Clock(Instant::now());
        let queue = if pooled_queue { queue(self.device)? } else { new_queue(self.device)? };
        let made = clock.lap();
        let queue_us = if pooled_queue { 0.0 } else { made };
        let step = step(self)?;
        let descriptor = clock.lap();
        let kernel = (!cached).then(|| Kernel::new(self.device, &step.key)).transpose()?;
        let made = clock.lap();
        let object = if cached { 0.0 } else { made };
        let commands = Commands::new(&queue)?;
        match &kernel {
            Some(kernel) => commands.encode_with(kernel, &step),
            None => commands.encode(self.device, &step)?,
        }
        let encode = clock.lap();
        commands.commit();
        let commit = clock.lap();
        commands.wait(|| "a product".into())?;
        let wait = clock.lap();
        let total = queue_us + object + descriptor + encode + commit + wait;
        Ok([queue_us, object, descriptor, encode, commit, wait, commands.gpu_us(), total].map(Some))
    }

    /// Several products, in one command buffer or in one each, with waits after all.
    fn several(&self, one_buffer: bool) -> Result<Sample> {
        let mut clock = Clock(Instant::now());
        let queue = queue(self.device)?;
        let (mut descriptor, mut encode, mut commit) = (0.0, 0.0, 0.0);
        let mut under_way: Vec<Commands> = Vec::new();
        for result in 0..TOGETHER {
            let step = self.product(self.operands[0].rows, result)?;
            descriptor += clock.lap();
            if under_way.is_empty() || !one_buffer {
                under_way.push(Commands::new(&queue)?);
            }
            let commands = &under_way[under_way.len() - 1];
            commands.encode(self.device, &step)?;
            encode += clock.lap();
            if !one_buffer || result + 1 == TOGETHER {
                commands.commit();
                commit += clock.lap();
            }
        }
        // All are waited for, also when one fails: they write memory that is freed with this.
        let ends: Vec<_> = under_way.iter().map(|commands| commands.wait(|| "products".into())).collect();
        ends.into_iter().collect::<Result<()>>()?;
        let wait = clock.lap();
        let gpu = under_way.iter().map(Commands::gpu_us).sum();
        let total = descriptor + encode + commit + wait;
        Ok([0.0, 0.0, descriptor, encode, commit, wait, gpu, total].map(|us| Some(us / TOGETHER as f64)))
    }
}

/// The middle of the samples, field by field.
fn medians(size: usize, mode: &'static str, samples: &[Sample]) -> Cost {
    let median = |field: usize| {
        let mut values: Vec<f64> = samples.iter().map(|sample| sample[field]).collect::<Option<_>>()?;
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let [queue_us, object_us, descriptor_us, encode_us, commit_us, wait_us, gpu_us, total] =
        [0, 1, 2, 3, 4, 5, 6, 7].map(median);
    let total_us = total.unwrap_or(f64::NAN);
    Cost { size, mode, queue_us, object_us, descriptor_us, encode_us, commit_us, wait_us, gpu_us, total_us }
}

/// The costs of a product of `size x size` matrices of f32, for each mode the medians of `repeats` after one that is not
/// counted.
///
/// # Errors
///
/// When the device is not a Metal device, a size or the repeats are 0, or the GPU fails.
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for the command line"))]
pub(crate) fn overhead(device: &Device, size: usize, repeats: usize) -> Result<Vec<Cost>> {
    let Device::Metal(metal) = device else {
        bail!("mps overhead: wants a Metal device, got {:?}", device.location())
    };
    if size * repeats == 0 {
        bail!("mps overhead: wants a size and repeats of at least 1, got {size} and {repeats}")
    }
    let make = |seed: f64| {
        let row =
            Tensor::arange(0u32, size as u32, device)?.to_dtype(DType::F32)?.affine(seed, seed)?.sin()?;
        row.unsqueeze(1)?.broadcast_mul(&row.unsqueeze(0)?)
    };
    let (a, b) = (make(0.37)?, make(0.73)?);
    device.synchronize()?;
    let (held_a, held_b) = (Held::new(&a), Held::new(&b));
    let view = |held: &Held<'_>| match View::of(held.input("mps overhead")) {
        Some(view) => Stored::of(&view),
        None => bail!("mps overhead: wants matrices in rows"),
    };
    let operands = [view(&held_a)?, view(&held_b)?];
    let results = (0..TOGETHER)
        .map(|_| Stored::new(&operands[0].storage, [1, size, size], DType::F32))
        .collect::<Result<_>>()?;
    // Memory that is used again: nothing of candle's may be under way on it.
    device.synchronize()?;
    let bench = Bench { device: metal, operands, results };
    let product = |bench: &Bench<'_>| bench.product(size, 0);

    let hand_over = || -> Result<Sample> {
        let mut clock = Clock(Instant::now());
        let (Some(a), Some(b)) =
            (View::of(held_a.input("mps overhead")), View::of(held_b.input("mps overhead")))
        else {
            bail!("mps overhead: wants matrices in rows")
        };
        run(metal, &Product::new(1.0, a, b, None)?, false)?;
        let total = clock.lap();
        Ok([None, None, None, None, None, None, None, Some(total)])
    };
    let on_candles_stream = |work: &dyn Fn() -> Result<Tensor>| -> Result<Sample> {
        let mut clock = Clock(Instant::now());
        let result = work()?;
        let encode = clock.lap();
        device.synchronize()?;
        let wait = clock.lap();
        drop(result);
        Ok([None, None, None, Some(encode), None, Some(wait), None, Some(encode + wait)])
    };
    let modes: [(&'static str, &dyn Fn() -> Result<Sample>); 11] = [
        ("queue per call", &|| bench.single(product, false, false)),
        ("pooled queue", &|| bench.single(product, true, false)),
        ("cached objects", &|| bench.single(product, true, true)),
        ("batched", &|| bench.several(true)),
        ("asynchronous", &|| bench.several(false)),
        ("hand-over", &hand_over),
        ("candle", &|| on_candles_stream(&|| a.matmul(&b))),
        ("row by matrix", &|| bench.single(|bench| bench.product(1, 0), true, true)),
        ("row by vector", &|| bench.single(Bench::row_by_vector, true, true)),
        ("softmax by mps", &|| bench.single(Bench::softmax, true, true)),
        ("softmax", &|| on_candles_stream(&|| crate::ops::softmax(&a, 1))),
    ];
    // In turns; the first is not counted.
    let mut samples = modes.map(|_| Vec::new());
    for turn in 0..=repeats {
        for ((_, once), samples) in modes.iter().zip(&mut samples) {
            let sample = autoreleasepool(|_| once())?;
            if turn > 0 {
                samples.push(sample);
            }
        }
    }
    Ok(modes.iter().zip(&samples).map(|((mode, _), samples)| medians(size, mode, samples)).collect())
}
