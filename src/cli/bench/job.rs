//! What the benchmarks of whole jobs share: the model, samples, lines of results.

use super::super::compute::Compute;
use super::super::source::ModelArgs;
use super::super::terminal::Lines;
use crate::device;
use crate::load::ModelDir;
use crate::models::{Config, Model};
use crate::train::metrics::{peak_memory_gb, reset_peak};
use candle_core::{DType, Device};
use clap::ValueEnum;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The model that a job is done with.
#[derive(Clone, Debug, clap::Args)]
pub struct JobModel {
    #[command(flatten)]
    model: ModelArgs,
    /// Random weights: of the model, only its config.json is read
    #[arg(long)]
    random_weights: bool,
    #[command(flatten)]
    compute: Compute,
}

/// Dtypes to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    Bf16,
    F16,
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> DType {
        match dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
        }
    }
}

/// How results are told.
#[derive(Clone, Debug, clap::Args)]
pub struct Told {
    /// Also tell what each kernel took (CUDA only), in a run of its own
    #[arg(long)]
    profile: bool,
    /// Also write the measurements to a file of JSON Lines
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// End with one JSON object on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

impl JobModel {
    /// The model, and what to call it.
    pub fn open(&self) -> anyhow::Result<(String, Model)> {
        let device = self.compute.device.open()?;
        let dir: ModelDir = self.model.resolve()?;
        let config = Config::open(&dir)?;
        let dtype = self.compute.dtype.dtype(config.dtype, &device);
        let model = match self.random_weights {
            true => Model::init(&config, dtype, &device, 0)?,
            false => Model::open(&dir, dtype, &device)?,
        };
        Ok((name(&dir), model))
    }
}

/// The last part of the model's name.
fn name(dir: &ModelDir) -> String {
    let whole = dir.name();
    Path::new(&whole).file_name().map_or(whole.clone(), |name| name.to_string_lossy().into_owned())
}

/// A line of `--results`: what a job took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    /// `lora_step`, `first_step`, `prefill`, `decode` or `first_token`.
    pub job: &'static str,
    /// The model's name.
    pub model: String,
    /// Rows.
    pub batch: usize,
    /// Tokens of a row that are trained on, read or generated.
    pub length: usize,
    /// The rank of the LoRA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Whether layers are run again in backward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_checkpoint: Option<bool>,
    /// Who computed.
    pub provider: &'static str,
    /// What was computed in.
    pub dtype: &'static str,
    /// Of a step, of a prompt, or of a token of each row.
    pub median_ms: f64,
    /// A fifth of the samples is below.
    pub p20_ms: f64,
    /// A fifth of the samples is above.
    pub p80_ms: f64,
    /// The samples.
    pub samples: usize,
    /// Of all rows together.
    pub tokens_per_s: f64,
    /// The most memory that was held, in 10^9 bytes.
    pub peak_gb: f64,
    /// What the memory plan says of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_gb: Option<f64>,
    /// Where.
    pub device: String,
    /// Of what.
    pub versions: String,
    /// When.
    pub date: String,
}

impl Line {
    /// A line on `job`, of samples in seconds that `tokens` tokens took each.
    pub fn new(job: &'static str, of: &Subject<'_>, samples: &[Duration], tokens: usize) -> Self {
        let mut ms: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let at = |share: f64| ms.get(((ms.len() - 1) as f64 * share).round() as usize).copied();
        let [p20_ms, median_ms, p80_ms] = [0.2, 0.5, 0.8].map(|share| at(share).unwrap_or(f64::NAN));
        Line {
            job,
            model: of.name.to_string(),
            provider: "metal-candle",
            dtype: of.model.dtype().as_str(),
            median_ms,
            p20_ms,
            p80_ms,
            samples: ms.len(),
            tokens_per_s: tokens as f64 / median_ms * 1e3,
            peak_gb: peak_memory_gb(of.model.device()),
            device: device::name(of.model.device()),
            versions: concat!("metal-candle ", env!("CARGO_PKG_VERSION")).to_string(),
            date: chrono::Local::now().format("%Y-%m-%d").to_string(),
            ..Line::default()
        }
    }

    /// The times, in words.
    pub fn times(&self) -> String {
        let Line { median_ms, p20_ms, p80_ms, .. } = self;
        format!("{median_ms:>9.2} ms ({p20_ms:.2} to {p80_ms:.2})")
    }
}

/// What is measured.
pub struct Subject<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The model.
    pub model: &'a Model,
}

impl Told {
    /// Where words go.
    pub fn lines(&self) -> Lines {
        Lines::new(self.json)
    }

    /// Whether kernels are to be told of.
    pub fn profile(&self) -> bool {
        self.profile
    }

    /// Writes what `--results` and `--json` promise.
    pub fn tell(&self, all: &[Line]) -> anyhow::Result<()> {
        if let Some(path) = &self.results {
            write_lines(path, all)?;
        }
        match self.json {
            true => super::super::terminal::json(&serde_json::json!({ "lines": all })),
            false => Ok(()),
        }
    }

    /// Runs `f` once more, and says where its time went.
    pub fn say_profile(&self, f: impl FnOnce() -> crate::Result<()>) -> anyhow::Result<()> {
        let lines = self.lines();
        let ((), mut spent) = crate::kernels::gpu::profile(f)?;
        if spent.is_empty() {
            lines.say("Kernels are told of on a CUDA GPU only.");
        }
        spent.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        let all: f64 = spent.iter().map(|spent| spent.ms).sum();
        let count: usize = spent.iter().map(|spent| spent.count).sum();
        lines.say(lines.bold(format!("{count} kernels, {all:.2} ms with the events between them")));
        for spent in spent {
            let each = 1e3 * spent.ms / spent.count as f64;
            lines.say(format!("{:>8.3} ms {:>6} x {each:>8.1} µs  {}", spent.ms, spent.count, spent.name));
        }
        Ok(())
    }
}

/// Writes measurements, a line of JSON each.
pub fn write_lines(path: &Path, all: &[impl Serialize]) -> anyhow::Result<()> {
    crate::load::atomic::replace(path, |temporary| {
        let write = || -> std::io::Result<()> {
            let mut file = std::io::BufWriter::new(std::fs::File::create(temporary)?);
            for line in all {
                writeln!(file, "{}", serde_json::to_string(line)?)?;
            }
            file.flush()
        };
        write().map_err(crate::Error::io(temporary))
    })?;
    Ok(())
}

/// The time that `f` takes until the device has done its work.
pub fn timed(device: &Device, f: impl FnOnce() -> crate::Result<()>) -> crate::Result<Duration> {
    let start = Instant::now();
    f()?;
    device.synchronize()?;
    Ok(start.elapsed())
}

/// Forgets the peak of memory.
pub fn begin_peak(device: &Device) {
    if !device::reset_peak(device) {
        reset_peak();
    }
}

static STARTED: OnceLock<Instant> = OnceLock::new();

/// The process begins now; the time since it did.
pub fn since_start() -> Duration {
    STARTED.get_or_init(Instant::now).elapsed()
}

/// Random tokens, the same for a seed.
pub fn tokens(seed: u64, vocab: usize, count: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(0..vocab.max(1) as u32)).collect()
}
