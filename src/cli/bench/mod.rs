//! `metal-candle bench`: what this machine takes for what models are made of.

pub mod matmul;
mod overhead;

/// Measure what this machine is fast at
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle bench matmul
  metal-candle bench overhead --size 64,256")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    Matmul(matmul::Args),
    Overhead(overhead::Args),
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.what {
        What::Matmul(args) => matmul::run(args),
        What::Overhead(args) => overhead::run(args),
    }
}
