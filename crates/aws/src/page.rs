//! Pages of a list: a token names the last key that was given, so that a page stays right
//! while rows come and go.

use base::{ErrorKind, Result};

use crate::fault::Fault;

/// Gives the page of `items` that follows `token`, and the token of the next one. `items` are
/// sorted by `key`; at most `most` of them are given, a request's own wish within 1..=`most`.
pub(crate) fn page<T>(
    items: Vec<T>,
    key: impl Fn(&T) -> String,
    token: Option<&str>,
    wish: Option<usize>,
    most: usize,
) -> Result<(Vec<T>, Option<String>), Fault> {
    let size = wish.unwrap_or(most);
    if size == 0 || size > most {
        let message = format!("a page has 1 to {most} entries; {size} were asked for");
        return Err(Fault::kind(ErrorKind::Invalid, message));
    }
    let after = token.map(decode).transpose()?;
    let mut rest =
        items.into_iter().filter(|item| after.as_ref().is_none_or(|after| key(item) > *after));
    let given: Vec<T> = rest.by_ref().take(size).collect();
    let next = match (rest.next(), given.last()) {
        (Some(_), Some(last)) => Some(rules::base64::encode(key(last).as_bytes())),
        _ => None,
    };
    Ok((given, next))
}

fn decode(token: &str) -> Result<String, Fault> {
    rules::base64::decode(token).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
        Fault::invalid(format!("nextToken {token:?} is not one that was given here"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_and_survive_a_deletion() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let key = |name: &String| name.clone();
        let (first, next) = page(names(&["a", "b", "c"]), key, None, Some(2), 10).unwrap();
        assert_eq!(first, names(&["a", "b"]));
        let (rest, end) = page(names(&["a", "c"]), key, next.as_deref(), Some(2), 10).unwrap();
        assert_eq!((rest, end), (names(&["c"]), None));
        assert!(page(names(&["a"]), key, Some("?"), None, 10).is_err());
        assert!(page(names(&["a"]), key, None, Some(11), 10).is_err());
    }
}
