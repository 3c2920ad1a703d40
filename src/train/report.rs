//! `report.html`: one file that shows a run, with nothing to fetch — losses, learning rate, throughput, the
//! configuration, and what the model said before and after.

mod charts;

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::metrics::Metric;
use crate::Result;
use crate::load::atomic;
use charts::{Chart, Line};

const STYLE: &str = include_str!("report/style.css");

/// What the model said to a prompt before and after training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// What was asked.
    pub prompt: String,
    /// The answer of the model as it was loaded.
    pub before: String,
    /// The answer of the trained model.
    pub after: String,
}

/// What a report shows.
#[derive(Debug, Clone, Default)]
pub struct Report<'a> {
    /// The heading: what was trained.
    pub title: &'a str,
    /// A line under it: for example the model, the data and the date.
    pub subtitle: &'a str,
    /// Names and values, in the order to be shown.
    pub config: &'a [(String, String)],
    /// The lines of `metrics.jsonl`.
    pub metrics: &'a [Metric],
    /// Generations before and after.
    pub samples: &'a [Sample],
    /// The loss on the test set, if it was measured.
    pub test_loss: Option<f64>,
}

/// Writes the report in place of `path`, all of it or nothing.
///
/// Errors: the directory cannot be written to.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(path: &Path, report: &Report) -> Result<()> {
    atomic::write(path, render(report))
}

/// The report as HTML.
pub fn render(report: &Report) -> String {
    let mut html = String::with_capacity(64 << 10);
    let title = escape(report.title);
    html += "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    html += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    html += "<meta name=\"color-scheme\" content=\"light dark\">\n";
    let _ = write!(html, "<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n");
    let _ = write!(html, "<header><h1>{title}</h1>");
    if !report.subtitle.is_empty() {
        let _ = write!(html, "<p>{}</p>", escape(report.subtitle));
    }
    html += "</header>\n";
    tiles(&mut html, report);
    curves(&mut html, report.metrics);
    samples(&mut html, report.samples);
    if !report.config.is_empty() {
        html += "<section><h2>Configuration</h2>\n<table class=\"config\">\n";
        for (name, value) in report.config {
            let _ =
                writeln!(html, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value));
        }
        html += "</table></section>\n";
    }
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let _ = write!(html, "<footer>{name} {version}</footer>\n</main>\n</body>\n</html>\n");
    html
}

/// (step, value) of the metrics that have the value as a finite number.
fn series(metrics: &[Metric], value: impl Fn(&Metric) -> Option<f64>) -> Vec<(f64, f64)> {
    let finite = |metric| value(metric).filter(|value| value.is_finite());
    metrics.iter().filter_map(|metric| Some((metric.step as f64, finite(metric)?))).collect()
}

fn tiles(html: &mut String, report: &Report) {
    let tiles = tile_list(report);
    // One row, or two of about the same length.
    let columns = if tiles.len() > 6 { tiles.len().div_ceil(2) } else { tiles.len().max(1) };
    let _ = writeln!(html, "<div class=\"tiles\" style=\"--columns: {columns}\">");
    for (label, value, note) in tiles {
        let _ = writeln!(
            html,
            "<div class=\"tile\"><span>{label}</span><b>{value}</b><small>{note}</small></div>"
        );
    }
    *html += "</div>\n";
}

/// (label, value, note) of each tile that the metrics can fill.
fn tile_list(report: &Report) -> Vec<(&'static str, String, String)> {
    let metrics = report.metrics;
    let mut tiles = Vec::new();
    let valid = series(metrics, |metric| metric.valid_loss);
    if let (Some(&(_, before)), Some(&(_, after))) = (valid.first(), valid.last()) {
        let (best_step, best) = lowest(&valid);
        if valid.len() > 1 {
            tiles.push(("Validation loss", arrow(before, after), format!("best {best:.3} at {best_step}")));
            tiles.push(("Validation perplexity", arrow(before.exp(), after.exp()), String::new()));
        } else {
            tiles.push(("Validation loss", format!("{after:.3}"), String::new()));
            tiles.push(("Validation perplexity", number(after.exp()), String::new()));
        }
    }
    let train = series(metrics, |metric| metric.loss);
    if let (Some(&(_, first)), Some(&(_, last))) = (train.first(), train.last()) {
        let (best_step, best) = lowest(&train);
        tiles.push(("Training loss", arrow(first, last), format!("best {best:.3} at {best_step}")));
    }
    if let Some(loss) = report.test_loss {
        tiles.push(("Test loss", format!("{loss:.3}"), format!("perplexity {}", number(loss.exp()))));
    }
    let mut rates: Vec<f64> =
        series(metrics, |metric| metric.tokens_per_s).into_iter().map(|p| p.1).collect();
    if !rates.is_empty() {
        rates.sort_by(f64::total_cmp);
        let tokens = metrics.iter().filter_map(|metric| metric.tokens).max();
        let note = tokens.map(|tokens| format!("{} trained", number(tokens as f64))).unwrap_or_default();
        tiles.push(("Tokens/s, median", number(rates[rates.len() / 2]), note));
    }
    if let Some(peak) = metrics.iter().filter_map(|metric| metric.peak_mem_gb).reduce(f64::max) {
        tiles.push(("Peak memory", format!("{peak:.2} GB"), String::new()));
    }
    if let Some(seconds) = metrics.iter().filter_map(|metric| metric.seconds).reduce(f64::max) {
        let steps = metrics.iter().map(|metric| metric.step).max().unwrap_or(0);
        tiles.push(("Duration", duration(seconds), format!("{steps} iterations")));
    }
    tiles
}

fn lowest(points: &[(f64, f64)]) -> (f64, f64) {
    points.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default()
}

fn arrow(before: f64, after: f64) -> String {
    format!("<i>{} →</i> {}", number(before), number(after))
}

fn curves(html: &mut String, metrics: &[Metric]) {
    let train = series(metrics, |metric| metric.loss);
    let valid = series(metrics, |metric| metric.valid_loss);
    let smooth = charts::smooth(&train);
    if train.is_empty() && valid.is_empty() {
        *html += "<p class=\"none\">No losses were measured.</p>\n";
        return;
    }
    let loss = Chart {
        name: "Training and validation loss over the iterations",
        lines: &[Line::faint(&train), Line::plain(&smooth), Line::dotted(&valid)],
        from_zero: false,
        format: charts::plain,
    };
    *html += "<section><h2>Loss</h2>\n<p class=\"keys\">";
    if !train.is_empty() {
        *html += "<span class=\"key train\">training, smoothed</span><span class=\"key raw\">training</span>";
    }
    if !valid.is_empty() {
        *html += "<span class=\"key valid\">validation</span>";
    }
    // Two drawings, so that the text keeps its size on a narrow screen.
    let (wide, narrow) = (loss.draw(1080, 360), loss.draw(460, 320));
    let _ = write!(
        html,
        "</p>\n<div class=\"wide\">{wide}</div>\n<div class=\"narrow\">{narrow}</div></section>\n"
    );

    *html += "<div class=\"pair\">\n";
    let mut small = |heading: &str, name, points: &[(f64, f64)], format| {
        if !points.is_empty() {
            let chart = Chart { name, lines: &[Line::plain(points)], from_zero: true, format };
            let _ = write!(html, "<section><h2>{heading}</h2>\n{}</section>\n", chart.draw(520, 260));
        }
    };
    let rates = series(metrics, |metric| metric.lr);
    small("Learning rate", "Learning rate over the iterations", &rates, charts::scientific);
    let speeds = series(metrics, |metric| metric.tokens_per_s);
    small("Tokens per second", "Tokens per second over the iterations", &speeds, charts::plain);
    *html += "</div>\n";
}

fn samples(html: &mut String, samples: &[Sample]) {
    if samples.is_empty() {
        return;
    }
    *html += "<section><h2>The same prompts before and after</h2>\n";
    for Sample { prompt, before, after } in samples {
        let _ = writeln!(
            html,
            "<article><h3>{}</h3><div class=\"pair\"><div class=\"said\"><span>before</span><pre>{}</pre></div>\
             <div class=\"said after\"><span>after</span><pre>{}</pre></div></div></article>",
            escape(prompt),
            escape(before.trim_end()),
            escape(after.trim_end())
        );
    }
    *html += "</section>\n";
}

/// At most four digits that count, with thin spaces between thousands.
fn number(value: f64) -> String {
    match value.abs() {
        a if a < 10.0 => format!("{value:.3}"),
        a if a < 100.0 => format!("{value:.2}"),
        a if a < 1000.0 => format!("{value:.1}"),
        a if a < 1e15 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (i, c) in digits.chars().enumerate() {
                if i > 0 && (digits.len() - i) % 3 == 0 {
                    text.push('\u{202f}');
                }
                text.push(c);
            }
            text
        }
        _ => format!("{value:.2e}"),
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Vec<Metric> {
        let mut metrics = vec![Metric { step: 1, valid_loss: Some(3.0), ..Metric::default() }];
        metrics.extend((1..=40).map(|i| Metric {
            step: i * 10,
            loss: Some(3.0 / (i as f64).sqrt()),
            valid_loss: (i % 10 == 0).then(|| 3.1 / (i as f64).sqrt()),
            lr: Some(1e-4 * (40 - i) as f64 / 40.0),
            tokens_per_s: Some(900.0 + (i % 7) as f64),
            tokens: Some(i as u64 * 1000),
            peak_mem_gb: Some(1.25),
            seconds: Some(i as f64 * 2.0),
            ..Metric::default()
        }));
        metrics
    }

    #[test]
    fn a_report_is_one_file_with_escaped_samples_and_curves_with_text() {
        let metrics = run();
        let config = [("model".to_string(), "<b>".to_string())];
        let samples = [Sample {
            prompt: "Is 1 < 2 & 3?".into(),
            before: "<script>x</script>".into(),
            after: "yes".into(),
        }];
        let report = Report {
            title: "A & B",
            config: &config,
            metrics: &metrics,
            samples: &samples,
            test_loss: Some(0.5),
            ..Report::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        std::fs::write(&path, "old").unwrap();
        write(&path, &report).unwrap();
        let html = std::fs::read_to_string(&path).unwrap();
        for part in [
            "<h1>A &amp; B</h1>",
            "Is 1 &lt; 2 &amp; 3?",
            "&lt;script&gt;x&lt;/script&gt;",
            "<th scope=\"row\">model</th><td>&lt;b&gt;</td>",
            "<i>3.000 →</i> 0.490",
            "best 0.474 at 400",
            "perplexity 1.649",
            "1 min 20 s",
        ] {
            assert!(html.contains(part), "no {part}");
        }
        assert_eq!(html.matches("<svg").count(), 4);
        assert!(html.matches("<text").count() > 20, "axes have labels as text");
        assert!(!html.contains("<script"));
        // The only address is the name of SVG's namespace, which nothing fetches.
        assert_eq!(html.replace("http://www.w3.org/2000/svg", "").matches("://").count(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn odd_metrics_draw_without_panic() {
        let at = |step, loss| Metric { step, loss: Some(loss), lr: Some(0.0), ..Metric::default() };
        let many: Vec<Metric> = (0..10_000).map(|i| at(i, (i % 13) as f64)).collect();
        for metrics in [
            vec![],
            vec![at(1, 2.0)],
            vec![at(5, 2.0), at(5, 2.0)],
            vec![at(1, f64::NAN), at(2, f64::INFINITY)],
            vec![at(1, 0.0), at(2, 1e300)],
            many,
        ] {
            let html = render(&Report { title: "t", metrics: &metrics, ..Report::default() });
            assert!(html.ends_with("</html>\n"));
            assert!(html.len() < 400_000, "{}", html.len());
            assert!(!html.contains("NaN") && !html.contains("inf<"), "{html}");
        }
    }
}
