//! `metal-candle bench generate`: what reading a prompt takes, and each token after it.

use super::super::interrupt;
use super::job::{JobModel, Line, Subject, Told, begin_peak, since_start, timed, tokens};
use super::train::positive;
use crate::models::Model;
use crate::ops::sample::{Choice, sample};
use candle_core::Tensor;
use std::time::{Duration, Instant};

/// Measure prefill and greedy decoding
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle bench generate --model ./Qwen3-0.6B
  metal-candle bench generate --model ./Qwen3-0.6B --batch-size 1,32 --prompt-tokens 128,8192
  metal-candle bench generate --model ./Llama-3.2-1B --random-weights --tokens 256 --json

Prompts are random tokens. Each token is chosen and known to the host before the next one is
computed. first_token is from the start of the process to the first token.")]
pub struct Args {
    #[command(flatten)]
    model: JobModel,
    /// Rows of a batch
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1], value_parser = positive)]
    batch_size: Vec<usize>,
    /// Tokens of a prompt
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [128], value_parser = positive)]
    prompt_tokens: Vec<usize>,
    /// Tokens that are generated
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    tokens: usize,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    repeats: usize,
    #[command(flatten)]
    told: Told,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (name, model) = args.model.open()?;
    let (lines, mut all) = (args.told.lines(), Vec::new());
    let (device, subject) = (model.device().clone(), Subject { name: &name, model: &model });
    lines.say(lines.bold(format!("{name}, {} on {}", model.dtype().as_str(), crate::device::name(&device))));
    for &rows in &args.batch_size {
        for &len in &args.prompt_tokens {
            let ids = tokens(2, model.config.vocab_size, rows * len);
            let (mut prefill, mut decode) = (Vec::new(), Vec::new());
            for repeat in 0..=args.repeats {
                if interrupt::requested() {
                    break;
                }
                let mut answer = Answer::new(&model, rows);
                let prompt = Tensor::from_slice(&ids, (rows, len), &device)?;
                let read = timed(&device, || answer.read(&prompt))?;
                if all.is_empty() {
                    let first = Line {
                        batch: rows,
                        length: len,
                        ..Line::new("first_token", &subject, &[since_start()], rows)
                    };
                    lines.say(format!(
                        "{:<44}{:>9.2} s",
                        "process start to first token",
                        first.median_ms / 1e3
                    ));
                    all.push(first);
                }
                let each = answer.decode(args.tokens)?;
                // The first is to warm up.
                if repeat == 0 {
                    begin_peak(&device);
                    continue;
                }
                prefill.push(read);
                decode.extend(each);
            }
            for (job, samples, count) in [("prefill", &prefill, len), ("decode", &decode, 1)] {
                if samples.is_empty() {
                    continue;
                }
                let length = if job == "decode" { args.tokens } else { len };
                let line = Line { batch: rows, length, ..Line::new(job, &subject, samples, rows * count) };
                lines.say(format!(
                    "{job:<8} batch {rows:>3} after {:<6}{:<12}{}  {:>9.0} tokens/s  {:.2} GB",
                    if job == "decode" { len } else { 0 },
                    if job == "decode" { String::new() } else { format!("{len} tokens") },
                    line.times(),
                    line.tokens_per_s,
                    line.peak_gb,
                ));
                all.push(line);
            }
            if args.told.profile() {
                let mut answer = Answer::new(&model, rows);
                answer.read(&Tensor::from_slice(&ids, (rows, len), &device)?)?;
                args.told.say_profile(|| answer.decode(1).map(drop))?;
            }
        }
    }
    args.told.tell(&all)
}

/// An answer to each row of a prompt.
struct Answer<'a> {
    model: &'a Model,
    cache: crate::nn::KvCache,
    next: Vec<u32>,
}

impl<'a> Answer<'a> {
    fn new(model: &'a Model, rows: usize) -> Self {
        Answer { model, cache: model.cache(&vec![0; rows]), next: Vec::new() }
    }

    fn read(&mut self, ids: &Tensor) -> crate::Result<()> {
        let logits = self.model.forward(ids, &mut self.cache)?;
        let greedy = vec![Choice::greedy(); logits.dim(0)?];
        self.next = match sample(&logits, &greedy)? {
            Some(chosen) => chosen.into_iter().map(|token| token.map_or(0, |(id, _)| id)).collect(),
            None => logits.argmax(1)?.to_vec1()?,
        };
        Ok(())
    }

    /// The time of each token.
    fn decode(&mut self, count: usize) -> crate::Result<Vec<Duration>> {
        let mut samples = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            let ids = Tensor::from_slice(&self.next, (self.next.len(), 1), self.model.device())?;
            self.read(&ids)?;
            samples.push(start.elapsed());
        }
        Ok(samples)
    }
}
