//! The command line: one verb, one file.

mod interrupt;
mod train;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Fine-tune and run open LLMs.
#[derive(Debug, Parser)]
#[command(name = "metal-candle", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// Threads to compute with; as many as there are cores if not given
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Train(Box<train::Args>),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed pipe is how `| head` ends a listing, not an error.
            if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
                return ExitCode::SUCCESS;
            }
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = cli.threads {
        anyhow::ensure!(threads > 0, "--threads: wants at least 1, got 0");
        pool = pool.num_threads(threads);
    }
    pool.build_global()?;
    interrupt::install()?;
    // On a thread of the pool, parallel work starts without a hand-over from outside.
    let (sender, receiver) = std::sync::mpsc::channel();
    rayon::spawn(move || {
        let result = match cli.verb {
            Verb::Train(args) => train::run(*args),
        };
        sender.send(result).ok();
    });
    receiver.recv().unwrap_or_else(|_| anyhow::bail!("the command stopped without a result"))
}
