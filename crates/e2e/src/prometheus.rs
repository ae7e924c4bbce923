//! A strict reader of Prometheus' text form, version 0.0.4: what a page must be so that any
//! scraper takes it, and a little more (every metric is described, before its values, once).

use std::collections::{BTreeMap, BTreeSet};

/// A page that was read.
#[derive(Debug, Default)]
pub struct Page {
    /// Kind by name of metric.
    pub kinds: BTreeMap<String, String>,
    /// Value by name and labels, in the order of the labels' names.
    pub values: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

impl Page {
    /// The sum of all values of a name.
    pub fn sum(&self, name: &str) -> f64 {
        self.with(name, &[])
    }

    /// The sum of a name's values that have these labels, perhaps among others.
    pub fn with(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |found: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| found.get(*key).is_some_and(|found| found == value))
        };
        let of = self.values.iter().filter(|((found, labels), _)| found == name && has(labels));
        of.map(|(_, value)| value).sum()
    }

    /// Whether there is any value of a name.
    pub fn has(&self, name: &str) -> bool {
        self.values.keys().any(|(found, _)| found == name)
    }
}

/// Reads a page, or says what is wrong with it and in which line.
pub fn parse(text: &str) -> Result<Page, String> {
    if !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let (mut page, mut helped, mut closed) = (Page::default(), BTreeSet::new(), BTreeSet::new());
    let mut current = String::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |what: &str| Err(format!("line {}: {what}: {line}", index + 1));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else { return wrong("no help") };
            if !is_name(name) || help.trim().is_empty() {
                return wrong("a bad name or an empty help");
            }
            if !helped.insert(name.to_owned()) {
                return wrong("a second HELP");
            }
            closed.insert(std::mem::replace(&mut current, name.to_owned()));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return wrong("no type") };
            if name != current {
                return wrong("a TYPE without its HELP before it");
            }
            if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
                return wrong("an unknown type");
            }
            if (kind == "counter") != name.ends_with("_total") {
                return wrong("counters, and only they, end in _total");
            }
            if page.kinds.insert(name.to_owned(), kind.to_owned()).is_some() {
                return wrong("a second TYPE");
            }
        } else {
            let Some((name, labels, value)) = sample(line) else { return wrong("no sample") };
            let Some(kind) = page.kinds.get(&current) else { return wrong("no TYPE before it") };
            let suffixes: &[&str] =
                if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            if !suffixes.iter().any(|suffix| name == format!("{current}{suffix}")) {
                return wrong("a value that stands under another metric");
            }
            if closed.contains(&current) {
                return wrong("values of one metric stand apart");
            }
            if value.is_nan() || (kind != "gauge" && value < 0.0) {
                return wrong("a value that cannot be");
            }
            if page.values.insert((name, labels), value).is_some() {
                return wrong("the same series twice");
            }
        }
    }
    let mut histograms = page.kinds.iter().filter(|(_, kind)| *kind == "histogram");
    histograms.try_for_each(|(name, _)| histogram(&page, name))?;
    Ok(page)
}

/// Buckets count up to everything.
fn histogram(page: &Page, name: &str) -> Result<(), String> {
    let bucket = format!("{name}_bucket");
    let mut buckets = Vec::new();
    for ((_, labels), count) in page.values.iter().filter(|((found, _), _)| *found == bucket) {
        let bound = labels.get("le").and_then(|text| number(text));
        buckets.push((bound.ok_or_else(|| format!("{bucket} without a bound"))?, *count));
    }
    buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let Some((last, all)) = buckets.last().copied() else {
        return Err(format!("{name} has no bucket"));
    };
    let total = page.values.get(&(format!("{name}_count"), BTreeMap::new())).copied();
    if last.is_finite() || total != Some(all) {
        return Err(format!("{name}: the last bucket holds {all} up to {last}, of {total:?}"));
    }
    if buckets.windows(2).any(|pair| pair[0].1 > pair[1].1) {
        return Err(format!("{name}: a bucket holds less than the one before"));
    }
    if !page.values.contains_key(&(format!("{name}_sum"), BTreeMap::new())) {
        return Err(format!("{name} has no sum"));
    }
    Ok(())
}

/// `name{label="value",...} number`.
fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            let plain = is_name(label) && !label.contains(':');
            if !plain || labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = match after.strip_prefix(',') {
                Some(more) => more,
                None => {
                    rest = after.strip_prefix('}')?;
                    break;
                }
            };
        }
    }
    let value = number(rest.strip_prefix(' ')?)?;
    is_name(name).then(|| (name.to_owned(), labels, value))
}

/// A label's value up to its closing quote, and what comes after.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut signs = text.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match signs.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            sign => value.push(sign),
        }
    }
    None
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        text => text.parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b':';
    let mut bytes = text.bytes();
    bytes.next().is_some_and(letter) && bytes.all(|byte| letter(byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# HELP a_total What.\n# TYPE a_total counter\n";

    #[test]
    fn a_good_page_is_read() {
        let text = format!(
            "{HEAD}a_total{{x=\"1\",y=\"a \\\"b\\\" \\\\ c\"}} 3\na_total{{x=\"2\"}} 4\n\
             # HELP h How long.\n# TYPE h histogram\nh_bucket{{le=\"0.5\"}} 1\n\
             h_bucket{{le=\"+Inf\"}} 2\nh_sum 0.7\nh_count 2\n"
        );
        let page = parse(&text).unwrap();
        assert!((page.sum("a_total") - 7.0).abs() < 1e-9);
        assert!((page.with("a_total", &[("x", "1")]) - 3.0).abs() < 1e-9);
        assert!((page.with("a_total", &[("y", "a \"b\" \\ c")]) - 3.0).abs() < 1e-9);
        assert!(page.has("h_count") && !page.has("h"));
    }

    #[test]
    fn what_a_scraper_refuses_is_refused() {
        let check = |text: &str, part: &str| {
            let said = parse(text).unwrap_err();
            assert!(said.contains(part), "{text:?}: {said}");
        };
        check("", "no end");
        check("a 1", "no end");
        check("a 1\n", "no TYPE");
        check(&format!("{HEAD}a_total 1\n{HEAD}"), "second HELP");
        check(&format!("{HEAD}a_total 1\na_total 1\n"), "twice");
        check(&format!("{HEAD}b_total 1\n"), "another metric");
        check(&format!("{HEAD}a_total{{x=1}} 1\n"), "no sample");
        check(&format!("{HEAD}a_total{{x=\"1\"y=\"2\"}} 1\n"), "no sample");
        check(&format!("{HEAD}a_total one\n"), "no sample");
        check(&format!("{HEAD}a_total -1\n"), "cannot be");
        check("# HELP a What.\n# TYPE a counter\na 1\n", "_total");
        check("# HELP a What.\n# TYPE a meter\na 1\n", "unknown type");
        check("# TYPE a gauge\na 1\n", "without its HELP");
        let histogram = "# HELP h H.\n# TYPE h histogram\n";
        check(&format!("{histogram}h_bucket{{le=\"1\"}} 1\nh_sum 1\nh_count 1\n"), "last bucket");
        check(
            &format!(
                "{histogram}h_bucket{{le=\"1\"}} 3\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 1\nh_count 2\n"
            ),
            "less than",
        );
        check(&format!("{histogram}h_bucket{{le=\"+Inf\"}} 2\nh_count 2\n"), "no sum");
    }
}
