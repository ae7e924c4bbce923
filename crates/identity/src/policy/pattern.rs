//! Text with wildcards and variables, and what it matches.

use super::facts::{Facts, Key};

/// One step of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// One character.
    One,
    /// Any characters, or none.
    Run,
}

/// A pattern without variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Glob {
    tokens: Vec<Token>,
    /// Whether a variable's value holds what is a wildcard in a topic filter.
    widened: bool,
}

impl Glob {
    /// Every `*` and `?` of `text` is a wildcard.
    pub(super) fn of(text: &str) -> Glob {
        let mut glob = Glob::default();
        text.chars().for_each(|c| glob.push_char(c));
        glob
    }

    fn push_char(&mut self, c: char) {
        match c {
            '*' if self.tokens.last() == Some(&Token::Run) => {}
            '*' => self.tokens.push(Token::Run),
            '?' => self.tokens.push(Token::One),
            _ => self.push_literal(c.encode_utf8(&mut [0; 4])),
        }
    }

    fn push_literal(&mut self, text: &str) {
        self.tokens.extend(text.bytes().map(Token::Byte));
    }

    /// Whether it matches whatever it is given.
    pub(super) fn is_everything(&self) -> bool {
        self.tokens == [Token::Run]
    }

    /// Whether a `+` or `#` in it comes from a variable and not from who wrote the policy.
    pub(super) fn is_widened(&self) -> bool {
        self.widened
    }

    /// Whether all of `head` followed by `tail` matches. Goes back to the last `*` only, so it
    /// takes at most the product of the two lengths.
    pub(super) fn matches(&self, head: &str, tail: &str) -> bool {
        let (head, tail) = (head.as_bytes(), tail.as_bytes());
        let length = head.len() + tail.len();
        let byte = |at: usize| if at < head.len() { head[at] } else { tail[at - head.len()] };
        let (mut at, mut step) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let fits = match self.tokens.get(step) {
                Some(Token::Run) => {
                    retry = Some((at, step + 1));
                    step += 1;
                    continue;
                }
                None if at == length => return true,
                Some(Token::Byte(wanted)) if at < length && byte(at) == *wanted => {
                    at += 1;
                    true
                }
                Some(Token::One) if at < length => {
                    at = after_char(at, length, byte);
                    true
                }
                _ => false,
            };
            if fits {
                step += 1;
                continue;
            }
            let Some((from, behind)) = retry else { return false };
            if from == length {
                return false;
            }
            let next = after_char(from, length, byte);
            retry = Some((next, behind));
            (at, step) = (next, behind);
        }
    }
}

/// The index behind the UTF-8 character at `at`.
fn after_char(at: usize, length: usize, byte: impl Fn(usize) -> u8) -> usize {
    let mut next = at + 1;
    while next < length && byte(next) & 0xc0 == 0x80 {
        next += 1;
    }
    next
}

/// A piece of a text as written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// With its wildcards.
    Text(String),
    /// `${*}` and its like: itself.
    Literal(char),
    Variable(Key, String),
}

/// Text as written in a policy, its variables not yet replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    written: String,
    pieces: Vec<Piece>,
}

impl Template {
    /// Reads `text`; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let Some(end) = from.find('}') else {
                return Err(format!("{text:?} opens a variable with ${{ and does not close it"));
            };
            let name = &from[2..end];
            pieces.push(match name {
                "*" => Piece::Literal('*'),
                "?" => Piece::Literal('?'),
                "$" => Piece::Literal('$'),
                _ => Piece::Variable(variable(name, text)?, name.to_owned()),
            });
            rest = &from[end + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Template { written: text.to_owned(), pieces })
    }

    /// As it stands in the policy.
    pub(super) fn written(&self) -> &str {
        &self.written
    }

    /// The parts between the first `count - 1` colons outside of variables, and the rest.
    pub(super) fn split(&self, count: usize) -> Vec<Template> {
        let mut parts = vec![Template { written: String::new(), pieces: Vec::new() }];
        for piece in &self.pieces {
            let Piece::Text(text) = piece else {
                push(&mut parts, piece.clone());
                continue;
            };
            let splits = count - parts.len() + 1;
            for (at, text) in text.splitn(splits, ':').enumerate() {
                if at > 0 {
                    parts.push(Template { written: String::new(), pieces: Vec::new() });
                }
                if !text.is_empty() {
                    push(&mut parts, Piece::Text(text.to_owned()));
                }
            }
        }
        parts
    }

    /// The keys of its variables.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable(key, _) => Some(key),
            _ => None,
        })
    }

    /// The pattern for one client, or the name of a variable that has no value. An empty one is
    /// none: `site/${...}/in` must not become `site//in` for whoever has no site.
    pub(super) fn fill(&self, facts: &Facts<'_>) -> Result<Glob, &str> {
        let mut glob = Glob::default();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => text.chars().for_each(|c| glob.push_char(c)),
                Piece::Literal(c) => glob.push_literal(c.encode_utf8(&mut [0; 4])),
                Piece::Variable(key, name) => {
                    let value = key.value(facts).filter(|value| !value.is_empty());
                    let value = value.ok_or(name.as_str())?;
                    glob.widened |= value.contains(['+', '#']);
                    glob.push_literal(&value);
                }
            }
        }
        Ok(glob)
    }

    /// The text for one client, for people and for comparisons without wildcards.
    pub(super) fn shown(&self, facts: &Facts<'_>) -> Option<String> {
        let mut shown = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => shown.push_str(text),
                Piece::Literal(c) => shown.push(*c),
                Piece::Variable(key, _) => shown.push_str(&key.value(facts)?),
            }
        }
        Some(shown)
    }
}

fn push(parts: &mut [Template], piece: Piece) {
    if let Some(last) = parts.last_mut() {
        match &piece {
            Piece::Text(text) => last.written.push_str(text),
            Piece::Literal(c) => last.written.extend(['$', '{', *c, '}']),
            Piece::Variable(_, name) => {
                last.written.push_str("${");
                last.written.push_str(name);
                last.written.push('}');
            }
        }
        last.pieces.push(piece);
    }
}

fn variable(name: &str, text: &str) -> Result<Key, String> {
    let key = Key::parse(name).map_err(|why| format!("{why} (in {text:?})"))?;
    if key.is_variable() {
        Ok(key)
    } else {
        Err(format!("{name:?} has several values; it is for conditions only (in {text:?})"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, as slow as it is plain.
    fn plainly(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|at| plainly(rest, &text[at..])),
            Some(('?', rest)) => !text.is_empty() && plainly(rest, &text[1..]),
            Some((c, rest)) => text.first() == Some(c) && plainly(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn globs_match_as_defined(pattern in "[ab*?é]{0,8}", text in "[abé/]{0,10}", cut in 0_usize..10) {
            let chars: Vec<char> = text.chars().collect();
            let wanted = plainly(&pattern.chars().collect::<Vec<_>>(), &chars);
            let cut = cut.min(chars.len());
            let (head, tail): (String, String) =
                (chars[..cut].iter().collect(), chars[cut..].iter().collect());
            prop_assert_eq!(Glob::of(&pattern).matches(&head, &tail), wanted, "{} on {}", pattern, text);
        }

        #[test]
        fn a_value_stands_for_itself_whatever_it_holds(value in "[ab*?$+#{}/:]{1,8}", topic in "[ab*?$+#/]{0,8}") {
            let template = Template::parse("a/${iot:ClientId}/b").unwrap();
            let facts = Facts { client_id: Some(&value), ..Facts::default() };
            let glob = template.fill(&facts).unwrap();
            let own = format!("a/{value}/b");
            prop_assert!(glob.matches("", &own));
            prop_assert_eq!(glob.matches("a/", &format!("{topic}/b")), topic == value);
        }
    }

    #[test]
    fn a_long_hostile_topic_is_decided_in_time() {
        let glob = Glob::of(&"*a".repeat(500));
        assert!(!glob.matches("", &"a".repeat(499)));
        assert!(!Glob::of("*aaaaaaaaaaaaaaaaaaaab").matches("", &"a".repeat(65_000)));
    }
}
