//! The progress of a run on the terminal: mlx-lm's lines, and a bar where there is a terminal.

use super::terminal::{self, Lines};
use crate::train::metrics::{scientific, valid_line};
use crate::train::trainer::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows what happens.
pub struct Progress {
    bar: ProgressBar,
    lines: Lines,
    /// A line for each validation and no other.
    brief: bool,
    rate: String,
    loss: Option<f64>,
}

impl Progress {
    /// A bar of `iters` steps on stderr, if that is a terminal, and lines as mlx-lm's or `brief` ones.
    pub fn new(iters: usize, lines: Lines, brief: bool) -> Self {
        let target = match terminal::is_dumb() {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr_with_hz(8),
        };
        let bar = ProgressBar::with_draw_target(Some(iters as u64), target);
        let style = "{bar:16.cyan/dim} {pos}/{len}  {elapsed} < {eta}  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_message("starting");
        Progress { bar, lines, brief, rate: String::new(), loss: None }
    }

    /// Shows one event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Resumed { step, from } => {
                self.bar.set_position(*step as u64);
                self.line(format!("Resumed from {}: goes on after step {step}", from.display()));
            }
            Event::Skipped(found) => self.bar.suspend(|| terminal::note(format!("{found}: passed over"))),
            Event::Step { step, loss } => {
                self.bar.set_position(*step as u64);
                self.bar.set_message(format!("loss {loss:.3}{}", self.rate));
            }
            Event::Train(line) => {
                let lr = scientific(line.lr);
                self.rate =
                    format!("  lr {lr}  {:.0} tokens/s  {:.2} GB", line.tokens_per_s, line.peak_mem_gb);
                self.loss = Some(line.loss);
                if !self.brief {
                    self.line(line.to_string());
                }
            }
            Event::Validating(done, total) => self.bar.set_message(format!("validating {done}/{total}")),
            Event::Valid { step, loss, .. } if self.brief => self.line(match self.loss {
                Some(training) => {
                    format!("Step {step:>4}: held-out loss {loss:.3}, training loss {training:.3}")
                }
                None => format!("Step    0: held-out loss {loss:.3}"),
            }),
            Event::Valid { step, loss, seconds } => self.line(valid_line(*step, *loss, *seconds)),
            Event::Saved(path) if !self.brief => self.line(format!("Saved {}", path.display())),
            Event::Saved(_) => {}
        }
    }

    fn line(&self, line: String) {
        self.bar.suspend(|| self.lines.say(line));
    }

    /// Takes the bar away.
    pub fn close(&self) {
        self.bar.finish_and_clear();
    }
}
