//! The cases of ops: what a request asks for, its inputs, and what workers compare of its results.

use super::measure::Prepared;
use super::protocol::{dtype, hash};
use candle_core::{D, DType, Device, Result, Tensor, bail};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The cases that were prepared, by their request.
pub struct Cases {
    device: Device,
    prepared: HashMap<String, Prepared>,
}

impl Cases {
    pub fn new(device: Device) -> Self {
        Cases { device, prepared: HashMap::new() }
    }

    /// Answers a request for an op: prepares it when it is new, and measures it where the request has a method.
    pub fn answer(
        &mut self,
        request: &Value,
        build: impl FnOnce(&Case) -> Result<Prepared>,
    ) -> Result<Value> {
        if request["op"] == "drop" {
            self.prepared.clear();
            #[cfg(feature = "cuda")]
            super::cuda::trim(&self.device)?;
            return Ok(json!({}));
        }
        let case = Case::new(request, &self.device)?;
        let key = format!("{case:?}");
        let mut answer = json!({});
        if !self.prepared.contains_key(&key) {
            let mut prepared = build(&case)?;
            answer["check"] = prepared.call()?.iter().map(mean_abs).collect::<Result<Vec<_>>>()?.into();
            answer["extra_bytes"] = extra_bytes(&mut prepared, &self.device)?.into();
            self.prepared.insert(key.clone(), prepared);
        }
        if let (Some(method), Some(prepared)) = (request["method"].as_str(), self.prepared.get_mut(&key)) {
            let seconds = request["seconds"].as_f64().unwrap_or(0.3);
            answer["samples_us"] = prepared.measure(method, seconds, &self.device)?.into();
        }
        Ok(answer)
    }
}

/// The most memory that a call takes beside its inputs and its results; none where the device does not say.
#[cfg(feature = "cuda")]
fn extra_bytes(prepared: &mut Prepared, device: &Device) -> Result<Option<u64>> {
    let (results, most) = super::cuda::most_bytes(device, || prepared.call())?;
    let kept: usize = results.iter().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum();
    Ok(most.map(|bytes| bytes.saturating_sub(kept as u64)))
}

#[cfg(not(feature = "cuda"))]
fn extra_bytes(_: &mut Prepared, _: &Device) -> Result<Option<u64>> {
    Ok(None)
}

/// What of an op is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pass {
    Forward,
    /// After a forward pass that is not measured.
    Backward,
    Both,
}

/// An op to measure.
#[derive(Debug)]
pub struct Case {
    pub op: String,
    pub pass: Pass,
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub variant: String,
    pub sets: usize,
    pub device: Device,
}

impl Case {
    fn new(request: &Value, device: &Device) -> Result<Self> {
        let text = |field: &str| request[field].as_str().unwrap_or_default().to_string();
        let shape = request["shape"].as_array().into_iter().flatten();
        Ok(Case {
            op: text("op"),
            pass: match text("pass").as_str() {
                "fwd" => Pass::Forward,
                "bwd" => Pass::Backward,
                "fwd+bwd" => Pass::Both,
                other => bail!("pass: wants fwd, bwd or fwd+bwd, got {other:?}"),
            },
            shape: shape.filter_map(Value::as_u64).map(|n| n as usize).collect(),
            dtype: dtype(&text("dtype"))?,
            variant: text("variant"),
            sets: request["sets"].as_u64().unwrap_or(1) as usize,
            device: device.clone(),
        })
    }

    /// [`noise`] of the case's dtype on its device.
    pub fn noise(&self, seed: u32, std: f32, shape: &[usize]) -> Result<Tensor> {
        noise(seed, std, shape, &self.device)?.to_dtype(self.dtype)
    }
}

/// What workers compare of a result: a number that a wrong shape, scale or operand changes.
fn mean_abs(x: &Tensor) -> Result<f64> {
    if x.device().is_cpu() || x.rank() == 0 {
        return x.to_dtype(DType::F64)?.abs()?.mean_all()?.to_scalar();
    }
    // A row at a time on the device: Candle sums a whole tensor by one block of threads.
    let sums = x.to_dtype(DType::F32)?.abs()?.sum(D::Minus1)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(sums.iter().map(|sum| *sum as f64).sum::<f64>() / x.elem_count() as f64)
}

/// The same numbers in every worker: uniform, of mean 0 and standard deviation `std`, from a hash of the index.
fn noise(seed: u32, std: f32, shape: &[usize], device: &Device) -> Result<Tensor> {
    let value = |i: usize| (hash(i as u32, seed) >> 8) as f32 / 8_388_608.0 - 1.0;
    let scale = std * 3f32.sqrt();
    let values: Vec<f32> =
        (0..shape.iter().product::<usize>()).into_par_iter().map(|i| value(i) * scale).collect();
    Tensor::from_vec(values, shape, device)
}
