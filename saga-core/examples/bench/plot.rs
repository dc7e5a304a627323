//! Throughput and latency over sagas in flight, as an SVG that needs nothing to be looked at.

use std::fmt::Write;

use crate::limit::Limit;
use crate::load::Run;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;

/// Two panels side by side, both axes logarithmic.
pub(crate) fn svg(limits: &[Limit], runs: &[Run]) -> String {
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1000 380\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"1000\" height=\"380\" fill=\"white\"/>\n",
    );
    let throughput: Vec<_> = runs.iter().map(|run| (run.in_flight as f64, run.sagas_s)).collect();
    let lines: Vec<_> = limits.iter().filter(|l| l.what.starts_with("bare")).collect();
    let marks: Vec<_> = lines.iter().map(|limit| (limit.what.as_str(), limit.per_second)).collect();
    panel(&mut out, 60.0, "sagas per second", &[("sagas/s", "#0b6", throughput)], &marks);
    let of = |value: fn(&Run) -> f64| runs.iter().map(|run| (run.in_flight as f64, value(run))).collect();
    let latency = [("p50", "#06c", of(|run| run.p50_ms)), ("p99", "#c60", of(|run| run.p99_ms))];
    panel(&mut out, 560.0, "milliseconds from start to end", &latency, &[]);
    out.push_str("</svg>\n");
    out
}

/// A name, a colour, and the points of one line.
type Series<'a> = (&'a str, &'a str, Vec<(f64, f64)>);

fn panel(out: &mut String, left: f64, title: &str, series: &[Series<'_>], marks: &[(&str, f64)]) {
    let points = || series.iter().flat_map(|(_, _, points)| points);
    let values = || points().map(|p| p.1).chain(marks.iter().map(|m| m.1));
    let x = Axis::over(points().map(|p| p.0), left, left + WIDTH);
    let y = Axis::over(values(), 40.0 + HEIGHT, 40.0);
    let _ = writeln!(out, "<text x=\"{left}\" y=\"24\" font-weight=\"bold\">{title}</text>");
    for decade in y.decades() {
        let at = y.at(decade);
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{decade}</text>",
            left + WIDTH,
            left - 6.0,
            at + 4.0
        );
    }
    for (name, value) in marks {
        let at = y.at(*value);
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\" stroke=\"#888\" stroke-dasharray=\"5 4\"/><text x=\"{}\" y=\"{}\" fill=\"#666\">{name}</text>",
            left + WIDTH,
            left + 6.0,
            at - 5.0
        );
    }
    for (name, colour, points) in series {
        let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.0), y.at(p.1))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for point in points {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                x.at(point.0),
                y.at(point.1),
                x.at(point.0),
                58.0 + HEIGHT,
                point.0
            );
        }
        if let Some(last) = points.last() {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" text-anchor=\"end\">{name}</text>",
                x.at(last.0) - 8.0,
                y.at(last.1) - 8.0
            );
        }
    }
}

/// A logarithmic axis from whole decades to whole decades.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values
            .filter(|value| *value > 0.0)
            .fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), value| (low.min(value), high.max(value)));
        Self { low: low.log10().floor(), high: high.log10().ceil().max(low.log10().floor() + 1.0), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(f64::MIN_POSITIVE).log10() - self.low) / (self.high - self.low);
        self.from + share * (self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> + use<> {
        (self.low as i32..=self.high as i32).map(|power| 10f64.powi(power))
    }
}
