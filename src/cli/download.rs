//! A download from the Hugging Face hub, as a terminal shows it.

use super::interrupt;
use super::terminal::note;
use crate::load::hub::{Event, Hub, Repository};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is in the cache, brought up to date.
pub fn fetch(repository: Repository) -> anyhow::Result<PathBuf> {
    let mut shown = Shown::new(repository.to_string());
    let result = Hub::from_env()?.fetch(&repository, |event| {
        shown.event(event);
        interrupt::flow()
    });
    shown.bar.finish_and_clear();
    Ok(result?)
}

/// A download on stderr: a bar where there is a terminal, lines elsewhere.
struct Shown {
    what: String,
    bar: ProgressBar,
    lines: bool,
    bytes: u64,
    told: Instant,
}

/// Between two lines on how far a download is.
const LINE: Duration = Duration::from_secs(15);

impl Shown {
    fn new(what: String) -> Self {
        let bar = ProgressBar::hidden();
        let style = "{bar:16.cyan/dim} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        let lines = !std::io::stderr().is_terminal();
        Shown { what, bar, lines, bytes: 0, told: Instant::now() }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Begin { files, bytes } => {
                let plural = if files == 1 { "" } else { "s" };
                self.line(format!("Downloading {}: {files} file{plural}, {}", self.what, HumanBytes(bytes)));
                (self.bytes, self.told) = (bytes, Instant::now());
                self.bar.reset();
                self.bar.set_length(bytes);
                self.bar.set_message(self.what.clone());
                self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
            }
            Event::Bytes(bytes) => {
                self.bar.set_position(bytes);
                if self.lines && self.told.elapsed() >= LINE {
                    self.told = Instant::now();
                    self.line(format!("{} of {}", HumanBytes(bytes), HumanBytes(self.bytes)));
                }
            }
            Event::File(name) => self.bar.set_message(name),
            Event::Locked(name) => {
                self.note(format!("{name}: waiting for another process that downloads it"))
            }
            Event::Retry { error, wait } => self.note(format!("{error}; trying again in {wait:.1?}")),
            Event::Cached(error) => self.note(format!("{error}; using what is in the cache")),
        }
    }

    fn line(&self, line: String) {
        self.bar.suspend(|| writeln!(std::io::stderr(), "{line}").ok());
    }

    fn note(&self, text: String) {
        self.bar.suspend(|| note(text));
    }
}
