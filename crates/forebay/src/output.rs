//! Everything that reaches stdout and stderr passes here.
//!
//! Data goes to stdout: with `--json` one object (or one object a line when streaming),
//! otherwise text for people. Progress and remarks go to stderr; bars only on a terminal.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// How this run talks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    json: bool,
    color: bool,
}

impl Printer {
    /// `color_wanted` is false when NO_COLOR is set.
    pub(crate) fn new(json: bool, color_wanted: bool) -> Self {
        Printer { json, color: color_wanted && std::io::stdout().is_terminal() }
    }

    /// Whether `--json` was asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether figures may use colour.
    pub(crate) fn color(&self) -> bool {
        self.color
    }

    /// Prints the command's answer: the object with `--json`, else the text.
    pub(crate) fn answer(&self, value: &Value, text: impl FnOnce() -> String) {
        if self.json {
            self.line(&value.to_string());
        } else {
            let text = text();
            if !text.is_empty() {
                self.line(text.trim_end_matches('\n'));
            }
        }
    }

    /// Prints one line of data. A closed pipe (`| head`) ends the output quietly.
    pub(crate) fn line(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        if writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_err() {
            std::process::exit(0);
        }
    }

    /// A remark for people, on stderr; silent with `--json`.
    #[expect(clippy::print_stderr, reason = "this is the printer")]
    pub(crate) fn note(&self, text: &str) {
        if !self.json {
            eprintln!("{text}");
        }
    }

    /// The failure: JSON on stdout with `--json`, else text on stderr.
    #[expect(clippy::print_stderr, reason = "this is the printer")]
    pub(crate) fn error(&self, error: &anyhow::Error, word: &str, code: u8) {
        let message = format!("{error:#}");
        if self.json {
            self.line(
                &json!({"error": {"kind": word, "message": message, "exit_code": code}})
                    .to_string(),
            );
        } else {
            eprintln!("forebay: {message}");
        }
    }

    /// A bar on a terminal; elsewhere it counts silently.
    pub(crate) fn bar(&self, what: &str, total: u64) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style =
            ProgressStyle::with_template("{msg:28} {bar:32} {human_pos}/{human_len} {elapsed}")
                .unwrap_or_else(|_template| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style).with_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// `1234567` as `1.2 MB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// `1234567` as `1,234,567`.
pub(crate) fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_sizes_read_well() {
        assert_eq!(human_count(0), "0");
        assert_eq!(human_count(420_768), "420,768");
        assert_eq!(human_bytes(999), "999 B");
        assert_eq!(human_bytes(1_500_000), "1.5 MB");
    }
}
