//! The command line: one verb, one file.

mod bench;
mod cache_prompt;
mod chat;
mod compute;
mod convert;
mod doctor;
mod download;
mod draft;
mod finetune;
mod fuse;
mod generate;
mod interrupt;
mod progress;
mod quickstart;
mod sampling;
mod shell;
mod source;
mod terminal;
mod train;

use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Fine-tune and run open LLMs.
#[derive(Debug, Parser)]
#[command(name = "metal-candle", version, about, propagate_version = true)]
#[command(after_help = "Start with `metal-candle quickstart`: it needs no model and no network.

Exit status: 0 done, 1 an error, 2 wrong usage, 130 stopped by Ctrl-C (what was learned is saved).")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// Threads to compute with; as many as there are cores if not given
    #[arg(long, global = true, value_name = "N", display_order = 900)]
    threads: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Quickstart(quickstart::Args),
    Train(Box<train::Args>),
    Generate(Box<generate::Args>),
    Fuse(fuse::Args),
    Convert(convert::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Completions(shell::Completions),
    Man(shell::Man),
    Chat(Box<chat::Args>),
    CachePrompt(Box<cache_prompt::Args>),
}

/// Lines of an error that are shown; a wrong checkpoint can have a problem for every tensor.
const ERROR_LINES: usize = 12;

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    bench::job::since_start();
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) if interrupt::requested() => ExitCode::from(interrupt::STATUS),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed pipe is how `| head` ends a listing, not an error.
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
            {
                return ExitCode::SUCCESS;
            }
            if let Some(stopped @ crate::Error::Stopped { .. }) = error.downcast_ref() {
                terminal::note(stopped);
                return ExitCode::from(interrupt::STATUS);
            }
            let mut text = String::new();
            for cause in error.chain().map(ToString::to_string) {
                // Most errors end with their own cause.
                if !text.contains(&cause) {
                    text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
                }
            }
            let lines: Vec<&str> = text.lines().collect();
            let mut shown = lines[..lines.len().min(ERROR_LINES)].join("\n");
            if lines.len() > ERROR_LINES {
                shown += &format!("\n  ... and {} more", lines.len() - ERROR_LINES);
            }
            writeln!(std::io::stderr(), "error: {shown}").ok();
            ExitCode::FAILURE
        }
    }
}

/// Reads a file of `train --config` as `train` does, and nothing else: for tests and fuzzing.
///
/// # Errors
///
/// When `train` would refuse the file.
pub fn check_train_config(path: &std::path::Path) -> Result<(), String> {
    train::Args::of_file(path).map(drop).map_err(|error| format!("{error:#}"))
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = cli.threads {
        anyhow::ensure!(threads > 0, "--threads: wants at least 1, got 0");
        pool = pool.num_threads(threads);
    }
    pool.build_global()?;
    interrupt::install(match cli.verb {
        Verb::Quickstart(_) | Verb::Train(_) => Some("stopping after this step; once more to stop at once"),
        Verb::Fuse(_) | Verb::Convert(_) => Some("stopping; once more to stop at once"),
        Verb::Bench(_) => Some("stopping after this sample; once more to stop at once"),
        Verb::Chat(_) => Some("stopping; once more ends the chat"),
        _ => None,
    })?;
    // On a thread of the pool, parallel work starts without a hand-over from outside.
    let (sender, receiver) = std::sync::mpsc::channel();
    rayon::spawn(move || {
        let result = match cli.verb {
            Verb::Quickstart(args) => quickstart::run(&args),
            Verb::Train(args) => train::run(*args),
            Verb::Generate(args) => generate::run(*args),
            Verb::Fuse(args) => fuse::run(args),
            Verb::Convert(args) => convert::run(args),
            Verb::Doctor(args) => doctor::run(&args),
            Verb::Bench(args) => bench::run(&args),
            Verb::Completions(args) => shell::completions(&args),
            Verb::Man(args) => shell::man(&args),
            Verb::Chat(args) => chat::run(*args),
            Verb::CachePrompt(args) => cache_prompt::run(*args),
        };
        sender.send(result).ok();
    });
    receiver.recv().unwrap_or_else(|_| anyhow::bail!("the command stopped without a result"))
}
