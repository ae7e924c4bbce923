//! Finds the subscriptions that a topic matches, in time that depends on its levels and not
//! on the number of subscriptions.
//!
//! Invariants
//! * Agrees with [`base::TopicFilter::matches`] for every filter and topic.
//! * A branch without subscriptions is removed, so that memory follows what is subscribed.

use std::collections::HashMap;

/// Subscriptions by filter; each filter holds at most one value per `K`.
#[derive(Debug)]
pub(crate) struct Trie<K, V> {
    root: Node<K, V>,
    len: usize,
}

#[derive(Debug)]
struct Node<K, V> {
    children: HashMap<Box<str>, Node<K, V>>,
    plus: Option<Box<Node<K, V>>>,
    /// Filters that end here.
    here: Vec<(K, V)>,
    /// Filters that end here with `#`.
    below: Vec<(K, V)>,
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Node { children: HashMap::new(), plus: None, here: Vec::new(), below: Vec::new() }
    }
}

impl<K, V> Node<K, V> {
    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.plus.is_none()
            && self.here.is_empty()
            && self.below.is_empty()
    }
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Self {
        Trie { root: Node::default(), len: 0 }
    }
}

impl<K: PartialEq, V> Trie<K, V> {
    /// How many subscriptions there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds or replaces the subscription of `key` to `filter`.
    pub(crate) fn insert(&mut self, filter: &str, key: K, value: V) {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = match level {
                "#" => {
                    self.len += usize::from(put(&mut node.below, key, value));
                    return;
                }
                "+" => node.plus.get_or_insert_default(),
                name => {
                    if !node.children.contains_key(name) {
                        node.children.insert(name.into(), Node::default());
                    }
                    // Present: inserted above if it was not there.
                    let Some(child) = node.children.get_mut(name) else { return };
                    child
                }
            };
        }
        self.len += usize::from(put(&mut node.here, key, value));
    }

    /// Removes the subscription of `key` to `filter`; false if there was none.
    pub(crate) fn remove(&mut self, filter: &str, key: &K) -> bool {
        let removed = remove(&mut self.root, filter.split('/'), key);
        self.len -= usize::from(removed);
        removed
    }

    /// Calls `found` for every subscription that `topic` matches.
    pub(crate) fn matches<'t>(&'t self, topic: &str, found: &mut impl FnMut(&'t K, &'t V)) {
        // A leading wildcard never selects a `$` topic (MQTT 5, 4.7.2).
        let wild = !topic.starts_with('$');
        visit(&self.root, Some(topic), wild, found);
    }
}

fn put<K: PartialEq, V>(list: &mut Vec<(K, V)>, key: K, value: V) -> bool {
    if let Some(entry) = list.iter_mut().find(|entry| entry.0 == key) {
        entry.1 = value;
        return false;
    }
    list.push((key, value));
    true
}

fn take<K: PartialEq, V>(list: &mut Vec<(K, V)>, key: &K) -> bool {
    let Some(at) = list.iter().position(|entry| entry.0 == *key) else { return false };
    list.swap_remove(at);
    list.shrink_to(list.len() * 2);
    true
}

fn remove<'f, K: PartialEq, V>(
    node: &mut Node<K, V>,
    mut levels: impl Iterator<Item = &'f str>,
    key: &K,
) -> bool {
    match levels.next() {
        None => take(&mut node.here, key),
        Some("#") => take(&mut node.below, key),
        Some("+") => {
            let Some(child) = &mut node.plus else { return false };
            let removed = remove(child, levels, key);
            if child.is_empty() {
                node.plus = None;
            }
            removed
        }
        Some(name) => {
            let Some(child) = node.children.get_mut(name) else { return false };
            let removed = remove(child, levels, key);
            if child.is_empty() {
                node.children.remove(name);
            }
            removed
        }
    }
}

/// `rest` is what is left of the topic, `None` once every level was consumed. Recursion is as
/// deep as the filters are, at most.
fn visit<'t, K, V>(
    node: &'t Node<K, V>,
    rest: Option<&str>,
    wild: bool,
    found: &mut impl FnMut(&'t K, &'t V),
) {
    if wild {
        // `#` also selects its parent level.
        node.below.iter().for_each(|(key, value)| found(key, value));
    }
    let Some(rest) = rest else {
        node.here.iter().for_each(|(key, value)| found(key, value));
        return;
    };
    let (level, rest) = match rest.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (rest, None),
    };
    if let Some(child) = node.children.get(level) {
        visit(child, rest, true, found);
    }
    if wild && let Some(child) = &node.plus {
        visit(child, rest, true, found);
    }
}

#[cfg(test)]
mod tests {
    use base::TopicFilter;
    use proptest::prelude::*;

    use super::*;

    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["", "a", "b", "$s", "+", "#", "c"])
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_matcher(
            filters in prop::collection::vec(prop::collection::vec(level(), 1..5), 0..20),
            topic in prop::collection::vec(level(), 1..5),
        ) {
            let topic = topic.join("/").replace(['+', '#'], "d");
            prop_assume!(!topic.is_empty());
            let filters: Vec<_> = filters
                .iter()
                .filter_map(|levels| TopicFilter::parse(&levels.join("/")).ok())
                .collect();
            let mut trie = Trie::default();
            for (key, filter) in filters.iter().enumerate() {
                trie.insert(filter.as_str(), key, ());
            }
            let mut found = Vec::new();
            trie.matches(&topic, &mut |key, ()| found.push(*key));
            found.sort_unstable();
            let expect: Vec<_> =
                (0..filters.len()).filter(|key| filters[*key].matches(&topic)).collect();
            prop_assert_eq!(found, expect);
            for (key, filter) in filters.iter().enumerate() {
                prop_assert!(trie.remove(filter.as_str(), &key));
                prop_assert!(!trie.remove(filter.as_str(), &key));
            }
            prop_assert_eq!(trie.len(), 0);
            prop_assert!(trie.root.is_empty());
        }
    }
}
