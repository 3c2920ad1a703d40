//! What a worker and the driver say to each other: one JSON object a line, a request and its answer.
//!
//! `{"method": .., "seconds": ..}` beside the fields of a case or a job; the answer holds `samples_us`, the time of
//! each call (of each batch of calls, divided, where calls are timed in batches). A case's first answer also holds
//! `check`, numbers that every worker must agree on, and `extra_bytes`, the most memory that a call takes beside its
//! inputs and results; without a method it is only prepared. `{"error": ..}`: this worker has no such case.

use candle_core::{DType, Result, Tensor, bail};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::time::Instant;

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

/// A dtype by its name.
pub fn dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        other => bail!("dtype: wants f32, bf16 or f16, got {other:?}"),
    }
}

/// The same token ids in every worker.
pub fn tokens(seed: u32, vocabulary: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| 3 + hash(i, seed) % (vocabulary - 3)).collect()
}

/// A hash of an index, the same in every worker.
pub fn hash(i: u32, seed: u32) -> u32 {
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
