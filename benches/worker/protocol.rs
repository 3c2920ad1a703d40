//! What a worker and the driver say to each other: one JSON object a line, a request and its answer.
//!
//! `{"id": .., "seconds": ..}` beside the fields of a case or a job; the answer holds `samples_us`, the time of
//! each call (of each batch of calls, divided, when one is very short), and `check`, numbers that every worker
//! must agree on. `{"error": ..}` says that this worker has no such case.

use candle_core::{DType, Device, Result, Tensor, bail};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

/// Answers requests until standard input ends.
pub fn serve(mut answer: impl FnMut(&Value) -> Result<Value>) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?).map_err(candle_core::Error::wrap)?;
        let reply =
            answer(&request).unwrap_or_else(|error| json!({ "error": error.to_string().lines().next() }));
        writeln!(out, "{reply}")?;
        out.flush()?;
    }
    Ok(())
}

/// A prepared case: a call does the whole of it.
pub type Run = Box<dyn FnMut() -> Result<Vec<Tensor>>>;

/// The cases that were prepared, by their request.
#[derive(Default)]
pub struct Cases(HashMap<String, Run>);

impl Cases {
    /// Answers a request for an op: prepares it when it is new, and measures it.
    pub fn answer(&mut self, request: &Value, build: impl FnOnce(&Case) -> Result<Run>) -> Result<Value> {
        if request["op"] == "drop" {
            self.0.clear();
            return Ok(json!({}));
        }
        let case = Case::new(request)?;
        let key = format!("{case:?}");
        if let Some(run) = self.0.get_mut(&key) {
            return Ok(json!({ "samples_us": measure(run, seconds(request))? }));
        }
        let mut run = build(&case)?;
        let check = run()?.iter().map(mean_abs).collect::<Result<Vec<_>>>()?;
        let samples = measure(&mut run, seconds(request))?;
        self.0.insert(key, run);
        Ok(json!({ "samples_us": samples, "check": check }))
    }
}

fn seconds(request: &Value) -> f64 {
    request["seconds"].as_f64().unwrap_or(0.3)
}

/// An op to measure.
#[derive(Debug)]
pub struct Case {
    pub op: String,
    pub backward: bool,
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub variant: String,
}

impl Case {
    fn new(request: &Value) -> Result<Self> {
        let text = |field: &str| request[field].as_str().unwrap_or_default().to_string();
        let shape = request["shape"].as_array().into_iter().flatten();
        Ok(Case {
            op: text("op"),
            backward: text("pass") == "fwd+bwd",
            shape: shape.filter_map(Value::as_u64).map(|n| n as usize).collect(),
            dtype: dtype(&text("dtype"))?,
            variant: text("variant"),
        })
    }
}

/// A dtype by its name.
pub fn dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        other => bail!("dtype: wants f32, bf16 or f16, got {other:?}"),
    }
}

/// The times of calls for about `seconds`, in µs. Very short calls are timed in batches.
fn measure(run: &mut Run, seconds: f64) -> Result<Vec<f64>> {
    const BATCH: Duration = Duration::from_micros(50);
    let warm = Instant::now();
    let mut one = Duration::MAX;
    while warm.elapsed().as_secs_f64() < 0.2 * seconds || one == Duration::MAX {
        let start = Instant::now();
        run()?;
        one = one.min(start.elapsed());
    }
    let batch = (BATCH.as_nanos() / one.as_nanos().max(1)).max(1) as usize;
    let (start, mut samples) = (Instant::now(), Vec::new());
    while start.elapsed().as_secs_f64() < seconds || samples.len() < 3 {
        let call = Instant::now();
        for _ in 0..batch {
            run()?;
        }
        samples.push(call.elapsed().as_secs_f64() * 1e6 / batch as f64);
    }
    Ok(samples)
}

/// What workers compare of a result: a number that a wrong shape, scale or operand changes.
fn mean_abs(x: &Tensor) -> Result<f64> {
    x.to_dtype(DType::F64)?.abs()?.mean_all()?.to_scalar()
}

/// The same numbers in every worker: uniform, of mean 0 and standard deviation `std`, from a hash of the index.
pub fn noise(seed: u32, std: f32, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let value = |i: u32| (hash(i, seed) >> 8) as f32 / 8_388_608.0 - 1.0;
    let scale = std * 3f32.sqrt();
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| value(i as u32) * scale).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// The same token ids in every worker.
pub fn tokens(seed: u32, vocabulary: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| 3 + hash(i, seed) % (vocabulary - 3)).collect()
}

fn hash(i: u32, seed: u32) -> u32 {
    let mut h = i ^ seed.wrapping_mul(0x9E37_79B9);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
    h ^ (h >> 16)
}

/// The most memory this process has held, in bytes; none where the system does not say.
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// Microseconds since `start`.
pub fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

/// The index of the largest logit of one row.
pub fn argmax(logits: &Tensor) -> Result<u32> {
    let logits = logits.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let best = logits.iter().enumerate().fold(0, |best, (i, x)| if *x > logits[best] { i } else { best });
    Ok(best as u32)
}

/// A model that reads tokens one after the other.
pub trait Decoder {
    /// The size of its vocabulary.
    fn vocabulary(&self) -> u32;

    /// Forgets what it has read.
    fn reset(&mut self) -> Result<()>;

    /// Reads tokens at a position and gives the logits of the last.
    fn read(&mut self, ids: &[u32], at: usize) -> Result<Tensor>;
}

/// The times of reading a prompt and of greedy decoding after it.
pub fn decode(request: &Value, model: &mut impl Decoder) -> Result<Value> {
    let size = |field: &str| request[field].as_u64().unwrap_or(1) as usize;
    let prompt = tokens(1, model.vocabulary(), size("prompt"));
    let (mut prefill, mut decode, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size("count") {
        model.reset()?;
        let start = Instant::now();
        let mut next = argmax(&model.read(&prompt, 0)?)?;
        prefill.push(micros(start));
        ids = vec![next];
        let start = Instant::now();
        for at in 0..size("tokens") {
            next = argmax(&model.read(&[next], prompt.len() + at)?)?;
            ids.push(next);
        }
        decode.push(micros(start));
    }
    Ok(json!({ "samples_us": decode, "prefill_us": prefill, "ids": ids, "peak_bytes": peak_bytes() }))
}
