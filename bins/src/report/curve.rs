//! A loss curve for the terminal, in braille or ASCII.

use std::fmt::Write;
use std::str::FromStr;

use super::history::{History, Series};

/// Columns of the whole drawing.
const WIDTH: usize = 80;
/// Rows of the plot itself.
const HEIGHT: usize = 12;
/// Columns in front of the plot: the numbers of the vertical axis.
const MARGIN: usize = 8;

/// When to draw the curve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// On a terminal.
    #[default]
    Auto,
    /// Draw in a pipe or a file too.
    Always,
    /// Never.
    Never,
}

impl FromStr for When {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err("must be auto, always or never"),
        }
    }
}

impl When {
    /// Draws the curve of `history`, or nothing; `terminal` says whether it goes to one.
    pub fn draw(self, history: &History, terminal: bool) -> String {
        let wanted = self == Self::Always || (self == Self::Auto && terminal);
        if wanted { draw(history, unicode()) } else { String::new() }
    }
}

/// Whether the terminal shows Unicode: the locale names UTF-8. Windows has no such variables and does.
pub fn unicode() -> bool {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    locale.map_or(cfg!(windows), |locale| {
        let locale = locale.to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// Draws training and validation loss over steps, at most 80 columns wide; nothing for fewer than two steps.
pub fn draw(history: &History, unicode: bool) -> String {
    let (training, validation) = (&history.loss, &history.validation);
    if training.points().len() < 2 {
        return String::new();
    }
    let (low, high) = bounds(training, validation);
    let plot = Plot { low, high, steps: (0, history.step), unicode };
    let mut canvas = Canvas::new(unicode);
    plot.line(&mut canvas, training);
    plot.marks(&mut canvas, validation);
    let mut out = String::new();
    let (line, mark) = if unicode { ("⣿", "●") } else { (".", "o") };
    let legend = if validation.points().is_empty() { String::new() } else { format!("   {mark} validation loss") };
    let _ = writeln!(out, "{:MARGIN$}  {line} training loss{legend}   (nats per token)", "");
    for (row, text) in canvas.rows().enumerate() {
        let labelled = row == 0 || row == HEIGHT - 1 || row == HEIGHT / 2;
        let value = high - (high - low) * row as f64 / (HEIGHT - 1) as f64;
        let label = if labelled { format!("{value:.3}") } else { String::new() };
        let axis = if unicode {
            if labelled { '┤' } else { '│' }
        } else if labelled {
            '+'
        } else {
            '|'
        };
        let _ = writeln!(out, "{label:>MARGIN$} {axis}{}", text.trim_end());
    }
    let (corner, dash) = if unicode { ('└', "─") } else { ('+', "-") };
    let _ = writeln!(out, "{:MARGIN$} {corner}{}", "", dash.repeat(Canvas::COLUMNS));
    let (first, last) = (plot.steps.0.to_string(), format!("step {}", plot.steps.1));
    let _ = writeln!(out, "{:MARGIN$}  {first}{last:>width$}", "", width = Canvas::COLUMNS - first.len());
    out
}

/// The range of the vertical axis: all means, without the first twentieth of a long run, which is far above the rest.
fn bounds(training: &Series, validation: &Series) -> (f64, f64) {
    let points = training.points();
    let skip = if points.len() >= 100 { points.len() / 50 } else { 0 };
    let means = points[skip..].iter().chain(validation.points()).map(|point| point.mean());
    let (low, high) = means.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
    if high - low > 1e-9 { (low, high) } else { (low - 0.5, high + 0.5) }
}

/// Where values and steps lie on the canvas.
struct Plot {
    low: f64,
    high: f64,
    steps: (u64, u64),
    unicode: bool,
}

impl Plot {
    /// Place of a step, from 0 at the left to 1 at the right.
    fn x(&self, step: u64) -> f64 {
        let (first, last) = self.steps;
        step.saturating_sub(first) as f64 / (last - first).max(1) as f64
    }

    /// Place of a value, from 0 at the top to 1 at the bottom; values beyond the axis lie on its end.
    fn y(&self, value: f64) -> f64 {
        ((self.high - value) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn line(&self, canvas: &mut Canvas, series: &Series) {
        let (columns, rows) = canvas.dots();
        // The mean of the points of each dot column, joined from column to column.
        let mut sums = vec![(0.0, 0u64); columns];
        for point in series.points() {
            let column = (self.x(point.step) * (columns - 1) as f64).round() as usize;
            sums[column].0 += point.sum;
            sums[column].1 += point.count;
        }
        let mut before: Option<(usize, usize)> = None;
        for (column, (sum, count)) in sums.into_iter().enumerate().filter(|(_, (_, count))| *count > 0) {
            let row = (self.y(sum / count as f64) * (rows - 1) as f64).round() as usize;
            let (last_column, last_row) = before.unwrap_or((column, row));
            for x in last_column..=column {
                let share = |at: usize| (at - last_column) as f64 / (column - last_column).max(1) as f64;
                let at = |share: f64| (last_row as f64 + (row as f64 - last_row as f64) * share).round() as usize;
                let (from, to) = (at(share(x.saturating_sub(1).max(last_column))), at(share(x)));
                let (top, bottom) = (from.min(to), from.max(to));
                (top..=bottom).for_each(|y| canvas.dot(x, y));
            }
            before = Some((column, row));
        }
    }

    fn marks(&self, canvas: &mut Canvas, series: &Series) {
        for point in series.points() {
            let column = (self.x(point.step) * (Canvas::COLUMNS - 1) as f64).round() as usize;
            let row = (self.y(point.mean()) * (HEIGHT - 1) as f64).round() as usize;
            canvas.marks[row][column] = Some(if self.unicode { '●' } else { 'o' });
        }
    }
}

/// Characters, each of 2 × 4 dots in braille and of one in ASCII, with marks over them.
struct Canvas {
    cells: Vec<[u8; Canvas::COLUMNS]>,
    marks: Vec<[Option<char>; Canvas::COLUMNS]>,
    unicode: bool,
}

impl Canvas {
    const COLUMNS: usize = WIDTH - MARGIN - 2;
    /// Bit of the dot at `[y][x]` of a braille character.
    const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

    fn new(unicode: bool) -> Self {
        Self { cells: vec![[0; Self::COLUMNS]; HEIGHT], marks: vec![[None; Self::COLUMNS]; HEIGHT], unicode }
    }

    /// Dots in a row and in a column.
    fn dots(&self) -> (usize, usize) {
        if self.unicode { (2 * Self::COLUMNS, 4 * HEIGHT) } else { (Self::COLUMNS, HEIGHT) }
    }

    fn dot(&mut self, x: usize, y: usize) {
        if self.unicode {
            self.cells[y / 4][x / 2] |= Self::BITS[y % 4][x % 2];
        } else {
            self.cells[y][x] = 1;
        }
    }

    fn rows(&self) -> impl Iterator<Item = String> {
        let shown = |&cell: &u8| match (cell, self.unicode) {
            (0, _) => ' ',
            (_, false) => '.',
            (dots, true) => char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' '),
        };
        let row = move |(cells, marks): (&[u8; Self::COLUMNS], &[Option<char>; Self::COLUMNS])| {
            cells.iter().zip(marks).map(|(cell, mark)| mark.unwrap_or_else(|| shown(cell))).collect::<String>()
        };
        self.cells.iter().zip(&self.marks).map(row)
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::step;
    use super::*;

    fn history(steps: u64) -> History {
        let mut history = History::default();
        (1..=steps).for_each(|s| history.push(&step(s)));
        history
    }

    #[test]
    fn the_drawing_fits_a_terminal_and_falls() {
        for (steps, unicode) in [(2, true), (37, true), (600, true), (50_000, true), (600, false)] {
            let text = draw(&history(steps), unicode);
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
            assert_eq!(text.lines().count(), HEIGHT + 3, "{text}");
            assert!(text.contains(&format!("step {steps}")) && text.contains("training loss"), "{text}");
            assert_eq!(unicode, !text.is_ascii(), "{text}");
        }
        let text = draw(&history(600), false);
        let first_dot = |row: &str| row.find('.').unwrap_or(0);
        let rows: Vec<&str> = text.lines().skip(1).take(HEIGHT).collect();
        assert!(first_dot(rows[0].split_at(MARGIN).1) < first_dot(rows[HEIGHT - 2].split_at(MARGIN).1), "{text}");
        assert!(text.contains('o'), "validation has marks:\n{text}");
    }

    #[test]
    fn a_run_of_one_step_has_no_curve_and_a_flat_one_has() {
        assert_eq!(draw(&history(1), true), "");
        let mut flat = History::default();
        for s in 1..=10 {
            flat.push(&crate::run::metrics::StepMetrics { loss: 1.0, validation_loss: None, ..step(s) });
        }
        assert!(draw(&flat, false).contains("1.500"), "{}", draw(&flat, false));
    }
}
