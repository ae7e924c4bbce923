//! MQTT topic names and filters (MQTT 5 section 4.7), checked once at the edge.

use std::fmt;

use crate::{Error, Result, limits};

/// A topic a message is published to: no wildcard, no U+0000, 1 to 65,535 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(String);

impl TopicName {
    /// Checks `name`.
    pub fn parse(name: &str) -> Result<Self> {
        check_length("topic name", name)?;
        if let Some(bad) = name.find(['+', '#', '\0']) {
            return Err(Error::invalid(format!(
                "topic name {name:?} holds {:?} at byte {bad}; wildcards belong in filters",
                name[bad..].chars().next().unwrap_or_default(),
            )));
        }
        Ok(TopicName(name.to_owned()))
    }

    /// The name as sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic filter: `+` stands for one level, `#` for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(String);

impl TopicFilter {
    /// Checks `filter`: wildcards fill whole levels, `#` is last.
    pub fn parse(filter: &str) -> Result<Self> {
        check_length("topic filter", filter)?;
        let bad = |why: &str| Error::invalid(format!("topic filter {filter:?}: {why}"));
        if filter.contains('\0') {
            return Err(bad("U+0000 is not allowed"));
        }
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            match level {
                "#" if levels.peek().is_some() => return Err(bad("# must be the last level")),
                "#" | "+" => {}
                _ if level.contains(['#', '+']) => {
                    return Err(bad("a wildcard must fill its level"));
                }
                _ => {}
            }
        }
        Ok(TopicFilter(filter.to_owned()))
    }

    /// The filter as sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `topic` is selected. A leading wildcard never selects a `$` topic
    /// (MQTT 5 section 4.7.2).
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut names = topic.split('/');
        for level in self.0.split('/') {
            if level == "#" {
                return true;
            }
            match names.next() {
                Some(name) if level == "+" || level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn check_length(what: &str, text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(Error::invalid(format!("{what} is empty")));
    }
    if text.len() > limits::TOPIC_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{what} is {} bytes long; at most {} are allowed",
            text.len(),
            limits::TOPIC_BYTES_MAX
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_select_as_the_standard_says() {
        let check = |filter: &str, topic: &str, expect: bool| {
            let parsed = TopicFilter::parse(filter).unwrap();
            assert_eq!(parsed.matches(topic), expect, "{filter} on {topic}");
        };
        check("sport/tennis/player1/#", "sport/tennis/player1", true);
        check("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true);
        check("sport/#", "sport", true);
        check("#", "a/b", true);
        check("#", "$SYS/x", false);
        check("+/x", "$SYS/x", false);
        check("$SYS/#", "$SYS/x", true);
        check("sport/tennis/+", "sport/tennis/player1", true);
        check("sport/tennis/+", "sport/tennis/player1/ranking", false);
        check("sport/+", "sport", false);
        check("sport/+", "sport/", true);
        check("+/+", "/finance", true);
        check("/+", "/finance", true);
        check("+", "/finance", false);
    }

    #[test]
    fn malformed_names_and_filters_are_refused() {
        for bad in ["", "a/#/b", "a#", "a/b+", "+a", "a\0"] {
            assert!(TopicFilter::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a/+", "#", "a\0b"] {
            assert!(TopicName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
