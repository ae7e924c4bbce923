//! Small tables: columns padded to their widest cell, numbers to the right.

/// The widest cell; what is longer ends in two dots.
const CELL_CHARS_MAX: usize = 48;

/// Rows under a header.
#[derive(Clone, Debug, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new<S: AsRef<str>>(header: impl IntoIterator<Item = S>) -> Self {
        Table { header: header.into_iter().map(|name| cell(name.as_ref())).collect(), rows: vec![] }
    }

    /// Adds a row. Missing cells stay blank; cells past the last column are an error of the
    /// caller and dropped.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        let columns = self.header.len();
        let mut row: Vec<String> =
            cells.into_iter().take(columns).map(|text| cell(text.as_ref())).collect();
        row.resize(columns, String::new());
        self.rows.push(row);
        self
    }

    /// The table as text, two blanks between columns, no trailing blanks. Width is counted in
    /// characters: wide East Asian signs will stand out by one column each.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let widths: Vec<usize> = (0..self.header.len()).map(|k| self.width(k)).collect();
        let right: Vec<bool> = (0..self.header.len()).map(|k| self.is_numeric(k)).collect();
        for row in std::iter::once(&self.header).chain(&self.rows) {
            let mut line = String::new();
            for (k, text) in row.iter().enumerate() {
                let pad = " ".repeat(widths[k] - text.chars().count());
                line.push_str(if k > 0 { "  " } else { "" });
                match right[k] {
                    true => line.extend([pad.as_str(), text]),
                    false => line.extend([text, pad.as_str()]),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    fn width(&self, column: usize) -> usize {
        let cells = std::iter::once(&self.header).chain(&self.rows);
        cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
    }

    /// Whether every filled cell starts with a digit or a sign and a digit, or is a dash.
    fn is_numeric(&self, column: usize) -> bool {
        let is_number = |text: &str| {
            let digits = text.trim_start_matches(['-', '+', '.']);
            text == "-" || digits.starts_with(|sign: char| sign.is_ascii_digit())
        };
        let mut filled = self.rows.iter().map(|row| row[column].as_str()).filter(|t| !t.is_empty());
        // A column of dates starts with digits too, but is as wide in every row: either side
        // is right for it.
        let first = filled.next().is_some_and(is_number);
        first && filled.all(is_number)
    }
}

fn cell(text: &str) -> String {
    plain(text, CELL_CHARS_MAX)
}

/// `text` without control characters, on one line, no longer than `chars_max`.
pub fn plain(text: &str, chars_max: usize) -> String {
    // Marks that turn the direction of writing hide or reorder what follows them.
    let is_unsafe = |sign: char| {
        sign.is_control()
            || matches!(sign, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let clean = text.chars().map(|sign| if is_unsafe(sign) { '?' } else { sign });
    if text.chars().count() <= chars_max {
        return clean.collect();
    }
    clean.take(chars_max.saturating_sub(2)).chain("..".chars()).take(chars_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_right_and_words_left() {
        let mut table = Table::new(["station", "p10", "note"]);
        table.row(["Aotizhongxin", "1.5", "a"]).row(["Gucheng", "-12", ""]).row(["Tiantan", "-"]);
        let expect = "\
station       p10  note
Aotizhongxin  1.5  a
Gucheng       -12
Tiantan         -
";
        assert_eq!(table.render(), expect);
        assert_eq!(Table::new(["only"]).render(), "only\n");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let mut table = Table::new(["name"]);
        table.row(["\u{1b}[2Jgone\r\n\u{202e}x"]).row(["é".repeat(100)]);
        let text = table.render();
        assert!(!text.contains(['\u{1b}', '\r', '\u{202e}']), "{text:?}");
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.chars().count() <= CELL_CHARS_MAX));
    }
}
