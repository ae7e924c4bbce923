//! A series in one line.

use crate::Ink;

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const SIGNS: [char; 8] = ['_', '.', ',', '-', '=', '+', '*', '#'];

/// One sign a value, low to high between the least and the largest; a blank where a value is
/// missing. A series that does not move is drawn at half height.
pub fn sparkline(values: &[f64], ink: Ink) -> String {
    let signs = if ink.unicode { BLOCKS } else { SIGNS };
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let low = finite().fold(f64::INFINITY, f64::min);
    let high = finite().fold(f64::NEG_INFINITY, f64::max);
    let sign = |value: &f64| {
        if !value.is_finite() {
            return ' ';
        }
        // Halved first: the difference of two large values would overflow.
        let share = (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
        let level = if share.is_nan() { 3 } else { (share * 7.0).round() as usize };
        signs[level.min(7)]
    };
    values.iter().map(sign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_to_high_with_gaps() {
        let values = [0.0, 1.0, 2.0, f64::NAN, 7.0, f64::INFINITY];
        assert_eq!(sparkline(&values, Ink::PLAIN), "▁▂▃ █ ");
        assert_eq!(sparkline(&values, Ink::ASCII), "_., # ");
        assert_eq!(sparkline(&[5.0, 5.0], Ink::ASCII), "--");
        assert_eq!(sparkline(&[f64::NAN], Ink::ASCII), " ");
        assert_eq!(sparkline(&[-f64::MAX, f64::MAX], Ink::ASCII), "_#");
        assert_eq!(sparkline(&[], Ink::PLAIN), "");
    }
}
