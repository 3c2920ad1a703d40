//! `metal-candle bench matmul`: each backend of products over a grid of shapes, and the table that `auto` chooses by.

use super::super::compute::DeviceArg;
use super::super::interrupt;
use super::super::terminal::{self, Lines};
use super::job::{Dtype, write_lines};
use crate::matmul::measure::{self, Check};
use crate::matmul::{self, Backend, Entry, Rule, Shape, Table, Timing};
use anyhow::{Context, anyhow};
use candle_core::{DType, Device};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Measure products on each backend, and let the fastest compute from now on
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle bench matmul
  metal-candle bench matmul --dtype bf16 --shape 512x2048x5632 --seconds 2
  metal-candle bench matmul --device cuda --results matmul.jsonl

Backends take turns, and each sample ends with a synchronisation. What is measured is kept in the
cache directory, and products of this device go to the fastest backend; METAL_CANDLE_MATMUL names
one for all instead. Then each product is measured again, with that choice among the backends; one whose
choice was behind is chosen for anew by both runs.
Stop other programs first.")]
pub struct Args {
    #[command(flatten)]
    device: DeviceArg,
    /// The dtypes to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Dtype::F32, Dtype::Bf16, Dtype::F16])]
    dtype: Vec<Dtype>,
    /// Products to measure instead of the grid: MxKxN, or BATCHxMxKxN; a T at the end for a second operand `(n, k)`
    #[arg(long, value_name = "MxKxN", value_parser = shape)]
    shape: Vec<Shape>,
    /// Seconds of each product; up to ten times as many where two backends are about as fast
    #[arg(long, value_name = "S", default_value_t = 0.3, value_parser = seconds)]
    seconds: f64,
    /// Measure, and keep nothing: there is no choice to measure then
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
    /// The choice beside the backends; empty where nothing was kept, or METAL_CANDLE_MATMUL leaves no choice.
    auto: &'a [Check],
}

/// A line of `--results`: the fields of `benches/results`.
#[derive(Serialize)]
struct Line<'a> {
    op: &'static str,
    pass: &'static str,
    shape: String,
    dtype: &'a str,
    /// A backend; `auto` in the run of the choice beside them.
    provider: String,
    median_us: f64,
    p20_us: f64,
    p80_us: f64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    choice: Option<Choice>,
    method: &'static str,
    device: &'a str,
    versions: &'a str,
    date: &'a str,
}

/// What `auto` was, and the best backend of the same run.
#[derive(Serialize)]
struct Choice {
    chosen: Backend,
    best: Backend,
    best_us: f64,
    auto_of_best: f64,
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
            head.get_or_insert_with(|| title(&lines, &entry.dtype, &backends));
            lines.say(row(&lines, &entry, &backends));
            entries.push(entry);
        }
    }
    if entries.is_empty() {
        return Err(failed.unwrap_or_else(|| anyhow!("bench matmul: stopped before a product was measured")));
    }
    let mut table = measure::table(&device, entries)?;
    say_rules(&lines, &table.rules());
    let path = (!args.no_save).then(|| measure::keep(&device, &table)).transpose()?;
    if let Some(path) = &path {
        lines.say(format!("\nKept in {}: `metal-candle doctor` shows it.", path.display()));
    }
    let mut checks = Vec::new();
    if path.is_some() && matmul::environment()?.is_none() {
        let budget = Duration::from_secs_f64(args.seconds);
        failed = failed.or(check(&device, &lines, &mut table, budget, &mut checks).err());
    }
    if let Some(path) = &args.results {
        write_lines(path, &results(&table, &checks)).with_context(|| path.display().to_string())?;
    }
    if args.json {
        // The rules of the table as the second run left it.
        terminal::json(&Report { table: &table, rules: &table.rules(), path, auto: &checks })?;
    }
    // What was measured before it counts.
    failed.map_or(Ok(()), Err)
}

/// What `auto` may take more than the best backend.
const BEHIND: f64 = 1.03;

/// Measures what was measured again, with the choice among the backends. Both runs decide anew where it was behind in the
/// second: of two that are about as fast, which is ahead may change in minutes.
fn check(
    device: &Device,
    lines: &Lines,
    table: &mut Table,
    budget: Duration,
    checks: &mut Vec<Check>,
) -> anyhow::Result<()> {
    lines.say(lines.bold(format!(
        "\n{:<28}{:<6}{:>24}  best backend",
        "auto, beside the backends", "", "µs, 20 to 80 %"
    )));
    for i in 0..table.entries.len() {
        if interrupt::requested() {
            return Ok(());
        }
        let entry = &mut table.entries[i];
        let (shape, before) = (entry.shape, entry.winner());
        let dtype: DType = entry.dtype.parse().map_err(|_| anyhow!("wants a dtype, got {}", entry.dtype))?;
        let mut check = measure::check(device, dtype, shape, budget)?;
        if check.of_best() > BEHIND {
            entry.join(&check.times);
            if entry.winner() != before {
                measure::keep(device, table)?;
                check = measure::check(device, dtype, shape, budget)?;
            }
        }
        let Check { chosen, best, best_us, .. } = &check;
        let text = format!("{:<28}{:<6}{:>24}", check.shape, check.dtype, spread(&check.auto));
        let beside = format!("{best} {}, auto {:.3} of it: {chosen}", micros(*best_us), check.of_best());
        lines.say(format!("{text}  {beside}"));
        checks.push(check);
    }
    let near = checks.iter().filter(|check| check.of_best() <= BEHIND).count();
    let most = checks.iter().map(Check::of_best).fold(f64::NAN, f64::max);
    lines.say(format!(
        "auto is within 3 % of the best backend in {near} of {}, and {most:.3} of it at most",
        checks.len()
    ));
    Ok(())
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
        let text = format!("{:>24}", spread(time));
        if *backend == winner { lines.bold(text) } else { text }
    });
    format!("{:<28}{}  {winner}", entry.shape, times.collect::<String>())
}

/// The median, and most of the samples.
fn spread(time: &Timing) -> String {
    format!("{} ({}-{})", micros(time.median_us), micros(time.p20_us), micros(time.p80_us))
}

/// Three digits of it.
pub fn micros(us: f64) -> String {
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

/// Each backend by product, and the choice after them.
fn results<'a>(table: &'a Table, checks: &[Check]) -> Vec<Line<'a>> {
    let line = |entry: &'a Entry, provider: String, time: &Timing, choice| Line {
        op: "matmul",
        pass: "fwd",
        shape: entry.shape.to_string(),
        dtype: &entry.dtype,
        provider,
        median_us: time.median_us,
        p20_us: time.p20_us,
        p80_us: time.p80_us,
        choice,
        method: "synced",
        device: &table.key.device,
        versions: &table.key.versions,
        date: &table.date,
    };
    let mut all = Vec::new();
    for entry in &table.entries {
        all.extend(entry.times.iter().map(|(backend, time)| line(entry, backend.to_string(), time, None)));
        let of = |check: &&Check| (&check.dtype, check.shape) == (&entry.dtype, entry.shape);
        all.extend(checks.iter().find(of).map(|check| {
            let &Check { chosen, best, best_us, .. } = check;
            let choice = Choice { chosen, best, best_us, auto_of_best: check.of_best() };
            line(entry, "auto".into(), &check.auto, Some(choice))
        }));
    }
    all
}
