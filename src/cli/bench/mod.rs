//! `metal-candle bench`: what this machine takes for what models are made of.

mod generate;
pub mod job;
pub mod matmul;
mod overhead;
mod train;

/// Measure what this machine is fast at
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle bench train --model ./Qwen3-0.6B
  metal-candle bench generate --model ./Qwen3-0.6B
  metal-candle bench matmul
  metal-candle bench overhead --size 64,256")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    Train(train::Args),
    Generate(generate::Args),
    Matmul(matmul::Args),
    Overhead(overhead::Args),
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.what {
        What::Train(args) => train::run(args),
        What::Generate(args) => generate::run(args),
        What::Matmul(args) => matmul::run(args),
        What::Overhead(args) => overhead::run(args),
    }
}
