//! `metal-candle bench`: what this machine takes for what models are made of.

pub mod matmul;

/// Measure what this machine is fast at
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    Matmul(matmul::Args),
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.what {
        What::Matmul(args) => matmul::run(args),
    }
}
