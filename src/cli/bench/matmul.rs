//! `metal-candle bench matmul`: each backend of products over a grid of shapes, and the table that `auto` chooses by.

use super::super::compute::DeviceArg;
use super::super::interrupt;
use super::super::terminal::{self, Lines};
use super::job::Dtype;
use crate::matmul::{Backend, Entry, Rule, Shape, Table, measure};
use anyhow::{Context, anyhow};
use candle_core::DType;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Measure products on each backend, and let the fastest compute from now on
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle bench matmul
  metal-candle bench matmul --dtype bf16 --shape 512x2048x5632 --seconds 2
  metal-candle bench matmul --device cuda --results matmul.jsonl

Backends take turns, and each sample ends with a synchronisation. What is measured is kept in the
cache directory, and products of this device go to the fastest backend; METAL_CANDLE_MATMUL names
one for all instead. Stop other programs first.")]
pub struct Args {
    #[command(flatten)]
    device: DeviceArg,
    /// The dtypes to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Dtype::F32, Dtype::Bf16, Dtype::F16])]
    dtype: Vec<Dtype>,
    /// Products to measure instead of the grid: MxKxN, or BATCHxMxKxN; a T at the end for a second operand `(n, k)`
    #[arg(long, value_name = "MxKxN", value_parser = shape)]
    shape: Vec<Shape>,
    /// Seconds of each product
    #[arg(long, value_name = "S", default_value_t = 0.3, value_parser = seconds)]
    seconds: f64,
    /// Measure, and keep nothing
    #[arg(long)]
    no_save: bool,
    /// Also write the measurements to a file of JSON Lines
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// End with one JSON object on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    table: &'a Table,
    rules: &'a [Rule],
    path: Option<PathBuf>,
}

/// A line of `--results`: the fields of `benches/results`.
#[derive(Serialize)]
struct Line<'a> {
    op: &'static str,
    pass: &'static str,
    shape: String,
    dtype: &'a str,
    provider: Backend,
    median_us: f64,
    p20_us: f64,
    p80_us: f64,
    method: &'static str,
    device: &'a str,
    versions: &'a str,
    date: &'a str,
}

/// Seconds of a measurement.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("wants seconds up to 3600".into()),
    }
}

/// A product by its sizes.
fn shape(text: &str) -> Result<Shape, String> {
    let wants = || format!("wants MxKxN or BATCHxMxKxN, each from 1 on, got {text:?}");
    let sizes = text.strip_suffix(['T', 't']);
    let numbers: Vec<usize> =
        sizes.unwrap_or(text).split('x').map(str::parse).collect::<Result<_, _>>().map_err(|_| wants())?;
    let (batch, [m, k, n]) = match numbers[..] {
        [m, k, n] => (1, [m, k, n]),
        [batch, m, k, n] => (batch, [m, k, n]),
        _ => return Err(wants()),
    };
    // What a tensor of a benchmark may hold.
    const MOST: u128 = 1 << 30;
    let elements = |x: usize, y: usize| (x as u128 * y as u128).saturating_mul(batch as u128);
    let fits =
        [elements(m, k), elements(k, n), elements(m, n)].iter().all(|count| (1..=MOST).contains(count));
    if !fits {
        return Err(wants());
    }
    let shape = Shape::new(batch, m, n, k);
    Ok(if sizes.is_some() { shape.by_weight() } else { shape })
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let device = args.device.open()?;
    let lines = Lines::new(args.json);
    let shapes = if args.shape.is_empty() { measure::grid(&device) } else { args.shape.clone() };
    let backends = measure::backends(&device)?;
    let (mut entries, mut failed) = (Vec::new(), None);
    'dtypes: for dtype in &args.dtype {
        let mut head = None;
        for shape in &shapes {
            // What was measured before Ctrl-C counts.
            if interrupt::requested() {
                break 'dtypes;
            }
            let budget = Duration::from_secs_f64(args.seconds);
            let entry = match measure::entry(&device, (*dtype).into(), *shape, budget) {
                Ok(entry) => entry,
                Err(error) => {
                    let what = format!("{shape} in {}", DType::from(*dtype).as_str());
                    failed = Some(anyhow::Error::new(error).context(what));
                    break 'dtypes;
                }
            };
            head.get_or_insert_with(|| title(&lines, &entry.dtype, backends));
            lines.say(row(&lines, &entry, backends));
            entries.push(entry);
        }
    }
    if entries.is_empty() {
        return Err(failed.unwrap_or_else(|| anyhow!("bench matmul: stopped before a product was measured")));
    }
    let table = measure::table(&device, entries)?;
    let rules = table.rules();
    say_rules(&lines, &rules);
    let path = (!args.no_save).then(|| measure::keep(&device, &table)).transpose()?;
    if let Some(path) = &path {
        lines.say(format!("\nKept in {}: `metal-candle doctor` shows it.", path.display()));
    }
    if let Some(path) = &args.results {
        write_results(path, &table).with_context(|| path.display().to_string())?;
    }
    if args.json {
        terminal::json(&Report { table: &table, rules: &rules, path })?;
    }
    // What was measured before it counts.
    failed.map_or(Ok(()), Err)
}

fn title(lines: &Lines, dtype: &str, backends: &[Backend]) {
    let backends: String = backends.iter().map(|backend| format!("{backend:>24}")).collect();
    lines.say(lines.bold(format!("{dtype:<28}{backends}  µs, 20 to 80 %")));
}

fn row(lines: &Lines, entry: &Entry, backends: &[Backend]) -> String {
    let winner = entry.winner();
    let times = backends.iter().map(|backend| {
        // Not every backend computes every product.
        let Some(time) = entry.times.get(backend) else { return format!("{:>24}", "–") };
        let spread = format!("{} ({}-{})", micros(time.median_us), micros(time.p20_us), micros(time.p80_us));
        let text = format!("{spread:>24}");
        if *backend == winner { lines.bold(text) } else { text }
    });
    format!("{:<28}{}  {winner}", entry.shape, times.collect::<String>())
}

/// Three digits of it.
fn micros(us: f64) -> String {
    match us {
        100.0.. => format!("{us:.0}"),
        10.0.. => format!("{us:.1}"),
        _ => format!("{us:.2}"),
    }
}

/// Where one backend overtakes another, in words.
pub fn in_words(rules: &[Rule]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let kind = |rule: &Rule| (rule.dtype.clone(), rule.class, rule.b_transposed);
        let follows = i > 0 && kind(&rules[i - 1]) == kind(rule);
        match lines.last_mut().filter(|_| follows) {
            Some(line) => *line += &format!(", from {} {}", flops(rule.from_flops), rule.backend),
            None => {
                let weights = if rule.b_transposed { "by weights" } else { "" };
                lines.push(format!("{:<5}{:<9} {weights:<11}{}", rule.dtype, rule.class, rule.backend));
            }
        }
    }
    lines
}

/// Operations, in words.
pub fn flops(flops: f64) -> String {
    match flops {
        1e9.. => format!("{:.3} GFLOP", flops / 1e9),
        _ => format!("{:.3} MFLOP", flops / 1e6),
    }
}

fn say_rules(lines: &Lines, rules: &[Rule]) {
    lines.say(format!("\n{}", lines.bold("What computes a product that is not in the table")));
    in_words(rules).iter().for_each(|line| lines.say(format!("  {line}")));
}

fn write_results(path: &Path, table: &Table) -> anyhow::Result<()> {
    crate::load::atomic::replace(path, |temporary| {
        let wrong = crate::Error::io(temporary);
        let write = || {
            let mut file = std::io::BufWriter::new(std::fs::File::create(temporary)?);
            for entry in &table.entries {
                for (backend, time) in &entry.times {
                    let line = Line {
                        op: "matmul",
                        pass: "fwd",
                        shape: entry.shape.to_string(),
                        dtype: &entry.dtype,
                        provider: *backend,
                        median_us: time.median_us,
                        p20_us: time.p20_us,
                        p80_us: time.p80_us,
                        method: "synced",
                        device: &table.key.device,
                        versions: &table.key.versions,
                        date: &table.date,
                    };
                    writeln!(file, "{}", serde_json::to_string(&line)?)?;
                }
            }
            file.flush()
        };
        write().map_err(wrong)
    })?;
    Ok(())
}
