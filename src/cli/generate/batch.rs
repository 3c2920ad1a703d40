//! `generate --prompts`: a file of prompts, a file of answers.

use super::{Args, Opened};
use crate::cli::interrupt;
use crate::cli::terminal::note;
use crate::generate::{Event, JobDefaults, Jobs};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::Path;
use std::time::Instant;

/// Answers all rows that have no answer yet.
pub fn run(args: &Args, opened: &Opened, prompts: &Path, output: &Path) -> anyhow::Result<()> {
    let defaults = JobDefaults {
        template: opened.template.as_ref(),
        system: args.system_prompt.as_deref(),
        tools: opened.tools.as_ref(),
        variables: opened.variables.clone(),
    };
    let context = opened.config.max_position_embeddings;
    // Bad rows are told of before the weights are read, which takes a while.
    let jobs = Jobs::read(prompts, &opened.tokenizer, &defaults, &opened.options, context)?;
    let model = opened.model(args)?;
    let adapter = model.adapter_fingerprint()?.unwrap_or_default();
    let identity = format!("{} {adapter} {:?}", model.fingerprint()?, model.dtype());

    let bar = ProgressBar::with_draw_target(Some(jobs.len() as u64), ProgressDrawTarget::stderr_with_hz(8));
    if let Ok(style) =
        ProgressStyle::with_template("{bar:16.cyan/dim} {pos}/{len}  {elapsed} < {eta}  {wide_msg}")
    {
        bar.set_style(style.progress_chars("━╸─"));
    }
    let started = Instant::now();
    let mut tokens = 0;
    let outcome = jobs.run(&model, &identity, &opened.tokenizer, args.batch_size, output, |done, event| {
        match event {
            Some(Event::Token { .. }) => tokens += 1,
            None => bar.set_position(done as u64),
            _ => {}
        }
        bar.set_message(format!("{:.1} tokens/s", tokens as f64 / started.elapsed().as_secs_f64()));
        interrupt::flow()
    });
    bar.finish_and_clear();
    let outcome = outcome?;
    if args.verbose {
        let seconds = started.elapsed().as_secs_f64();
        let rate = outcome.tokens as f64 / seconds.max(1e-9);
        let already = match outcome.already {
            0 => String::new(),
            n => format!(", {n} were there already"),
        };
        eprintln!(
            "Answered {} of {} rows{already}: {} tokens, {rate:.3} tokens-per-sec",
            outcome.answered, outcome.rows, outcome.tokens
        );
    }
    if interrupt::requested() {
        note(format!("stopped: the same command goes on after row {}", outcome.already + outcome.answered));
    }
    Ok(())
}
