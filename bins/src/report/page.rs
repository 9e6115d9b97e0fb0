//! The HTML page of a report: self-contained, with curves drawn by the script in `curves.html`, if it has any.

use serde::Serialize;

use super::history::Series;

const TEMPLATE: &str = include_str!("page.html");
/// The curves of a run, and the script that draws them.
const CURVES: &str = include_str!("curves.html");

/// A line of a chart.
#[derive(Serialize)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Number of its colour.
    pub color: usize,
    /// Points `[step, tokens, mean]` or `[step, tokens, mean, min, max]`.
    points: Vec<Vec<f64>>,
    /// Draws a dot at every point, for metrics with few of them.
    dots: bool,
    /// A point `[step, tokens, value]` with a ring around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ring: Option<[f64; 3]>,
}

impl Line {
    /// The line of a series.
    pub fn new(name: impl Into<String>, color: usize, series: &Series) -> Self {
        let point = |p: &super::history::Point| {
            let mut values = vec![p.step as f64, p.tokens as f64, rounded(p.mean())];
            if p.count > 1 {
                values.extend([rounded(p.min), rounded(p.max)]);
            }
            values
        };
        Self { name: name.into(), color, points: series.points().iter().map(point).collect(), dots: false, ring: None }
    }

    /// The line with a dot at every point, as long as they can be told apart.
    #[must_use]
    pub fn with_dots(mut self) -> Self {
        self.dots = self.points.len() <= 100;
        self
    }

    /// The line with a ring around `value` at the point that holds `step`, if there is such a point.
    #[must_use]
    pub fn with_ring(mut self, step: u64, value: f64) -> Self {
        let point = self.points.iter().find(|point| point[0] >= step as f64);
        self.ring = point.map(|point| [point[0], point[1], rounded(value)]);
        self
    }
}

/// Six significant digits: more than a curve shows, and half the bytes.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// A chart with its lines.
#[derive(Serialize)]
pub struct Chart {
    /// Its title.
    pub title: &'static str,
    /// Unit or explanation behind the title.
    pub unit: &'static str,
    /// Takes the whole width.
    pub wide: bool,
    /// The vertical axis begins at 0.
    pub zero: bool,
    /// The vertical axis leaves out the beginning, as a loss begins far above its later values.
    pub fall: bool,
    /// Its lines.
    pub lines: Vec<Line>,
}

impl Chart {
    /// A chart of the lines that have points.
    pub fn new(title: &'static str, unit: &'static str, lines: Vec<Line>) -> Self {
        let lines = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
        Self { title, unit, wide: false, zero: false, fall: false, lines }
    }
}

/// The horizontal axis when the page opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Steps.
    Steps = 0,
    /// Tokens.
    Tokens = 1,
}

/// A page.
pub struct Page {
    /// Its title.
    pub title: String,
    /// A line below the title.
    pub lead: String,
    /// HTML above the charts.
    pub summary: String,
    /// The horizontal axis.
    pub axis: Axis,
    /// The charts; those without lines are left out.
    pub charts: Vec<Chart>,
    /// HTML below the charts.
    pub sections: String,
}

impl Page {
    /// The page as HTML.
    pub fn html(&self) -> String {
        let charts: Vec<&Chart> = self.charts.iter().filter(|chart| !chart.lines.is_empty()).collect();
        let curves = if charts.is_empty() {
            String::new()
        } else {
            let data = serde_json::json!({ "axis": self.axis as u8, "charts": charts });
            // Inside a script element only `<` can end it.
            filled(CURVES, &[("data", &data.to_string().replace('<', "\\u003c"))])
        };
        let (title, lead) = (escape(&self.title), escape(&self.lead));
        let values = [
            ("title", &title),
            ("lead", &lead),
            ("summary", &self.summary),
            ("curves", &curves),
            ("sections", &self.sections),
        ];
        filled(TEMPLATE, &values.map(|(name, value)| (name, &value[..])))
    }
}

/// A template with values in place of its marks. What is filled in is not searched for marks.
fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let (mut out, mut rest) = (String::with_capacity(template.len()), template);
    while let Some((before, mark, after)) = rest
        .split_once("{{")
        .and_then(|(before, after)| after.split_once("}}").map(|(mark, after)| (before, mark, after)))
    {
        out += before;
        out += values.iter().find(|(name, _)| *name == mark).map_or("", |(_, value)| value);
        rest = after;
    }
    out + rest
}

/// Figures side by side, as HTML: name and value of each. Both are text.
pub fn tiles(figures: &[(&str, String)]) -> String {
    let tile = |(name, value): &(&str, String)| {
        format!("<div class=\"tile\"><span>{}</span><b>{}</b></div>", escape(name), escape(value))
    };
    format!("<div class=\"tiles\">{}</div>\n", figures.iter().map(tile).collect::<String>())
}

/// A drawing with its title, and its numbers folded below it.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// The title.
    pub title: String,
    /// Unit or explanation behind it.
    pub note: String,
    /// Names of what is drawn, with the numbers of their colours.
    pub legend: Vec<(String, u8)>,
    /// The drawing, as HTML.
    pub drawing: String,
    /// The same numbers as a table, as HTML; empty for none.
    pub numbers: String,
    /// Takes the whole width.
    pub wide: bool,
}

impl Figure {
    /// The figure as HTML.
    pub fn html(&self) -> String {
        let entry = |(name, color): &(String, u8)| {
            format!("<span><i style=\"background: var(--c{color})\"></i>{}</span>", escape(name))
        };
        let legend: String = self.legend.iter().map(entry).collect();
        let legend = if legend.is_empty() { legend } else { format!("<div class=\"legend\">{legend}</div>") };
        let numbers = match self.numbers.is_empty() {
            true => String::new(),
            false => format!("<details><summary>numbers</summary>{}</details>", self.numbers),
        };
        let (class, title, note) =
            (if self.wide { " class=\"wide\"" } else { "" }, escape(&self.title), escape(&self.note));
        let drawing = &self.drawing;
        format!(
            "<figure{class}><figcaption>{title} <small>{note}</small></figcaption>{legend}{drawing}{numbers}</figure>\n"
        )
    }
}

/// Escapes text for HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
    }
    out
}

/// An HTML table; the columns from `numbers` on are numbers. Cells are text.
pub fn table(head: &[String], rows: &[Vec<String>], numbers: usize) -> String {
    let cell = |tag: &str, (column, text): (usize, &String)| {
        let class = if column >= numbers { " class=\"number\"" } else { "" };
        format!("<{tag}{class}>{}</{tag}>", escape(text))
    };
    let row = |tag: &str, cells: &[String]| {
        let cells: String = cells.iter().enumerate().map(|at| cell(tag, at)).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let body: String = rows.iter().map(|cells| row("td", cells)).collect();
    format!("<div class=\"scroll\"><table>\n{}{body}</table></div>\n", row("th", head))
}

#[cfg(test)]
mod tests {
    use super::super::history::History;
    use super::super::history::tests::step;
    use super::*;

    fn page(title: &str, sections: &str) -> String {
        let mut history = History::default();
        (1..=2000).for_each(|s| history.push(&step(s)));
        let charts = vec![
            Chart::new("Loss", "nats", vec![Line::new("</script>", 0, &history.loss)]),
            Chart::new("Nothing", "", vec![Line::new("none", 0, &history.mtp_loss)]),
        ];
        let (title, sections) = (title.into(), sections.into());
        Page { title, lead: String::new(), summary: tiles(&[("x", "1".into())]), axis: Axis::Steps, charts, sections }
            .html()
    }

    #[test]
    fn a_page_needs_nothing_but_itself_and_text_stays_text() {
        let html = page("<b>{{data}}", "<p>{{title}}</p>");
        assert!(html.contains("<title>&lt;b&gt;{{data}}</title>"), "{}", &html[..400]);
        assert!(html.contains("<p>{{title}}</p>"), "what is filled in is not filled in again");
        assert_eq!(html.matches("</script>").count(), 2, "data cannot end the script");
        assert!(!html.contains("Nothing"), "a chart without lines is left out");
        for outside in ["http://", "https://", "src=", "href=", "@import"] {
            let found = html.matches(outside).count();
            assert_eq!(found, usize::from(outside == "http://"), "{outside}: the name of SVG's elements only");
        }
        let (text, charts) = (String::new, Vec::new());
        let plain =
            Page { title: text(), lead: text(), summary: text(), axis: Axis::Steps, charts, sections: text() }.html();
        assert!(!plain.contains("<script") && plain.ends_with("</html>\n"), "a page without curves needs no script");
    }

    #[test]
    fn ten_million_steps_make_a_small_page() {
        let mut series = Series::default();
        (1..=10_000_000u64).for_each(|s| series.push(s, s * 4096, 2.0 + (s % 1000) as f64 * 1e-3));
        let chart = Chart::new("Loss", "", vec![Line::new("loss", 0, &series)]);
        assert!(serde_json::to_string(&chart).unwrap().len() < 80_000);
    }
}
