//! Numbers people read: four significant digits, no exponent where none is needed.

/// Writes `value` with about four significant digits; a dash for what is not a number.
pub fn number(value: f64) -> String {
    if value.is_nan() {
        return "-".to_owned();
    }
    let size = value.abs();
    // 9999.5 would round to five digits.
    let text = match size {
        0.0 => "0".to_owned(),
        _ if !(1e-4..1e7).contains(&size) => format!("{value:.2e}"),
        _ if size >= 999.5 => format!("{value:.0}"),
        _ if size >= 99.95 => format!("{value:.1}"),
        _ if size >= 9.995 => format!("{value:.2}"),
        _ if size >= 0.9995 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    };
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_the_size() {
        for (value, text) in [
            (0.0, "0"),
            (12.0, "12"),
            (12.3456, "12.35"),
            (-0.04, "-0.04"),
            (0.123456, "0.1235"),
            (123.456, "123.5"),
            (999.96, "1000"),
            (40_960.4, "40960"),
            (1e9, "1.00e9"),
            (3e-7, "3.00e-7"),
            (f64::NAN, "-"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
