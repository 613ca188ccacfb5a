//! Line plots as inline SVG. The page's style sheet sets their colours, for light and dark.

use std::fmt::{self, Write as _};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;
/// Approximate number of grid lines.
const TICKS: f64 = 5.0;
/// Lowest value of a logarithmic axis.
const LOG_MIN: f64 = 0.01;

/// A curve; `None` leaves a gap.
pub(super) struct Curve {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A named moment, drawn as a vertical line.
pub(crate) struct Marker {
    /// Seconds since the first socket.
    pub(crate) at: f64,
    pub(crate) name: String,
}

/// A plot with its title.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) unit: &'a str,
    pub(super) logarithmic: bool,
    pub(super) curves: Vec<Curve>,
    pub(super) markers: &'a [Marker],
}

struct Axes {
    x_max: f64,
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axes {
    fn x(&self, x: f64) -> f64 {
        LEFT + x / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, y: f64) -> f64 {
        let share = if self.logarithmic {
            (y.max(self.low).ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            (y - self.low) / (self.high - self.low)
        };
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn y_ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = std::iter::successors(Some(self.low), |tick| Some(tick * 10.0));
            return decades.take_while(|tick| *tick <= self.high * 1.0001).collect();
        }
        ticks(self.high)
    }

    /// Writes grid lines and labels.
    fn write(&self, out: &mut String) -> fmt::Result {
        for tick in self.y_ticks() {
            let (y, right) = (self.y(tick), WIDTH - RIGHT);
            writeln!(out, r#"<line class="grid" x1="{LEFT}" x2="{right:.1}" y1="{y:.1}" y2="{y:.1}"/>"#)?;
            let (x, y, label) = (LEFT - 6.0, y + 3.5, number(tick));
            writeln!(out, r#"<text class="y" x="{x:.1}" y="{y:.1}">{label}</text>"#)?;
        }
        for tick in ticks(self.x_max) {
            let (x, y, label) = (self.x(tick), HEIGHT - BOTTOM + 16.0, number(tick));
            writeln!(out, r#"<text class="x" x="{x:.1}" y="{y:.1}">{label} s</text>"#)?;
        }
        Ok(())
    }
}

/// Round numbers from 0 to a maximum.
fn ticks(max: f64) -> Vec<f64> {
    let raw = max / TICKS;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|f| f * power).find(|step| *step >= raw).unwrap_or(raw);
    let all = std::iter::successors(Some(0.0), |tick| Some(tick + step));
    all.take_while(|tick| *tick <= max * 1.0001).collect()
}

impl Plot<'_> {
    /// A `figure` element with a legend.
    pub(super) fn svg(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn axes(&self) -> Axes {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let x_max = points().map(|(x, _)| *x).fold(1.0, f64::max);
        let values = || points().filter_map(|(_, y)| *y);
        let high = values().fold(0.0, f64::max);
        if !self.logarithmic {
            let high = if high > 0.0 { high * 1.08 } else { 1.0 };
            return Axes { x_max, low: 0.0, high, logarithmic: false };
        }
        let low = values().filter(|value| *value > 0.0).fold(f64::MAX, f64::min).clamp(LOG_MIN, 1e6);
        let low = 10_f64.powf(low.log10().floor());
        let high = 10_f64.powf(high.max(low * 1.5).log10().ceil());
        Axes { x_max, low, high, logarithmic: true }
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let axes = self.axes();
        let (title, unit) = (escape(self.title), escape(self.unit));
        writeln!(out, "<figure><figcaption>{title} <small>{unit}</small></figcaption>")?;
        writeln!(out, r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">"#)?;
        axes.write(out)?;
        self.write_markers(out, &axes)?;
        // In reverse order, so that the first curves are on top: p99 often covers all of max.
        for (n, curve) in self.curves.iter().enumerate().rev() {
            let (path, name) = (path(&axes, curve), escape(curve.name));
            writeln!(out, r#"<path class="curve c{n}" d="{path}"><title>{name}</title></path>"#)?;
        }
        writeln!(out, "</svg>")?;
        write!(out, r#"<p class="legend">"#)?;
        for (n, curve) in self.curves.iter().enumerate() {
            write!(out, r#"<span class="c{n}">{}</span> "#, escape(curve.name))?;
        }
        writeln!(out, "</p></figure>")
    }

    fn write_markers(&self, out: &mut String, axes: &Axes) -> fmt::Result {
        for marker in self.markers.iter().filter(|marker| marker.at <= axes.x_max) {
            let (x, bottom) = (axes.x(marker.at), HEIGHT - BOTTOM);
            writeln!(out, r#"<line class="marker" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{bottom:.1}"/>"#)?;
            let (x, y, name) = (x + 4.0, TOP + 10.0, escape(&marker.name));
            writeln!(out, r#"<text class="marker" x="{x:.1}" y="{y:.1}">{name}</text>"#)?;
        }
        Ok(())
    }
}

fn path(axes: &Axes, curve: &Curve) -> String {
    let (mut path, mut pen_down) = (String::new(), false);
    for (n, (x, y)) in curve.points.iter().enumerate() {
        let Some(y) = y else {
            pen_down = false;
            continue;
        };
        let command = if pen_down { 'L' } else { 'M' };
        let _ = write!(path, "{command}{:.1} {:.1}", axes.x(*x), axes.y(*y));
        // A point between two gaps would be invisible, so it becomes a short line.
        if !pen_down && curve.points.get(n + 1).is_none_or(|(_, next)| next.is_none()) {
            path.push_str("h2");
        }
        pen_down = true;
    }
    path
}

/// A number with few digits, for axes.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{}M", round(value / 1e6)),
        v if v >= 1e4 => format!("{}k", round(value / 1e3)),
        _ => round(value),
    }
}

fn round(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Escapes text for HTML elements and attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, Option<f64>)>, logarithmic: bool) -> String {
        let curves = vec![Curve { name: "a < b", points }];
        let markers = [Marker { at: 1.0, name: "<now>".to_owned() }];
        Plot { title: "T & U", unit: "ms", logarithmic, curves, markers: &markers }.svg()
    }

    #[test]
    fn a_curve_keeps_its_gaps_and_every_coordinate_is_finite() {
        let svg = plot(vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(100.0)), (3.0, Some(2.0))], true);
        let path = svg.split(" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert_eq!(path.matches('L').count(), 1, "{path}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let empty = [plot(Vec::new(), true), plot(vec![(5.0, None)], false)];
        assert!(empty.iter().all(|svg| !svg.contains("NaN") && !svg.contains("inf")));
    }

    #[test]
    fn names_cannot_inject_markup() {
        let svg = plot(vec![(0.0, Some(1.0))], false);
        assert!(svg.contains("T &amp; U") && svg.contains("&lt;now&gt;") && !svg.contains("<now>"));
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(ticks(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!([12_345.0, 0.5, 100.0, 2e6].map(number), ["12.35k", "0.5", "100", "2M"]);
    }
}
