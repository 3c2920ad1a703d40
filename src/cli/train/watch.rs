//! The progress of a run on the terminal: mlx-lm's lines, and a bar where there is a terminal.

use crate::train::metrics::valid_line;
use crate::train::trainer::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Prints what happens.
pub struct Watch {
    bar: ProgressBar,
    quiet: bool,
    shown: String,
}

impl Watch {
    /// A bar of `iters` steps on stderr; lines go to stdout, or to stderr when `quiet`.
    pub fn new(iters: usize, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(iters as u64), ProgressDrawTarget::stderr_with_hz(4));
        let style = "{bar:24} {pos}/{len} {elapsed} < {eta} {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Watch { bar, quiet, shown: String::new() }
    }

    /// Shows one event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Step { step, loss } => {
                self.bar.set_position(*step as u64);
                self.bar.set_message(format!("loss {loss:.3}{}", self.shown));
            }
            Event::Train(line) => {
                self.shown = format!(
                    ", lr {}, {:.0} tokens/s, {:.2} GB",
                    crate::train::metrics::scientific(line.lr),
                    line.tokens_per_s,
                    line.peak_mem_gb
                );
                self.line(line.to_string());
            }
            Event::Validating(done, total) => self.bar.set_message(format!("validating {done}/{total}")),
            Event::Valid { step, loss, seconds } => self.line(valid_line(*step, *loss, *seconds)),
            Event::Saved(path) => self.line(format!("Saved {}", path.display())),
        }
    }

    fn line(&self, line: String) {
        let quiet = self.quiet;
        self.bar.suspend(|| if quiet { eprintln!("{line}") } else { println!("{line}") });
    }

    /// Takes the bar away.
    pub fn close(&self) {
        self.bar.finish_and_clear();
    }
}
