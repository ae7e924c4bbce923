//! The table of faults: every fault test prints a line of what it measured, in whatever crate it
//! lives, and a run of tests ends with all of them under each other.
//!
//! ```text
//! FAULT: fault | rounds | acknowledged | in the lake | lost | doubled | memory | recovered | control
//! ```

use std::fmt::Write;

/// What a line of the table begins with.
const MARK: &str = "FAULT: ";

const HEAD: [&str; 9] = [
    "fault",
    "rounds",
    "acknowledged",
    "in the lake",
    "lost",
    "doubled",
    "peak of bound, MiB",
    "recovered by itself, s",
    "control",
];

/// Columns of figures, which stand to the right.
const FIGURES: std::ops::Range<usize> = 1..8;

/// The modules of the whole system's tests that inject faults.
pub(crate) const MODULES: [&str; 9] = [
    "arrivals::",
    "crash::",
    "damage::",
    "peers::",
    "resend::",
    "retained::",
    "sessions::",
    "storage::",
    "topics::",
];

/// A line of the table in a line that a test printed, cell by cell.
pub(crate) fn row(line: &str) -> Option<Vec<String>> {
    let at = line.find(MARK)?;
    let cells: Vec<String> = line[at + MARK.len()..].split(" | ").map(str::to_owned).collect();
    (cells.len() == HEAD.len()).then_some(cells)
}

/// The rows, in order of their faults, under the head; nothing without any.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut rows: Vec<Vec<&str>> =
        rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
    rows.sort();
    rows.insert(0, HEAD.to_vec());
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    rows.insert(1, rule.iter().map(String::as_str).collect());
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if FIGURES.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        let line = cells.collect::<Vec<_>>().join(" | ");
        writeln!(text, "{}", line.trim_end()).expect("a string takes every write");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_tests_print_become_a_table() {
        let said = [
            "test storage::k5 ... FAULT: disk full | 1 | 10 | 10 | 0 | 0 | 53 of 256 | 9.6 | 24 MiB taken",
            "FAULT: a cut | 12 | 1000 | 1000 | 0 | 0 | 60 of 256 | - | all hit",
            "FAULT: too few cells | 1",
            "nothing of it",
        ];
        let rows: Vec<_> = said.iter().filter_map(|line| row(line)).collect();
        assert_eq!(rows.len(), 2);
        let table = table(&rows);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[2].starts_with("a cut     |     12 |         1000 |"), "{table}");
        assert!(lines[3].starts_with("disk full |      1 |           10 |"), "{table}");
    }

    #[test]
    fn no_rows_are_no_table() {
        assert_eq!(table(&[]), "");
    }
}
