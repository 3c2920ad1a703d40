//! `metal-candle bench overhead`: what a product by Metal Performance Shaders costs beside its arithmetic.

use super::super::compute::DeviceArg;
use anyhow::bail;
use std::path::PathBuf;

/// Measure what a product by Metal Performance Shaders costs beside its arithmetic
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle bench overhead
  metal-candle bench overhead --size 64,256 --json
  metal-candle bench overhead --results overhead.jsonl

Each row is a way to compute products of n x n matrices of f32: a queue for each call, the pooled
queue, kept kernel objects, several products in a command buffer, several command buffers before a
wait; a product as others call it, with the wait for Candle's work; and Candle's own. Below them a
product of one row by the kernel for matrices and by the one for vectors, and the softmax of n rows
by MPSMatrixSoftMax and by this crate. Times are medians for one product, and each sample ends with
a wait. On softmetal, which is software, times mean nothing: no_timings says so in what is written.")]
pub struct Args {
    #[command(flatten)]
    device: DeviceArg,
    /// The sizes of the matrices
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [64, 256, 1024, 4096],
        value_parser = clap::value_parser!(u32).range(1..=16384))]
    size: Vec<u32>,
    /// Samples of each way
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeats: u32,
    /// Also write the measurements to a file of JSON Lines
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// End with one JSON object on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let device = args.device.open()?;
    #[cfg(feature = "metal")]
    if device.is_metal() {
        return metal::run(args, &device);
    }
    let name = crate::device::name(&device);
    bail!("bench overhead: wants an Apple GPU, got {name}: Metal Performance Shaders compute there only")
}

#[cfg(feature = "metal")]
mod metal {
    use super::Args;
    use crate::cli::bench::job::write_lines;
    use crate::cli::interrupt;
    use crate::cli::terminal::{self, Lines};
    use crate::matmul::mps::{Cost, overhead};
    use anyhow::Context;
    use candle_core::Device;
    use serde::Serialize;

    /// What `--json` prints.
    #[derive(Serialize)]
    struct Report {
        device: String,
        /// Whether the device is software, whose times say nothing about a GPU.
        no_timings: bool,
        costs: Vec<Cost>,
    }

    /// A line of `--results`.
    #[derive(Serialize)]
    struct Line<'a> {
        op: &'static str,
        #[serde(flatten)]
        cost: &'a Cost,
        dtype: &'static str,
        method: &'static str,
        no_timings: bool,
        device: &'a str,
        versions: &'a str,
        date: &'a str,
    }

    pub fn run(args: &Args, device: &Device) -> anyhow::Result<()> {
        let lines = Lines::new(args.json);
        let name = crate::device::name(device);
        lines.say(lines.bold(&name));
        let no_timings = name == "softmetal";
        if no_timings {
            lines.say("This device is software: its times say nothing about a GPU.");
        }
        let head = ["queue", "object", "descriptor", "encode", "commit", "wait", "GPU", "total"];
        let head: String = head.iter().map(|name| format!("{name:>11}")).collect();
        lines.say(lines.bold(format!("{:<6}{:<16}{head}  µs", "n", "mode")));
        let mut costs = Vec::new();
        for size in &args.size {
            if interrupt::requested() {
                break;
            }
            let rows = overhead(device, *size as usize, args.repeats as usize)?;
            rows.iter().for_each(|cost| lines.say(row(cost)));
            costs.extend(rows);
        }
        if let Some(path) = &args.results {
            let date = chrono::Local::now().format("%Y-%m-%d").to_string();
            let versions = concat!("metal-candle ", env!("CARGO_PKG_VERSION"), ", candle 0.11.1");
            let line = |cost| Line {
                op: "overhead",
                cost,
                dtype: "f32",
                method: "synced",
                no_timings,
                device: &name,
                versions,
                date: &date,
            };
            write_lines(path, &costs.iter().map(line).collect::<Vec<_>>())
                .with_context(|| path.display().to_string())?;
        }
        match args.json {
            true => terminal::json(&Report { device: name, no_timings, costs }),
            false => Ok(()),
        }
    }

    fn row(cost: &Cost) -> String {
        let made = [cost.queue_us, cost.object_us, cost.descriptor_us];
        let ran = [cost.encode_us, cost.commit_us, cost.wait_us, cost.gpu_us];
        let parts = made.into_iter().chain(ran).chain([Some(cost.total_us)]);
        let cells: String =
            parts.map(|us| us.map_or(format!("{:>11}", "–"), |us| format!("{us:>11.1}"))).collect();
        format!("{:<6}{:<16}{cells}", cost.size, cost.mode)
    }
}
