//! Charts as SVG, drawn by plotters with the page's colours. Texts stay text, so no font is needed to draw them.

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontDesc, FontFamily, FontStyle, IntoFont, RGBColor, ShapeStyle, TRANSPARENT, TextStyle};

use super::page::escape;
use crate::error::{Error, Result};

/// Units of a drawing for a pixel of the page, since plotters rounds places to whole units.
const SCALE: i32 = 2;
/// Size of texts, in pixels of the page.
const TEXT: f64 = 11.0;
/// The load at which a cell of a heat map has its full colour, over the mean.
pub const FULL: f64 = 2.5;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Colours, which the page's style sheet names: they differ between its light and its dark form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ink {
    /// A colour of the page's eight.
    Color(u8),
    Text,
    Dim,
    Line,
    /// Lines to compare with: dashed.
    Level,
    Heat,
}

impl Ink {
    const OTHERS: [Self; 5] = [Self::Text, Self::Dim, Self::Line, Self::Level, Self::Heat];

    fn all() -> impl Iterator<Item = Self> {
        (0..8).map(Self::Color).chain(Self::OTHERS)
    }

    /// A colour that stands for it until the drawing is done.
    fn stand_in(self) -> RGBColor {
        let number = match self {
            Self::Color(number) => number % 8,
            _ => 8 + Self::OTHERS.iter().position(|other| *other == self).unwrap_or(0) as u8,
        };
        RGBColor(1, 2, number)
    }

    fn css(self) -> String {
        match self {
            Self::Color(number) => format!("var(--c{})", number % 8),
            Self::Text => "var(--text)".into(),
            Self::Dim | Self::Level => "var(--dim)".into(),
            Self::Line => "var(--line)".into(),
            Self::Heat => "rgb(var(--heat))".into(),
        }
    }

    fn stroke(self, width: u32) -> ShapeStyle {
        self.stand_in().stroke_width(width * SCALE as u32)
    }

    fn fill(self) -> ShapeStyle {
        self.stand_in().filled()
    }
}

/// Draws `width` × `height` pixels of the page, and gives an SVG element that readers of screens call `name`. It
/// shrinks with its box to `narrowest` pixels.
fn drawing(
    name: &str,
    (width, height): (i32, i32),
    narrowest: i32,
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String> {
    let mut svg = String::new();
    let size = ((width * SCALE) as u32, (height * SCALE) as u32);
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    draw(&area).and_then(|()| area.present()).map_err(|e| Error::Run(format!("drawing {name}: {e}")))?;
    drop(area);
    let (_, inside) = svg.split_once(">\n").unwrap_or_default();
    let mut inside = inside.replace(" opacity=\"1\"", "").replace(" stroke=\"none\"", "").replace('\n', "");
    for ink in Ink::all() {
        let RGBColor(r, g, b) = ink.stand_in();
        let stand_in = format!("\"#{r:02X}{g:02X}{b:02X}\"");
        let dashes = if ink == Ink::Level { " stroke-dasharray=\"8 6\"" } else { "" };
        inside = inside.replace(&stand_in, &format!("\"{}\"{dashes}", ink.css()));
    }
    Ok(format!(
        "<div class=\"plot\"><svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" \
         style=\"max-width: {width}px; min-width: {narrowest}px\">{inside}</div>",
        size.0,
        size.1,
        escape(name)
    ))
}

fn text(ink: Ink, horizontal: HPos) -> TextStyle<'static> {
    // The backend divides sizes by 1.24.
    let font = FontDesc::new(FontFamily::SansSerif, TEXT * f64::from(SCALE) * 1.24, FontStyle::Normal);
    font.into_font().color(&ink.stand_in()).pos(Pos::new(horizontal, VPos::Center))
}

/// A number in a few characters.
pub fn short(x: f64) -> String {
    let size = x.abs();
    let scaled = |unit: f64, letter: &str| format!("{}{letter}", significant(x / unit, 4));
    match size {
        _ if size >= 1e12 => scaled(1e12, "T"),
        _ if size >= 1e9 => scaled(1e9, "G"),
        _ if size >= 1e6 => scaled(1e6, "M"),
        _ if size >= 1e4 => scaled(1e3, "k"),
        _ => significant(x, 5),
    }
}

/// At most `digits` significant digits, without zeros at the end.
fn significant(x: f64, digits: usize) -> String {
    let rounded: f64 = format!("{x:.*e}", digits - 1).parse().unwrap_or(x);
    rounded.to_string()
}

/// A value with its error, for a row of [`intervals`].
#[derive(Clone, Debug)]
pub struct Interval {
    /// What is written before it.
    pub label: String,
    /// The value.
    pub value: f64,
    /// Both ends of its interval, if it has one.
    pub ends: Option<(f64, f64)>,
    /// A level to compare with.
    pub level: Option<f64>,
    /// Number of its colour.
    pub color: u8,
}

/// Values of a share with error bars, one a row, and their levels as ticks.
///
/// # Errors
/// A drawing that fails.
pub fn intervals(name: &str, rows: &[Interval]) -> Result<String> {
    const ROW: i32 = 22;
    let longest = rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0).min(40);
    let left = longest as i32 * 7 + 12;
    let (width, height) = (left + 620, rows.len() as i32 * ROW + 28);
    let mut range = Range::default();
    for row in rows {
        let (from, to) = row.ends.unwrap_or((row.value, row.value));
        [row.value, from, to].into_iter().chain(row.level).for_each(|x| range.add(x));
    }
    let (low, high) = range.padded(0.04);
    let (low, high) = (low.max(0.0), high.min(1.0).max(low.max(0.0) + 1e-3));
    drawing(name, (width, height), width * 4 / 5, |area| {
        let mut plane = ChartBuilder::on(area)
            .margin_right(56 * SCALE)
            .margin_top(4 * SCALE)
            .y_label_area_size(left * SCALE)
            .x_label_area_size(24 * SCALE)
            .build_cartesian_2d(low..high, 0.0..rows.len() as f64)?;
        plane
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .y_labels(0)
            .x_labels(6)
            .x_label_formatter(&|x| short((x * 1e6).round() / 1e6))
            .bold_line_style(Ink::Line.stroke(1))
            .light_line_style(TRANSPARENT)
            .axis_style(Ink::Line.stroke(1))
            .label_style(text(Ink::Dim, HPos::Center))
            .draw()?;
        for (i, row) in rows.iter().enumerate() {
            let y = (rows.len() - i) as f64 - 0.5;
            let ink = Ink::Color(row.color);
            let path = |points: Vec<(f64, f64)>, style: ShapeStyle| std::iter::once(PathElement::new(points, style));
            if let Some(level) = row.level {
                plane.draw_series(path(vec![(level, y - 0.38), (level, y + 0.38)], Ink::Dim.stroke(2)))?;
            }
            if let Some((from, to)) = row.ends {
                plane.draw_series(path(vec![(from, y), (to, y)], ink.stroke(2)))?;
                for end in [from, to] {
                    plane.draw_series(path(vec![(end, y - 0.17), (end, y + 0.17)], ink.stroke(2)))?;
                }
            }
            plane.draw_series(std::iter::once(Circle::new((row.value, y), 4 * SCALE, ink.fill())))?;
            let place = 4 * SCALE + ROW * SCALE * i as i32 + ROW * SCALE / 2;
            let label: String = row.label.chars().take(40).collect();
            area.draw(&Text::new(label, ((left - 8) * SCALE, place), text(Ink::Text, HPos::Right)))?;
            let value = format!("{:.4}", row.value);
            area.draw(&Text::new(value, ((width - 4) * SCALE, place), text(Ink::Text, HPos::Right)))?;
        }
        Ok(())
    })
}

/// A point of a [`Curve`]: tokens, value, and both ends of the value's interval, if it has one.
pub type Place = (f64, f64, Option<(f64, f64)>);

/// A line over the tokens of a run.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Number of its colour.
    pub color: u8,
    /// Its points.
    pub points: Vec<Place>,
    /// Draws open dots, and no line.
    pub dots: bool,
}

/// Lines with bands over tokens, and a dashed level to compare with.
///
/// # Errors
/// A drawing that fails.
pub fn curves(name: &str, lines: &[Curve], level: Option<f64>) -> Result<String> {
    let (mut across, mut up) = (Range::default(), Range::default());
    level.into_iter().for_each(|level| up.add(level));
    for &(x, y, ends) in lines.iter().flat_map(|line| &line.points) {
        across.add(x);
        let (from, to) = ends.unwrap_or((y, y));
        [y, from, to].into_iter().for_each(|y| up.add(y));
    }
    let ((left, right), (low, high)) = (across.padded(0.02), up.padded(0.06));
    drawing(name, (400, 220), 280, |area| {
        let mut plane = plane(area, (left, right), (low, high))?;
        plane
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(4)
            .y_labels(5)
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| short((y * 1e6).round() / 1e6))
            .bold_line_style(Ink::Line.stroke(1))
            .light_line_style(TRANSPARENT)
            .axis_style(Ink::Line.stroke(1))
            .label_style(text(Ink::Dim, HPos::Center))
            .draw()?;
        if let Some(level) = level {
            let path = PathElement::new(vec![(left, level), (right, level)], Ink::Level.stroke(1));
            plane.draw_series(std::iter::once(path))?;
        }
        for line in lines {
            let ink = Ink::Color(line.color);
            let banded = || line.points.iter().filter_map(|&(x, _, ends)| Some((x, ends?)));
            if !line.dots && banded().count() > 1 {
                let upper = banded().map(|(x, (_, to))| (x, to));
                let lower = banded().map(|(x, (from, _))| (x, from)).collect::<Vec<_>>();
                let outline: Vec<_> = upper.chain(lower.into_iter().rev()).collect();
                plane.draw_series(std::iter::once(Polygon::new(outline, ink.stand_in().mix(0.16))))?;
            }
            if !line.dots {
                let points: Vec<_> = line.points.iter().map(|&(x, y, _)| (x, y)).collect();
                plane.draw_series(std::iter::once(PathElement::new(points, ink.stroke(2))))?;
            }
            let style = if line.dots { ink.stroke(1) } else { ink.fill() };
            let dots = line.points.iter().map(|&(x, y, _)| Circle::new((x, y), 3 * SCALE, style));
            plane.draw_series(dots)?;
        }
        Ok(())
    })
}

/// A plane with room for numbers at the left and below.
fn plane<'a, 'b>(
    area: &'a Area<'b>,
    across: (f64, f64),
    up: (f64, f64),
) -> std::result::Result<Plane<'a, 'b>, DrawingAreaErrorKind<std::io::Error>> {
    ChartBuilder::on(area)
        .margin_right(14 * SCALE)
        .margin_top(8 * SCALE)
        .y_label_area_size(48 * SCALE)
        .x_label_area_size(24 * SCALE)
        .build_cartesian_2d(across.0..across.1, up.0..up.1)
}

/// A bin of [`reliability`].
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Items.
    pub items: usize,
    /// Mean probability of the answers.
    pub probability: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Both ends of its interval, if it has one.
    pub ends: Option<(f64, f64)>,
}

/// Accuracy over probability in bins of equal width, with the diagonal; below it the items of each bin.
///
/// # Errors
/// A drawing that fails.
pub fn reliability(name: &str, bins: &[Share]) -> Result<String> {
    let width = 1.0 / bins.len().max(1) as f64;
    let sides = |i: usize| (i as f64 * width + width * 0.06, (i + 1) as f64 * width - width * 0.06);
    let most = bins.iter().map(|bin| bin.items).max().unwrap_or(0).max(1) as f64;
    drawing(name, (400, 330), 280, |area| {
        let (above, below) = area.split_vertically(236 * SCALE);
        let mut plane = plane(&above, (0.0, 1.0), (0.0, 1.0))?;
        let mesh = |x: &f64| short((x * 100.0).round() / 100.0);
        plane
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&mesh)
            .y_label_formatter(&mesh)
            .bold_line_style(Ink::Line.stroke(1))
            .light_line_style(TRANSPARENT)
            .axis_style(Ink::Line.stroke(1))
            .label_style(text(Ink::Dim, HPos::Center))
            .draw()?;
        let ink = Ink::Color(0);
        let full = || bins.iter().enumerate().filter(|(_, bin)| bin.items > 0);
        plane.draw_series(full().map(|(i, bin)| {
            let (from, to) = sides(i);
            Rectangle::new([(from, bin.accuracy), (to, 0.0)], ink.stand_in().mix(0.3).filled())
        }))?;
        let diagonal = PathElement::new(vec![(0.0, 0.0), (1.0, 1.0)], Ink::Level.stroke(1));
        plane.draw_series(std::iter::once(diagonal))?;
        plane.draw_series(full().filter_map(|(_, bin)| {
            let ((low, high), x) = (bin.ends?, bin.probability);
            Some(PathElement::new(vec![(x, low), (x, high)], ink.stroke(2)))
        }))?;
        plane
            .draw_series(full().map(|(_, bin)| Circle::new((bin.probability, bin.accuracy), 4 * SCALE, ink.fill())))?;
        let mut counts = ChartBuilder::on(&below)
            .margin_right(14 * SCALE)
            .margin_top(18 * SCALE)
            .y_label_area_size(48 * SCALE)
            .x_label_area_size(6 * SCALE)
            .build_cartesian_2d(0.0..1.0, 0.0..most)?;
        counts.draw_series(full().map(|(i, bin)| {
            let (from, to) = sides(i);
            Rectangle::new([(from, bin.items as f64), (to, 0.0)], Ink::Dim.stand_in().mix(0.5).filled())
        }))?;
        counts.draw_series(std::iter::once(PathElement::new(vec![(0.0, 0.0), (1.0, 0.0)], Ink::Line.stroke(1))))?;
        let style = text(Ink::Dim, HPos::Center).pos(Pos::new(HPos::Center, VPos::Bottom));
        counts.draw_series(full().map(|(i, bin)| {
            let (from, to) = sides(i);
            Text::new(short(bin.items as f64), ((from + to) / 2.0, bin.items as f64), style.clone())
        }))?;
        below.draw(&Text::new("items", (42 * SCALE, 70 * SCALE), text(Ink::Dim, HPos::Right)))?;
        Ok(())
    })
}

/// Loads of experts over their layer's mean, a row for each layer: colour for the load, an empty cell in a frame for
/// none.
///
/// # Errors
/// A drawing that fails.
pub fn heat(name: &str, layers: &[(usize, Vec<f64>)]) -> Result<String> {
    let experts = layers.iter().map(|(_, loads)| loads.len()).max().unwrap_or(0).max(1) as i32;
    let (cell, row) = ((1080 / experts).clamp(3, 44), (360 / layers.len().max(1) as i32).clamp(9, 24));
    let left = 58;
    let (width, height) = (left + experts * cell + 2, layers.len() as i32 * row + 22);
    // Cells of three pixels touch each other.
    let gap = if cell > 5 { SCALE } else { 0 };
    drawing(name, (width, height), (width * 3 / 4).min(700), |area| {
        for (i, (layer, loads)) in layers.iter().enumerate() {
            let top = i as i32 * row * SCALE;
            if row >= 12 || i.is_multiple_of(2) {
                let place = ((left - 6) * SCALE, top + row * SCALE / 2);
                area.draw(&Text::new(format!("layer {layer}"), place, text(Ink::Dim, HPos::Right)))?;
            }
            for (expert, &load) in loads.iter().enumerate() {
                let from = (left + expert as i32 * cell) * SCALE;
                let corners = [(from, top), (from + cell * SCALE - gap, top + row * SCALE - SCALE)];
                if load > 0.0 {
                    let strength = 0.06 + 0.94 * (load / FULL).min(1.0);
                    let strength = (strength * 100.0).round() / 100.0;
                    area.draw(&Rectangle::new(corners, Ink::Heat.stand_in().mix(strength).filled()))?;
                } else {
                    let inside = [(from + 1, top + 1), (corners[1].0 - 1, corners[1].1 - 1)];
                    area.draw(&Rectangle::new(inside, Ink::Color(6).stand_in()))?;
                }
            }
        }
        let below = height * SCALE - 9 * SCALE;
        area.draw(&Text::new("expert 0", (left * SCALE, below), text(Ink::Dim, HPos::Left)))?;
        let last = format!("{}{}", if experts * cell > 120 { "expert " } else { "" }, experts - 1);
        area.draw(&Text::new(last, (width * SCALE - 2 * SCALE, below), text(Ink::Dim, HPos::Right)))
    })
}

/// The range of some numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Range(Option<(f64, f64)>);

impl Range {
    fn add(&mut self, x: f64) {
        if x.is_finite() {
            let (low, high) = self.0.unwrap_or((x, x));
            self.0 = Some((low.min(x), high.max(x)));
        }
    }

    /// The range with a share of it on both sides; never empty.
    fn padded(self, share: f64) -> (f64, f64) {
        let (low, high) = self.0.unwrap_or((0.0, 1.0));
        let width = if high > low { high - low } else { low.abs().max(0.5) };
        (low - width * share, high + width * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawings_take_their_colours_from_the_page_and_keep_texts() {
        let row =
            Interval { label: "<a> · acc".into(), value: 0.5, ends: Some((0.4, 0.6)), level: Some(0.25), color: 3 };
        let svg = intervals("\"scores\"", &[row]).unwrap();
        for part in ["aria-label=\"&quot;scores&quot;\"", "var(--c3)", "var(--dim)", "&lt;a&gt; · acc", "0.5000"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("#0102") && !svg.contains("xmlns"), "no colour is left to be named");
        let line = |ends| Curve { name: "x".into(), color: 0, points: vec![(1.0, 2.0, ends)], dots: false };
        for ends in [None, Some((2.0, 2.0)), Some((1.0, 3.0))] {
            assert!(curves("one point", &[line(ends)], None).unwrap().contains("<circle"));
        }
    }

    #[test]
    fn an_expert_without_tokens_is_a_frame() {
        let svg = heat("load", &[(1, vec![2.0, 0.0]), (2, vec![1.0, 1.0])]).unwrap();
        assert_eq!(svg.matches("fill=\"rgb(var(--heat))\"").count(), 3);
        assert_eq!(svg.matches("stroke=\"var(--c6)\"").count(), 1);
        let large = heat("V3", &(0..58).map(|layer| (layer, vec![1.0; 256])).collect::<Vec<_>>()).unwrap();
        assert!(large.len() < 2_000_000, "{}", large.len());
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.25, 12_345.6, 14.8e12, 1e6, 0.1 + 0.2].map(short), ["0.25", "12.35k", "14.8T", "1M", "0.3"]);
    }
}
