//! Two texts side by side, each folded into its own half.

use crate::plain;

/// Lines of one text; what is longer ends in two dots.
const LINES_MAX: usize = 12;
/// In front of each line, and between the halves.
const INDENT: &str = "  ";
const BETWEEN: &str = " | ";

/// `left` and `right` in lines of at most `width` columns, without control characters but for
/// their own line breaks. Width is counted in characters.
pub fn beside(left: &str, right: &str, width: usize) -> String {
    let half = (width.saturating_sub(INDENT.len() + BETWEEN.len()) / 2).max(1);
    let (left, right) = (folded(left, half), folded(right, half));
    let mut out = String::new();
    for at in 0..left.len().max(right.len()) {
        let line = |of: &[String]| of.get(at).cloned().unwrap_or_default();
        let (left, right) = (line(&left), line(&right));
        let pad = " ".repeat(half - left.chars().count());
        let line = format!("{INDENT}{left}{pad}{BETWEEN}{right}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The text in lines of at most `width` signs, at most [`LINES_MAX`] of them.
fn folded(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let signs: Vec<char> = plain(line, usize::MAX).chars().collect();
        lines.extend(signs.chunks(width).map(|part| part.iter().collect::<String>()));
        if lines.len() > LINES_MAX {
            lines.truncate(LINES_MAX);
            // There is a last one, and room for the dots in it.
            if let Some(last) = lines.last_mut() {
                *last = last.chars().take(width.saturating_sub(2)).chain("..".chars()).collect();
            }
            break;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_half_is_folded_by_itself() {
        let expect = "  abcd | 1\n  ef   | 23\n       | 4567\n       | 8\n";
        assert_eq!(beside("abcdef", "1\n23\n45678", 13), expect);
        assert_eq!(beside("", "", 20), "");
        assert_eq!(beside("é", "", 20), "  é       |\n");
    }

    #[test]
    fn nothing_is_wider_or_longer_than_was_asked_for_and_nothing_steers_the_terminal() {
        let long = "\u{1b}[2J\t\u{202e}x".repeat(500);
        let text = beside(&long, &long, 60);
        assert_eq!(text.lines().count(), LINES_MAX);
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(!text.contains(['\u{1b}', '\t', '\u{202e}']), "{text:?}");
        assert!(text.trim_end().ends_with(".."), "{text}");
    }
}
