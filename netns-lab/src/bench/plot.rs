//! Bars as SVG, without a library: one group of bars for each load, each with a scale of its own, one bar for each way.

use super::Cell;
use std::fmt::Write;

const ROW: usize = 22;
const LEFT: usize = 250;
const WIDTH: usize = 460;

/// One bar for each cell, as long as `value` says, with its spread as a line.
pub(super) fn bars(title: &str, cells: &[Cell], value: impl Fn(&Cell) -> super::Figure) -> String {
    let same =
        |a: &Cell, b: &Cell| (&a.size, a.connections, a.keepalive) == (&b.size, b.connections, b.keepalive);
    let height = 50 + cells.len() * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"820\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"820\" height=\"{height}\" fill=\"#fff\"/>\n<text x=\"10\" y=\"20\" font-size=\"15\">{title}</text>\n"
    );
    for (n, cell) in cells.iter().enumerate() {
        let figure = value(cell);
        let y = 36 + n * ROW;
        let group = cells.iter().filter(|c| same(c, cell));
        let most = group.map(|c| value(c).max).fold(f64::MIN_POSITIVE, f64::max);
        let across = |v: f64| v / most * px(WIDTH);
        let label = format!(
            "{} {} x{}{}",
            cell.balancer.name(),
            cell.size,
            cell.connections,
            if cell.keepalive { " kept" } else { "" }
        );
        let fill = cell.balancer.colour();
        let text = y + 13;
        let middle = y + 8;
        let (left, width) = (px(LEFT), across(figure.median));
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{text}\">{label}</text><rect x=\"{left}\" y=\"{y}\" width=\"{width:.1}\" height=\"16\" fill=\"{fill}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#000\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{}</text>",
            left + across(figure.min),
            left + across(figure.max),
            left + across(figure.max) + 6.0,
            shown(figure.median)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Three digits that matter.
pub(super) fn shown(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn px(n: usize) -> f64 {
    n as f64
}
