//! The bars of a README: ratios to nginx, as SVG that is read on a light and on a dark page.

use std::fmt::Write;

/// One group of bars.
pub struct Group<'a> {
    pub title: &'a str,
    /// Labels and ratios.
    pub bars: Vec<(&'a str, f64)>,
}

/// Horizontal bars, group below group; the line at 1.0 is the anchor. Bars whose label begins with `own` stand out.
pub fn svg(groups: &[Group<'_>], own: &str) -> String {
    let widest = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.1).fold(1.0, f64::max);
    let scale = BARS / (widest * 1.02);
    let mut body = String::new();
    let mut top = MARGIN;
    for group in groups {
        top += TITLE;
        let _ = writeln!(body, r#"<text class="title" x="{MARGIN}" y="{top}">{}</text>"#, escaped(group.title));
        top += 8;
        let first = top;
        for (label, ratio) in &group.bars {
            let class = if label.starts_with(own) { "own" } else { "peer" };
            let (width, middle) = (ratio * scale, top + BAR / 2 + 4);
            let number = LABELS as f64 + width + 6.0;
            let _ = writeln!(
                body,
                "<text class=\"label\" x=\"{}\" y=\"{middle}\">{}</text>\n\
                 <rect class=\"{class}\" x=\"{LABELS}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>\n\
                 <text class=\"number\" x=\"{number:.1}\" y=\"{middle}\">{ratio:.2}</text>",
                LABELS - 8,
                escaped(label),
            );
            top += BAR + GAP;
        }
        let anchor = LABELS as f64 + scale;
        let _ = writeln!(
            body,
            "<line class=\"anchor\" x1=\"{anchor:.1}\" x2=\"{anchor:.1}\" y1=\"{}\" y2=\"{}\"/>",
            first - 3,
            top - GAP + 3
        );
    }
    let height = top + MARGIN;
    let width = LABELS + BARS as u32 + 60;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         role=\"img\" aria-label=\"Requests per CPU-second, as ratios to nginx\">\n{STYLE}\n{body}</svg>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Grey that has contrast enough on white and on black; no background.
const STYLE: &str = "<style>
text { font: 13px system-ui, sans-serif; fill: #7d8590; }
.title { font-weight: 600; }
.label { text-anchor: end; }
.peer { fill: #8b949e; fill-opacity: .55; }
.own { fill: #2f81f7; }
.anchor { stroke: #7d8590; stroke-dasharray: 3 3; }
</style>";
const MARGIN: u32 = 12;
pub const TITLE: u32 = 24;
pub const BAR: u32 = 18;
pub const GAP: u32 = 6;
const LABELS: u32 = 260;
const BARS: f64 = 400.0;
