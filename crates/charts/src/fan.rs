//! A series' recent past and its forecast: a line that opens into a band.
//!
//! One column a step while they fit, else each column stands for several steps: the mean of
//! the lines, the least and the largest of the band.

use crate::{Ink, number, plain};

/// One step of a forecast: two quantiles and what lies between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// The lower quantile.
    pub lo: f64,
    /// The median.
    pub mid: f64,
    /// The upper quantile.
    pub hi: f64,
}

/// How a fan chart is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Columns in all, axis included; at least 24, at most 400.
    pub width: usize,
    /// Rows of the drawing, without the two of the axis; at least 4, at most 60.
    pub height: usize,
    /// What a step is called on the axis, for instance `h`.
    pub step: String,
    /// What may be used.
    pub ink: Ink,
}

impl Default for Frame {
    /// 80 columns, 12 rows, hours, box drawing without colour.
    fn default() -> Self {
        Frame { width: 80, height: 12, step: "h".into(), ink: Ink::PLAIN }
    }
}

/// Columns of the labels left of the axis: ten digits and a blank.
const LABEL_CHARS: usize = 10;

#[derive(Clone, Copy, PartialEq)]
enum Pen {
    Blank,
    Axis,
    Now,
    Past,
    Band,
    Median,
}

struct Canvas {
    cells: Vec<(char, Pen)>,
    columns: usize,
    rows: usize,
}

impl Canvas {
    fn set(&mut self, column: usize, row: usize, sign: char, pen: Pen) {
        if column < self.columns && row < self.rows {
            self.cells[row * self.columns + column] = (sign, pen);
        }
    }
}

/// Draws `history` (NaN where nothing was observed) and the `bands` that follow it. Values
/// that are not finite are left out; with nothing left the figure says so.
pub fn fan(history: &[f64], bands: &[Band], frame: &Frame) -> String {
    let width = frame.width.clamp(24, 400);
    let rows = frame.height.clamp(4, 60);
    let room = width - LABEL_CHARS - 1;
    let (past_columns, ahead_columns) = share(history.len(), bands.len(), room);
    let past: Vec<f64> = squeeze(history, past_columns, mean);
    let ahead: Vec<Band> = squeeze(bands, ahead_columns, merge);
    let Some(scale) = Scale::over(&past, &ahead, rows) else {
        return "no value to draw\n".to_owned();
    };
    let columns = past.len() + 1 + ahead.len();
    let mut canvas = Canvas { cells: vec![(' ', Pen::Blank); columns * rows], columns, rows };
    draw_now(&mut canvas, past.len(), frame.ink);
    draw_bands(&mut canvas, past.len() + 1, &ahead, &scale, frame.ink);
    draw_line(&mut canvas, 0, past.iter().copied(), &scale, frame.ink, Pen::Past);
    let medians = ahead.iter().map(|band| band.mid);
    draw_line(&mut canvas, past.len() + 1, medians, &scale, frame.ink, Pen::Median);
    let mut out = print(&canvas, &scale, frame.ink);
    out.push_str(&axis(history.len(), bands.len(), past.len(), columns, frame));
    out
}

/// Columns for the past and the future: all steps if they fit, else in proportion.
fn share(past: usize, ahead: usize, room: usize) -> (usize, usize) {
    let room = room - 1;
    if past.saturating_add(ahead) <= room {
        return (past, ahead);
    }
    // At least one column for a side that has anything; u128 since lengths are anybody's.
    let portion = (past as u128 * room as u128 / (past as u128 + ahead as u128)) as usize;
    let portion = portion.clamp(usize::from(past > 0), room - usize::from(ahead > 0));
    (portion.min(past), (room - portion).min(ahead))
}

fn squeeze<T: Copy>(values: &[T], columns: usize, join: fn(&[T]) -> T) -> Vec<T> {
    let edge = |column: usize| (column as u128 * values.len() as u128 / columns as u128) as usize;
    (0..columns).map(|column| join(&values[edge(column)..edge(column + 1)])).collect()
}

fn mean(values: &[f64]) -> f64 {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let count = finite.len() as f64;
    // NaN where nothing was observed: a gap.
    if finite.is_empty() { f64::NAN } else { finite.iter().map(|value| value / count).sum() }
}

fn merge(bands: &[Band]) -> Band {
    let mids: Vec<f64> = bands.iter().map(|band| band.mid).collect();
    Band {
        lo: bands.iter().map(|band| band.lo).fold(f64::NAN, f64::min),
        mid: mean(&mids),
        hi: bands.iter().map(|band| band.hi).fold(f64::NAN, f64::max),
    }
}

/// Values to rows, row 0 on top.
struct Scale {
    low: f64,
    high: f64,
    rows: usize,
}

impl Scale {
    fn over(past: &[f64], ahead: &[Band], rows: usize) -> Option<Scale> {
        let values = || {
            let bands = ahead.iter().flat_map(|band| [band.lo, band.mid, band.hi]);
            past.iter().copied().chain(bands).filter(|value| value.is_finite())
        };
        let low = values().reduce(f64::min)?;
        let high = values().reduce(f64::max)?;
        if low < high {
            return Some(Scale { low, high, rows });
        }
        let pad = if low == 0.0 { 1.0 } else { low.abs() / 10.0 };
        Some(Scale { low: low - pad, high: high + pad, rows })
    }

    fn row(&self, value: f64) -> usize {
        // Halved first: the difference of two large values would overflow.
        let share = (value / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0);
        let from_bottom = (share.clamp(0.0, 1.0) * (self.rows - 1) as f64).round() as usize;
        self.rows - 1 - from_bottom
    }

    fn value(&self, row: usize) -> f64 {
        let share = (self.rows - 1 - row) as f64 / (self.rows - 1) as f64;
        self.low * (1.0 - share) + self.high * share
    }
}

fn draw_now(canvas: &mut Canvas, column: usize, ink: Ink) {
    for row in 0..canvas.rows {
        canvas.set(column, row, if ink.unicode { '┊' } else { '|' }, Pen::Now);
    }
}

fn draw_bands(canvas: &mut Canvas, from: usize, bands: &[Band], scale: &Scale, ink: Ink) {
    let shade = if ink.unicode { '░' } else { ':' };
    for (k, band) in bands.iter().enumerate() {
        if band.lo.is_finite() && band.hi.is_finite() {
            for row in scale.row(band.hi)..=scale.row(band.lo) {
                canvas.set(from + k, row, shade, Pen::Band);
            }
        }
    }
}

/// A line through one value a column: it runs level and turns in the column of the new value.
fn draw_line(
    canvas: &mut Canvas,
    from: usize,
    values: impl Iterator<Item = f64>,
    scale: &Scale,
    ink: Ink,
    pen: Pen,
) {
    let mut before: Option<usize> = None;
    for (k, value) in values.enumerate() {
        if !value.is_finite() {
            before = None;
            continue;
        }
        let row = scale.row(value);
        if ink.unicode {
            draw_turn(canvas, from + k, before.unwrap_or(row), row, pen);
        } else {
            canvas.set(from + k, row, if pen == Pen::Median { 'o' } else { '*' }, pen);
        }
        before = Some(row);
    }
}

fn draw_turn(canvas: &mut Canvas, column: usize, before: usize, row: usize, pen: Pen) {
    if before == row {
        return canvas.set(column, row, '─', pen);
    }
    let rises = row < before;
    canvas.set(column, before, if rises { '╯' } else { '╮' }, pen);
    for between in before.min(row) + 1..before.max(row) {
        canvas.set(column, between, '│', pen);
    }
    canvas.set(column, row, if rises { '╭' } else { '╰' }, pen);
}

fn print(canvas: &Canvas, scale: &Scale, ink: Ink) -> String {
    let mut out = String::new();
    let labelled = [0, (canvas.rows - 1) / 2, canvas.rows - 1];
    for row in 0..canvas.rows {
        let has_label = labelled.contains(&row);
        let label = if has_label { number(scale.value(row)) } else { String::new() };
        let tick = match (ink.unicode, has_label) {
            (true, true) => '┤',
            (true, false) => '│',
            (false, true) => '+',
            (false, false) => '|',
        };
        paint(&mut out, ink, Pen::Axis, &format!("{label:>w$}{tick}", w = LABEL_CHARS));
        let cells = &canvas.cells[row * canvas.columns..(row + 1) * canvas.columns];
        let used = cells.iter().rposition(|(sign, _)| *sign != ' ').map_or(0, |last| last + 1);
        for run in cells[..used].chunk_by(|a, b| a.1 == b.1) {
            paint(&mut out, ink, run[0].1, &run.iter().map(|(sign, _)| *sign).collect::<String>());
        }
        out.push('\n');
    }
    out
}

fn paint(out: &mut String, ink: Ink, pen: Pen, text: &str) {
    let code = match pen {
        Pen::Blank => "",
        Pen::Axis | Pen::Now => "2",
        Pen::Past => "36",
        Pen::Band => "33;2",
        Pen::Median => "33;1",
    };
    if ink.color && !code.is_empty() {
        out.extend(["\u{1b}[", code, "m", text, "\u{1b}[0m"]);
    } else {
        out.push_str(text);
    }
}

/// The axis and its words: how far back, now, how far ahead.
fn axis(past: usize, ahead: usize, now: usize, columns: usize, frame: &Frame) -> String {
    let (corner, line, tick) =
        if frame.ink.unicode { ('└', "─", "┴") } else { ('+', "-", "+") };
    let step = plain(&frame.step, 4);
    let rule = format!(
        "{:LABEL_CHARS$}{corner}{}{tick}{}",
        "",
        line.repeat(now),
        line.repeat(columns - now - 1)
    );
    let left = if past > 0 { format!("-{past} {step}") } else { String::new() };
    let right = if ahead > 0 { format!("+{ahead} {step}") } else { String::new() };
    let mut words = String::new();
    let start = LABEL_CHARS + 1;
    let end = (start + columns).saturating_sub(right.len());
    // A word that would touch its neighbour is left out.
    for (word, at) in [(left.as_str(), start), ("now", start + now), (right.as_str(), end)] {
        if !word.is_empty() && (words.is_empty() || words.chars().count() < at) {
            words.push_str(&" ".repeat(at - words.chars().count()));
            words.push_str(word);
        }
    }
    let mut out = String::new();
    paint(&mut out, frame.ink, Pen::Axis, &rule);
    out.push('\n');
    // "now" may stick out where nothing lies ahead.
    let room = frame.width.clamp(24, 400);
    paint(&mut out, frame.ink, Pen::Axis, words.chars().take(room).collect::<String>().trim_end());
    out.push('\n');
    out
}
