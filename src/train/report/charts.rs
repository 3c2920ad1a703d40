//! Curves as inline SVG. Colours are marks that the page's style sheet replaces, so that one drawing serves light
//! and dark.

use plotters::coord::ranged1d::{KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Plotters rounds to whole units: drawing larger, and letting the view box shrink it, keeps curves smooth.
const SCALE: u32 = 4;

/// More points than this are averaged, as no screen shows them.
const MAX_POINTS: usize = 1000;

const INK: RGBColor = RGBColor(0x66, 0x66, 0x6a);
const GRID: RGBColor = RGBColor(0xe0, 0xe0, 0xe1);
const MAIN: RGBColor = RGBColor(0x25, 0x63, 0xeb);
const FAINT: RGBColor = RGBColor(0xa8, 0xc3, 0xf8);
const SECOND: RGBColor = RGBColor(0xea, 0x58, 0x0c);

/// One curve over the steps.
pub(super) struct Line<'a> {
    points: &'a [(f64, f64)],
    color: RGBColor,
    width: u32,
    dots: bool,
}

impl<'a> Line<'a> {
    pub(super) fn plain(points: &'a [(f64, f64)]) -> Self {
        Line { points, color: MAIN, width: 2 * SCALE, dots: false }
    }

    pub(super) fn faint(points: &'a [(f64, f64)]) -> Self {
        Line { points, color: FAINT, width: SCALE, dots: false }
    }

    pub(super) fn dotted(points: &'a [(f64, f64)]) -> Self {
        Line { points, color: SECOND, width: 3 * SCALE / 2, dots: true }
    }
}

/// Curves that share their axes.
pub(super) struct Chart<'a> {
    /// What is drawn, for those who cannot see it.
    pub(super) name: &'a str,
    pub(super) lines: &'a [Line<'a>],
    /// Whether the y axis starts at zero.
    pub(super) from_zero: bool,
    /// The labels of the y axis.
    pub(super) format: fn(f64) -> String,
}

/// An axis with ticks at 1, 2 or 5 times a power of ten.
struct Axis {
    from: f64,
    to: f64,
    /// Integers only.
    whole: bool,
}

impl Ranged for Axis {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        low + ((value - self.from) / (self.to - self.from) * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        ticks(self.from, self.to, hint.max_num_points(), self.whole)
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

impl plotters::coord::ranged1d::ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        plain(*value)
    }
}

fn ticks(from: f64, to: f64, most: usize, whole: bool) -> Vec<f64> {
    let rough = (to - from) / most.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&step| step >= rough);
    let step = step.unwrap_or(rough).max(if whole { 1.0 } else { 0.0 });
    if !step.is_normal() {
        return Vec::new();
    }
    let first = (from / step).ceil() as i64;
    (first..).map(|i| i as f64 * step).take_while(|&tick| tick <= to + step * 1e-9).take(most + 1).collect()
}

impl Chart<'_> {
    /// The drawing for a space of `width` x `height` CSS pixels.
    pub(super) fn draw(&self, width: u32, height: u32) -> String {
        let all = || self.lines.iter().flat_map(|line| line.points);
        let fold = |f: fn(f64, f64) -> f64, of: fn(&(f64, f64)) -> f64| all().map(of).reduce(f);
        let (Some(first), Some(last)) = (fold(f64::min, |p| p.0), fold(f64::max, |p| p.0)) else {
            return String::new();
        };
        let (Some(low), Some(high)) = (fold(f64::min, |p| p.1), fold(f64::max, |p| p.1)) else {
            return String::new();
        };
        let low = if self.from_zero { low.min(0.0) } else { low };
        let room = match high - low {
            0.0 => high.abs().max(1e-3) * 0.1,
            range => range * 0.06,
        };
        let x = Axis { from: first, to: if last > first { last } else { first + 1.0 }, whole: true };
        let y = Axis { from: if self.from_zero { low } else { low - room }, to: high + room, whole: false };
        let mut svg = String::new();
        // Drawing into a string fails only for a drawing without area.
        if self.draw_into(&mut svg, (width, height), x, y).is_err() {
            return String::new();
        }
        let name = format!("<svg role=\"img\" aria-label=\"{}\" ", self.name);
        svg.replacen("<svg ", &name, 1)
    }

    fn draw_into(
        &self,
        svg: &mut String,
        (width, height): (u32, u32),
        x: Axis,
        y: Axis,
    ) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, (width * SCALE, height * SCALE)).into_drawing_area();
        // Plotters writes a font size as 1/1.24 of what it is given.
        let font = |color: RGBColor| ("sans-serif", f64::from(13 * SCALE) * 1.24).into_font().color(&color);
        let (x_ticks, y_ticks) = ((width / 80) as usize, (height / 50) as usize);
        let labels = ticks(y.from, y.to, y_ticks, false).into_iter().map(|tick| (self.format)(tick).len());
        let left = 8 * labels.max().unwrap_or(1) as u32 + 14;
        let mut chart = ChartBuilder::on(&root)
            .margin_top(8 * SCALE)
            .margin_right(16 * SCALE)
            .x_label_area_size(44 * SCALE)
            .y_label_area_size(left * SCALE)
            .build_cartesian_2d(x, y)?;
        let number = |value: &f64| (self.format)(*value);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(SCALE))
            .axis_style(INK.stroke_width(SCALE))
            .set_all_tick_mark_size(4 * SCALE)
            .x_labels(x_ticks)
            .y_labels(y_ticks)
            .x_label_formatter(&|value| format!("{value:.0}"))
            .y_label_formatter(&number)
            .label_style(font(INK))
            .x_desc("iteration")
            .axis_desc_style(font(INK).pos(Pos::new(HPos::Center, VPos::Center)))
            .draw()?;
        for line in self.lines {
            let style = line.color.stroke_width(line.width);
            let points = thin(line.points);
            if points.len() > 1 {
                chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            }
            // A single point makes no line.
            if line.dots || points.len() == 1 {
                let dot = |&point| Circle::new(point, 4 * SCALE, line.color.filled());
                chart.draw_series(points.iter().map(dot))?;
            }
        }
        drop(chart);
        root.present()?;
        Ok(())
    }
}

/// Averages neighbours until at most [`MAX_POINTS`] are left; the first and the last stay where they are.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |group: &[(f64, f64)]| {
        let n = group.len() as f64;
        group.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0 / n, sum.1 + point.1 / n))
    };
    let mut thinned: Vec<(f64, f64)> = points.chunks(group).map(mean).collect();
    if let (Some(last), Some(end), true) = (thinned.last_mut(), points.last(), group > 1) {
        *last = *end;
        thinned[0] = points[0];
    }
    thinned
}

/// At each step the value of the straight line that fits its neighbours best: unlike an exponential average it does
/// not lag behind a falling loss, and unlike a centred one it is not noisy at the ends.
pub(super) fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let points = thin(points);
    let reach = (points.len() / 25).min(25);
    let fit = |i: usize| {
        let window = &points[i.saturating_sub(reach)..points.len().min(i + reach + 1)];
        let n = window.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| window.iter().map(|point| of(point) / n).sum::<f64>();
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let (mut xy, mut xx) = (0.0, 0.0);
        for point in window {
            xy += (point.0 - x) * (point.1 - y);
            xx += (point.0 - x) * (point.0 - x);
        }
        let slope = if xx > 0.0 { xy / xx } else { 0.0 };
        (points[i].0, y + slope * (points[i].0 - x))
    };
    (0..points.len()).map(fit).collect()
}

/// `0.25`, `1200`: as many decimals as a tick needs.
pub(super) fn plain(value: f64) -> String {
    match value.abs() {
        a if a >= 1e6 => format!("{value:.1e}"),
        a if a >= 1e-3 || a == 0.0 => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
        _ => scientific(value),
    }
}

/// `2e-5`, `1.5e-4`, `0`.
pub(super) fn scientific(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    // One digit after the point, dropped when it is zero: ticks have no more.
    format!("{value:.1e}").replace(".0e", "e")
}
