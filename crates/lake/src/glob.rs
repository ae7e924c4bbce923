//! Globs on keys, as Glue's exclusion patterns: `*` and `?` stay within a folder, `**` does
//! not, `[a-z]` and `[!a-z]` are one character, `{a,b}` is either.

use base::{Error, Result};

/// Most alternatives that one pattern's braces may spell out.
const ALTERNATIVES_MAX: usize = 64;
/// Longest pattern.
const PATTERN_BYTES_MAX: usize = 1_024;

/// A set of patterns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Globs(Vec<Vec<Token>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(char),
    AnyOne,
    AnyWithin,
    AnyAcross,
    OneOf { negated: bool, ranges: Vec<(char, char)> },
}

impl Globs {
    pub(crate) fn parse(patterns: &[String]) -> Result<Self> {
        let mut globs = Vec::new();
        for pattern in patterns {
            let bad = |why: &str| Error::invalid(format!("exclusion {pattern:?}: {why}"));
            if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
                return Err(bad("use 1 to 1024 bytes"));
            }
            for plain in spell_out(pattern).map_err(bad)? {
                globs.push(tokens(&plain).map_err(bad)?);
            }
        }
        Ok(Globs(globs))
    }

    /// Whether any pattern matches the whole of `path`.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        self.0.iter().any(|glob| matches(glob, &path))
    }
}

/// Replaces the first `{a,b}` by each of its alternatives, until none is left.
fn spell_out(pattern: &str) -> std::result::Result<Vec<String>, &'static str> {
    let mut waiting = vec![pattern.to_owned()];
    let mut plain = Vec::new();
    while let Some(next) = waiting.pop() {
        let Some(open) = find(&next, '{') else {
            plain.push(next);
            continue;
        };
        let (head, rest) = (&next[..open], &next[open + 1..]);
        let close = find(rest, '}').ok_or("a '{' is not closed")?;
        let (choices, tail) = (&rest[..close], &rest[close + 1..]);
        if find(choices, '{').is_some() {
            return Err("braces within braces are not supported");
        }
        for choice in choices.split(',') {
            waiting.push(format!("{head}{choice}{tail}"));
        }
        if waiting.len() + plain.len() > ALTERNATIVES_MAX {
            return Err("it has too many alternatives");
        }
    }
    Ok(plain)
}

/// Where `wanted` is, unless a backslash makes it literal.
fn find(text: &str, wanted: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if c == wanted && !escaped {
            return Some(at);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

fn tokens(pattern: &str) -> std::result::Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '\\' => Token::Literal(chars.next().ok_or("it ends with a lone '\\'")?),
            '?' => Token::AnyOne,
            '*' if chars.next_if_eq(&'*').is_some() => Token::AnyAcross,
            '*' => Token::AnyWithin,
            '[' => one_of(&mut chars)?,
            literal => Token::Literal(literal),
        });
    }
    Ok(tokens)
}

fn one_of(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
) -> std::result::Result<Token, &'static str> {
    let negated = chars.next_if(|c| matches!(c, '!' | '^')).is_some();
    let mut ranges = Vec::new();
    loop {
        let from = chars.next().ok_or("a '[' is not closed")?;
        if from == ']' && !ranges.is_empty() {
            return Ok(Token::OneOf { negated, ranges });
        }
        let mut to = from;
        if chars.next_if_eq(&'-').is_some() {
            match chars.next().ok_or("a '[' is not closed")? {
                ']' => {
                    ranges.push((from, from));
                    ranges.push(('-', '-'));
                    return Ok(Token::OneOf { negated, ranges });
                }
                end => to = end,
            }
        }
        ranges.push((from, to));
    }
}

/// One row of the usual table: which prefixes of `path` the tokens so far match. Linear in
/// pattern times path, whatever the pattern.
fn matches(glob: &[Token], path: &[char]) -> bool {
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for token in glob {
        let mut next = vec![false; path.len() + 1];
        match token {
            Token::AnyWithin | Token::AnyAcross => {
                let mut open = false;
                for at in 0..=path.len() {
                    open |= reached[at];
                    next[at] = open;
                    if *token == Token::AnyWithin && path.get(at) == Some(&'/') {
                        open = false;
                    }
                }
            }
            one => {
                for (at, &c) in path.iter().enumerate() {
                    next[at + 1] = reached[at] && takes(one, c);
                }
            }
        }
        reached = next;
    }
    reached[path.len()]
}

fn takes(token: &Token, c: char) -> bool {
    match token {
        Token::Literal(literal) => *literal == c,
        Token::AnyOne => c != '/',
        Token::OneOf { negated, ranges } => {
            c != '/' && ranges.iter().any(|&(from, to)| (from..=to).contains(&c)) != *negated
        }
        Token::AnyWithin | Token::AnyAcross => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_glue_says() {
        let cases = [
            ("*.csv", "a.csv", true),
            ("*.csv", "a/b.csv", false),
            ("**.csv", "a/b.csv", true),
            ("errors/**", "errors/a/b", true),
            ("errors/**", "raw/errors/a", false),
            ("**/errors/**", "raw/errors/a", true),
            ("?.json", "a.json", true),
            ("?.json", "/.json", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]x", "dx", true),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("*.{csv,tsv}", "a.tsv", true),
            ("*.{csv,tsv}", "a.json", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\{a,b\\}", "{a,b}", true),
            ("\\{{a,b}", "{b", true),
            ("", "x", false),
        ];
        for (pattern, path, expected) in cases.iter().filter(|case| !case.0.is_empty()) {
            let globs = Globs::parse(&[(*pattern).to_owned()]).unwrap();
            assert_eq!(globs.matches(path), *expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn nonsense_is_refused_and_nothing_explodes() {
        for pattern in ["", "[a", "{a", "{a{b}}", "a\\", &"{a,b}".repeat(20), &"x".repeat(2000)] {
            assert!(Globs::parse(&[pattern.to_owned()]).is_err(), "{pattern}");
        }
        let slow = Globs::parse(&["*a".repeat(200)]).unwrap();
        assert!(!slow.matches(&"a".repeat(1000).replace("aa", "ab")));
    }
}
