//! `metal-candle bench ops`: every op beside its reference in plain Candle ops.

use super::super::compute::DeviceArg;
use super::super::interrupt;
use super::super::terminal::{self, Lines};
use super::job::{Dtype, write_lines};
use crate::device;
use crate::ops::{self, Spec};
use candle_core::{DType, Device, Result, Tensor, Var};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Measure each fused op beside the same in plain Candle ops
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle bench ops
  metal-candle bench ops --op rms_norm --dtype bf16 --seconds 1
  metal-candle bench ops --device cuda --results ops.jsonl

Shapes are those that the ops are tested with, without the smallest. Both take turns on the same
inputs, and each sample ends with a synchronisation. Forward and backward goes through Candle's
autograd, with all gradients.")]
pub struct Args {
    #[command(flatten)]
    device: DeviceArg,
    /// Ops whose name has this in it
    #[arg(long, value_name = "NAME", default_value = "")]
    op: String,
    /// The dtypes to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Dtype::F32, Dtype::Bf16])]
    dtype: Vec<Dtype>,
    /// Seconds of each row
    #[arg(long, value_name = "S", default_value_t = 0.2, value_parser = super::matmul::seconds)]
    seconds: f64,
    /// Also write the measurements to a file of JSON Lines
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// End with one JSON object on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

/// A line of `--results`: the fields of `benches/results`.
#[derive(Clone, Debug, Serialize)]
struct Line {
    op: &'static str,
    pass: &'static str,
    shape: String,
    dtype: &'static str,
    provider: &'static str,
    median_us: f64,
    p20_us: f64,
    p80_us: f64,
    method: &'static str,
    device: String,
    versions: String,
    date: String,
}

/// Cases with fewer elements are edges for the tests, not sizes that anybody waits for.
const SMALLEST: usize = 4096;

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let device = args.device.open()?;
    let (lines, mut all) = (Lines::new(args.json), Vec::new());
    let found: Vec<&Spec> = ops::ALL.iter().filter(|op| op.name.contains(&args.op)).collect();
    if found.is_empty() {
        let names: Vec<&str> = ops::ALL.iter().map(|op| op.name).collect();
        anyhow::bail!("--op: wants a part of one of {}, got {:?}", names.join(", "), args.op);
    }
    lines.say(lines.bold(device::name(&device)));
    lines.say(lines.bold(format!(
        "{:<22}{:<9}{:<6}{:<36}{:>24}{:>24}",
        "op", "pass", "dtype", "shape", "plain Candle, µs", "fused, µs"
    )));
    for op in found {
        for case in op.cases.iter().filter(|case| case[0].iter().product::<usize>() >= SMALLEST) {
            for dtype in &args.dtype {
                for pass in ["fwd", "fwd+bwd"] {
                    if interrupt::requested() {
                        return tell(args, &all);
                    }
                    let row = measure(op, case, *dtype, pass, &device, args.seconds)?;
                    let [plain, fused] = &row;
                    lines.say(format!(
                        "{:<22}{pass:<9}{:<6}{:<36}{:>24}{:>24}{:>8.1}x",
                        op.name,
                        fused.dtype,
                        fused.shape,
                        spread(plain),
                        spread(fused),
                        plain.median_us / fused.median_us,
                    ));
                    all.extend(row);
                }
            }
        }
    }
    tell(args, &all)
}

fn tell(args: &Args, all: &[Line]) -> anyhow::Result<()> {
    if let Some(path) = &args.results {
        write_lines(path, all)?;
    }
    match args.json {
        true => terminal::json(&serde_json::json!({ "lines": all })),
        false => Ok(()),
    }
}

fn spread(line: &Line) -> String {
    format!("{:.1} ({:.1}-{:.1})", line.median_us, line.p20_us, line.p80_us)
}

/// The reference and the op, in turns.
fn measure(
    op: &Spec,
    case: ops::Case,
    dtype: Dtype,
    pass: &'static str,
    device: &Device,
    seconds: f64,
) -> anyhow::Result<[Line; 2]> {
    let dtype = DType::from(dtype);
    let backward = pass != "fwd";
    let variable = |(i, x): (usize, Tensor)| match backward && op.trainable.contains(&i) {
        true => Ok(Var::from_tensor(&x)?.into_inner()),
        false => Ok(x),
    };
    let inputs = ops::inputs(case, dtype, device)?;
    let inputs: Vec<Tensor> = inputs.into_iter().enumerate().map(variable).collect::<Result<_>>()?;
    let call = |f: fn(&[Tensor]) -> Result<Tensor>| -> Result<f64> {
        let start = Instant::now();
        let y = f(&inputs)?;
        if backward {
            y.sum_all()?.backward()?;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    let both = [op.reference, op.fused];
    for f in both {
        call(f)?;
    }
    let (budget, start) = (Duration::from_secs_f64(seconds), Instant::now());
    let mut samples = [Vec::new(), Vec::new()];
    while start.elapsed() < budget || samples[0].len() < 3 {
        for (f, samples) in both.into_iter().zip(&mut samples) {
            samples.push(call(f)?);
        }
    }
    let shape: Vec<String> =
        case.iter().map(|shape| shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")).collect();
    let line = |provider, mut samples: Vec<f64>| {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
        Line {
            op: op.name,
            pass,
            shape: shape.join(" "),
            dtype: dtype.as_str(),
            provider,
            median_us: at(0.5),
            p20_us: at(0.2),
            p80_us: at(0.8),
            method: "synced",
            device: device::name(device),
            versions: concat!("metal-candle ", env!("CARGO_PKG_VERSION")).into(),
            date: chrono::Local::now().format("%Y-%m-%d").to_string(),
        }
    };
    let [plain, fused] = samples;
    Ok([line("candle", plain), line("metal-candle", fused)])
}
