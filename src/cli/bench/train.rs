//! `metal-candle bench train`: what a step of LoRA takes, and the memory it holds.

use super::super::interrupt;
use super::job::{JobModel, Line, Subject, Told, begin_peak, since_start, timed, tokens};
use crate::load::adapter::PeftConfig;
use crate::models::Model;
use crate::train::data::Batch;
use crate::train::memory::MemoryPlan;
use crate::train::optim::{AdamW, AdamWConfig};
use crate::train::step::{GradCheckpoint, Gradients, StepOptions, Stepper};
use candle_core::Var;

/// Measure LoRA steps: forward, backward, clipping and AdamW
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle bench train --model ./Qwen3-0.6B
  metal-candle bench train --model ./Qwen3-0.6B --batch-size 1,2,4 --length 512,1024 --rank 8,64
  metal-candle bench train --model ./Llama-3.2-1B --random-weights --grad-checkpoint --profile

Rows are full of random tokens, and every linear layer has an adapter. A sample ends when the
device has made the step. first_step is from the start of the process to the end of the first.")]
pub struct Args {
    #[command(flatten)]
    model: JobModel,
    /// Rows of a batch
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [4], value_parser = positive)]
    batch_size: Vec<usize>,
    /// Tokens of a row
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1024], value_parser = positive)]
    length: Vec<usize>,
    /// The rank of the adapters
    #[arg(long, value_name = "R", value_delimiter = ',', default_values_t = [16], value_parser = positive)]
    rank: Vec<usize>,
    /// Keep layer inputs only, and run layers again in backward
    #[arg(long)]
    grad_checkpoint: bool,
    /// Steps that are measured, after three that are not
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = positive)]
    steps: usize,
    #[command(flatten)]
    told: Told,
}

/// A number from 1 on.
pub fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "wants a number from 1 on".to_string())
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (name, mut model) = args.model.open()?;
    let (lines, mut all) = (args.told.lines(), Vec::new());
    let device = model.device().clone();
    lines.say(lines.bold(format!("{name}, {} on {}", model.dtype().as_str(), crate::device::name(&device))));
    'cases: for &rank in &args.rank {
        let lora = PeftConfig { r: rank, lora_alpha: 2.0 * rank as f64, ..Default::default() };
        model.add_lora(&lora, 0)?;
        for &rows in &args.batch_size {
            for &len in &args.length {
                let plan =
                    MemoryPlan::new(&model, rows, len, args.grad_checkpoint.into()).total() as f64 / 1e9;
                let mut steps = Steps::new(&model, rows, len, args.grad_checkpoint.into())?;
                let line = |job, samples: &[_]| Line {
                    batch: rows,
                    length: len,
                    rank: Some(rank),
                    grad_checkpoint: Some(args.grad_checkpoint),
                    plan_gb: Some(plan),
                    ..Line::new(job, &Subject { name: &name, model: &model }, samples, rows * len)
                };
                steps.step()?;
                device.synchronize()?;
                if all.is_empty() {
                    let first = line("first_step", &[since_start()]);
                    lines.say(format!(
                        "{:<44}{:>9.2} s",
                        "process start to first step",
                        first.median_ms / 1e3
                    ));
                    all.push(first);
                }
                for _ in 0..2 {
                    steps.step()?;
                }
                device.synchronize()?;
                begin_peak(&device);
                let mut samples = Vec::new();
                while samples.len() < args.steps && !interrupt::requested() {
                    samples.push(timed(&device, || steps.step())?);
                }
                if samples.is_empty() {
                    break 'cases;
                }
                let line = line("lora_step", &samples);
                lines.say(format!(
                    "batch {rows:>3} x {len:<6} rank {rank:<5}{}{}  {:>9.0} tokens/s  {:.2} GB (plan {plan:.2})",
                    if args.grad_checkpoint { "checkpoints  " } else { "             " },
                    line.times(),
                    line.tokens_per_s,
                    line.peak_gb,
                ));
                all.push(line);
                if args.told.profile() {
                    args.told.say_profile(|| steps.step())?;
                }
            }
        }
    }
    args.told.tell(&all)
}

/// Steps on one batch.
struct Steps<'a> {
    stepper: Stepper<'a>,
    vars: Vec<(String, Var)>,
    optimizer: AdamW,
    batch: Batch,
    options: StepOptions,
}

impl<'a> Steps<'a> {
    fn new(
        model: &'a Model,
        rows: usize,
        len: usize,
        grad_checkpoint: GradCheckpoint,
    ) -> crate::Result<Self> {
        let vars = model.trainable();
        let optimizer = AdamW::new(AdamWConfig::default(), &vars)?;
        let batch = Batch::full(tokens(1, model.config.vocab_size, rows * len), len);
        let options = StepOptions { grad_checkpoint, dropout_seed: None };
        Ok(Steps { stepper: Stepper::new(model, &vars)?, vars, optimizer, batch, options })
    }

    fn step(&mut self) -> crate::Result<()> {
        let mut gradients = Gradients::default();
        let loss = self.stepper.backward(&self.batch, 1.0, self.options, &mut gradients)?;
        self.optimizer.step_after(&[loss], &self.vars, &gradients, 1e-5, Some(1.0))?;
        Ok(())
    }
}
