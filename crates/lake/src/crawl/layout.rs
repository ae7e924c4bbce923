//! Which folders are tables and which are partitions. Pure.
//!
//! A folder is a table if objects lie in it; if the names of its folders say that they are
//! parts of one thing: all `key=value` with one key, or all beginning with a digit, as dates
//! do; or if more than half of its folders hold similar objects: the same format, and at least
//! seven of ten columns in common. Otherwise each of its folders is looked at by itself.
//!
//! Dates go by their names because a new year may bring new columns, and must not bring a new
//! table.
//!
//! A crawler may decide by itself: [`Grouping`].
//!
//! Everything beneath a table's folder is a partition of it, but for folders whose objects are
//! not similar to the rest: those are looked at by themselves, too.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use arrow::datatypes::Schema;
use formats::csv::Dialect;

use super::shape::Shape;
use crate::{Column, Format, unescape};

/// Longest name that the crawler gives to a table, as Glue's does.
const TABLE_NAME_BYTES_MAX: usize = 128;
/// Tenths of the columns that similar objects have in common.
const SIMILAR_TENTHS: usize = 7;

/// An object that is understood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// Its key beneath the include path.
    pub(super) below: &'a str,
    pub(super) format: Format,
    pub(super) csv: Option<&'a Dialect>,
    pub(super) path: Option<&'a str>,
    pub(super) shape: &'a Shape,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// A table that was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    /// Its folder beneath the include path; empty or ends with `/`.
    pub(super) root: String,
    /// What it is called after.
    pub(super) base_name: String,
    pub(super) format: Format,
    pub(super) csv: Option<Dialect>,
    pub(super) path: Option<String>,
    pub(super) columns: Vec<Column>,
    pub(super) partition_keys: Vec<Column>,
    /// Its objects, as indexes.
    pub(super) members: Vec<usize>,
    /// Objects in its folder that are not in it, and why.
    pub(super) odd: Vec<(usize, String)>,
    /// Globs on keys beneath its folder that are other tables'.
    pub(super) excluded: Vec<String>,
    /// Why its folder is a table.
    pub(super) why: String,
}

#[derive(Default)]
struct Folder<'a> {
    files: Vec<usize>,
    folders: BTreeMap<&'a str, Folder<'a>>,
}

impl<'a> Folder<'a> {
    fn add(&mut self, below: &'a str, index: usize) {
        match below.split_once('/') {
            None => self.files.push(index),
            Some((folder, rest)) => self.folders.entry(folder).or_default().add(rest, index),
        }
    }

    /// All objects in it and beneath, in the order of their keys.
    fn all(&self) -> Vec<usize> {
        let mut all = self.files.clone();
        for folder in self.folders.values() {
            all.extend(folder.all());
        }
        all.sort_unstable();
        all
    }
}

/// What decides about tables instead of what the folders hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grouping {
    /// Nothing: as this module says.
    BySimilarity,
    /// The include path is one table.
    Combine,
    /// Each folder so many levels beneath the include path is a table.
    Level(usize),
}

/// What was found, and the objects that no table can have.
pub(super) struct Layout {
    pub(super) tables: Vec<Found>,
    pub(super) homeless: Vec<(usize, String)>,
}

/// Finds the tables beneath the include path. `seen` is sorted by key; `base_name` is what a
/// table at the include path itself is called after.
pub(super) fn layout(seen: &[Seen<'_>], base_name: &str, grouping: Grouping) -> Layout {
    let mut root = Folder::default();
    for (index, object) in seen.iter().enumerate() {
        root.add(object.below, index);
    }
    let mut found = Layout { tables: Vec::new(), homeless: Vec::new() };
    if seen.is_empty() {
        return found;
    }
    match grouping {
        Grouping::BySimilarity => decide(seen, &root, "", base_name, &mut found.tables),
        Grouping::Combine => {
            let why = "the crawler combines compatible schemas".to_owned();
            found.tables.push(table(seen, "", base_name, root.all(), Vec::new(), why));
        }
        Grouping::Level(level) => at_level(seen, &root, "", (base_name, level), &mut found),
    }
    found
}

fn at_level(
    seen: &[Seen<'_>],
    folder: &Folder<'_>,
    path: &str,
    (name, level): (&str, usize),
    found: &mut Layout,
) {
    if level == 0 {
        let why = "its folder lies at the crawler's table level".to_owned();
        found.tables.push(table(seen, path, name, folder.all(), Vec::new(), why));
        return;
    }
    let above = "it lies above the crawler's table level";
    found.homeless.extend(folder.files.iter().map(|index| (*index, above.to_owned())));
    for (name, inner) in &folder.folders {
        at_level(seen, inner, &format!("{path}{name}/"), (name, level - 1), found);
    }
}

fn decide(
    seen: &[Seen<'_>],
    folder: &Folder<'_>,
    path: &str,
    base_name: &str,
    found: &mut Vec<Found>,
) {
    let why = if !folder.files.is_empty() {
        Some("objects lie in its folder".to_owned())
    } else if let Some(why) = parts_by_name(folder) {
        Some(why)
    } else {
        let similar = similar_folders(seen, folder);
        (similar.len() * 2 > folder.folders.len())
            .then(|| "most of its folders hold similar objects".to_owned())
    };
    let Some(why) = why else {
        for (name, inner) in &folder.folders {
            decide(seen, inner, &format!("{path}{name}/"), name, found);
        }
        return;
    };
    let apart = apart(seen, folder);
    let mut members = folder.files.clone();
    let mut excluded = Vec::new();
    for (name, inner) in &folder.folders {
        if apart.contains(name) {
            excluded.push(format!("{}/**", literal(name)));
            decide(seen, inner, &format!("{path}{name}/"), name, found);
        } else {
            members.extend(inner.all());
        }
    }
    members.sort_unstable();
    found.push(table(seen, path, base_name, members, excluded, why));
}

/// Why the folders are parts of one thing by their names alone.
fn parts_by_name(folder: &Folder<'_>) -> Option<String> {
    if let Some(key) = one_key(folder.folders.keys().copied()) {
        return Some(format!("its folders are called {key:?}=..."));
    }
    let numbered = |name: &&str| name.starts_with(|c: char| c.is_ascii_digit());
    let all = folder.folders.keys().all(numbered);
    all.then(|| "the names of its folders begin with digits".to_owned())
}

/// Folders whose objects are not similar to the table's other objects, unless their names say
/// that they are parts of it.
fn apart<'a>(seen: &[Seen<'_>], folder: &Folder<'a>) -> BTreeSet<&'a str> {
    if !folder.files.is_empty() || parts_by_name(folder).is_some() {
        return BTreeSet::new();
    }
    let similar = similar_folders(seen, folder);
    folder.folders.keys().copied().filter(|name| !similar.contains(name)).collect()
}

/// The largest group of folders that are similar to one of them.
fn similar_folders<'a>(seen: &[Seen<'_>], folder: &Folder<'a>) -> BTreeSet<&'a str> {
    let summaries: Vec<(&str, Summary<'_>)> = folder
        .folders
        .iter()
        .map(|(name, inner)| (*name, Summary::of(seen, &inner.all())))
        .collect();
    // Of many folders few differ, so that comparing each kind with all folders is cheap.
    let mut kinds: Vec<&Summary<'_>> = Vec::new();
    for (_, summary) in &summaries {
        if !kinds.contains(&summary) {
            kinds.push(summary);
        }
    }
    let mut largest = BTreeSet::new();
    for kind in kinds {
        let similar = |(_, summary): &&(&'a str, Summary<'_>)| summary.is_similar_to(kind);
        let group: BTreeSet<&str> =
            summaries.iter().filter(similar).map(|(name, _)| *name).collect();
        if group.len() > largest.len() {
            largest = group;
        }
    }
    largest
}

/// What a folder holds.
#[derive(PartialEq)]
struct Summary<'a> {
    kind: Kind<'a>,
    names: BTreeSet<&'a str>,
}

impl<'a> Summary<'a> {
    fn of(seen: &[Seen<'a>], objects: &[usize]) -> Self {
        let kind = main_kind(seen, objects);
        let of_kind = || objects.iter().filter(|index| kind_of(&seen[**index]) == kind);
        let names = of_kind().flat_map(|index| seen[*index].shape.names()).collect();
        Summary { kind, names }
    }

    fn is_similar_to(&self, other: &Summary<'_>) -> bool {
        let common = self.names.iter().filter(|name| other.names.contains(*name)).count();
        let larger = self.names.len().max(other.names.len());
        self.kind == other.kind && common * 10 >= larger * SIMILAR_TENTHS
    }
}

/// What a reader must be told to read an object.
type Kind<'a> = (Format, Option<&'a Dialect>, Option<&'a str>);

fn kind_of<'a>(object: &Seen<'a>) -> Kind<'a> {
    (object.format, object.csv, object.path)
}

/// The kind of most of the objects; of equals JSON, then CSV, then the first by key.
fn main_kind<'a>(seen: &[Seen<'a>], objects: &[usize]) -> Kind<'a> {
    let mut counts: Vec<(Kind<'a>, usize)> = Vec::new();
    for index in objects {
        let kind = kind_of(&seen[*index]);
        match counts.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((kind, 1)),
        }
    }
    let rank = |format: Format| match format {
        Format::Json => 2,
        Format::Csv => 1,
        Format::Parquet => 0,
    };
    let best = counts
        .iter()
        .enumerate()
        .max_by_key(|(at, ((format, _, _), count))| (*count, rank(*format), usize::MAX - at));
    best.map_or((Format::Json, None, None), |(_, (kind, _))| *kind)
}

fn table(
    seen: &[Seen<'_>],
    root: &str,
    base_name: &str,
    objects: Vec<usize>,
    excluded: Vec<String>,
    why: String,
) -> Found {
    let kind = main_kind(seen, &objects);
    let (format, csv, path) = kind;
    let (members, others): (Vec<usize>, Vec<usize>) =
        objects.into_iter().partition(|index| kind_of(&seen[*index]) == kind);
    let odd = others
        .into_iter()
        .map(|index| {
            let (its, most) = (seen[index].format.as_str(), format.as_str());
            let why = match its == most {
                false => format!("it is {its} in a folder of {most}"),
                true if format == Format::Json => {
                    "its records do not lie where those of the others in its folder do".into()
                }
                true => "its delimiter or header is not that of the others in its folder".into(),
            };
            (index, why)
        })
        .collect();
    let columns = columns(seen, &members);
    let partition_keys = partition_keys(seen, root, &members, &columns);
    Found {
        root: root.to_owned(),
        base_name: base_name.to_owned(),
        format,
        csv: csv.cloned(),
        path: path.map(str::to_owned),
        columns,
        partition_keys,
        members,
        odd,
        excluded,
        why,
    }
}

/// The columns that hold what all objects hold, in the order of first appearance by key.
fn columns(seen: &[Seen<'_>], members: &[usize]) -> Vec<Column> {
    let mut merged = Schema::empty();
    let mut known = HashSet::new();
    for index in members {
        let shape = seen[*index].shape;
        // Devices emit few shapes; each needs to be merged once.
        if known.insert(shape)
            && let Ok(schema) = shape.schema()
        {
            merged = formats::json::merge(&merged, &schema);
        }
    }
    let hive = |field: &arrow::datatypes::Field| {
        // Whatever was merged from named types has a name; text holds anything.
        formats::hive::from_arrow(field.data_type()).unwrap_or_else(|_nameless| "string".into())
    };
    merged.fields().iter().map(|field| Column::new(field.name(), hive(field))).collect()
}

/// A key for each level of folders beneath the root: the key that all folders of a level name,
/// or `partition_0` and so on. A name that a column has already is not used again.
fn partition_keys(
    seen: &[Seen<'_>],
    root: &str,
    members: &[usize],
    columns: &[Column],
) -> Vec<Column> {
    let mut levels: Vec<BTreeSet<&str>> = Vec::new();
    for index in members {
        let mut folders: Vec<&str> = seen[*index].below[root.len()..].split('/').collect();
        folders.pop();
        for (level, folder) in folders.into_iter().enumerate() {
            if levels.len() == level {
                levels.push(BTreeSet::new());
            }
            levels[level].insert(folder);
        }
    }
    let mut taken: BTreeSet<String> = columns.iter().map(|column| column.name.clone()).collect();
    let mut keys = Vec::with_capacity(levels.len());
    for (level, folders) in levels.iter().enumerate() {
        let named = one_key(folders.iter().copied()).filter(|key| !taken.contains(key));
        let mut name = named.unwrap_or_else(|| format!("partition_{level}"));
        while !taken.insert(name.clone()) {
            name.push('_');
        }
        keys.push(Column::new(name, "string"));
    }
    keys
}

/// The key that all folders name, if they are all called `key=value` with the same key.
fn one_key<'a>(folders: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut keys = folders.into_iter().map(|folder| folder.split_once('=').map(|(key, _)| key));
    let first = keys.next().flatten().filter(|key| !key.is_empty())?;
    keys.all(|key| key == Some(first)).then(|| unescape(first))
}

/// A folder's name as a glob that matches only itself.
fn literal(name: &str) -> String {
    let mut glob = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | '\\' | '{' | '}') {
            glob.push('\\');
        }
        glob.push(c);
    }
    glob
}

/// The name a crawler gives: lower case, and `_` for what is neither letter nor digit.
pub(super) fn table_name(prefix: &str, base_name: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '_',
    };
    let mut name: String = prefix.chars().chain(base_name.chars()).map(plain).collect();
    name.truncate(TABLE_NAME_BYTES_MAX);
    name
}

#[cfg(test)]
mod tests;
