//! Listing a bucket page by page in the order of keys, without reading more than it needs.

use std::collections::HashSet;
use std::fs::DirEntry;
use std::iter::Peekable;
use std::path::{Path, PathBuf};

use base::{Error, Result};

use crate::drafts::{Found, meta_of, odd_key};
use crate::{Buckets, ObjectMeta, durable, names};

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Keys that start with this.
    pub prefix: String,
    /// Keys with this after the prefix are one entry, up to and including it.
    pub delimiter: Option<String>,
    /// Only entries after this one.
    pub after: String,
    /// At most so many.
    pub max: usize,
    /// The [`Page::generation`] of the page before.
    pub as_of: Option<u64>,
}

impl Listing {
    /// The common prefix that the page before ended with, so that its folder is passed over.
    fn rolled(&self) -> Option<String> {
        let delimiter = self.delimiter.as_deref().filter(|d| !d.is_empty())?;
        let rest = self.after.strip_prefix(self.prefix.as_str())?;
        (rest.find(delimiter)? + delimiter.len() == rest.len()).then(|| self.after.clone())
    }
}

/// One entry of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An object.
    Object(Found),
    /// All keys that start with this.
    Prefix(String),
}

impl Entry {
    /// What the next page comes after.
    pub fn name(&self) -> &str {
        match self {
            Entry::Object(found) => &found.meta.key,
            Entry::Prefix(prefix) => prefix,
        }
    }
}

/// A part of a listing.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The entries by name.
    pub entries: Vec<Entry>,
    /// Whether there are more after the last.
    pub more: bool,
    /// The generation that it shows: a later page of the same listing is to show the same.
    pub generation: u64,
}

impl Buckets {
    /// A page of a bucket's objects. Blocks on files.
    pub fn page(&self, bucket: &str, listing: &Listing) -> Result<Page> {
        let mut odd = self.odd_keys(bucket)?;
        odd.sort();
        let page = self.walk(bucket, listing, odd.into_iter(), false)?;
        if let Some(last) = page.entries.last().filter(|_| page.more) {
            self.generations.ended(bucket, &listing.prefix, last.name(), page.generation);
        }
        Ok(page)
    }

    /// All objects below `prefix` whose keys are paths, without what fronts keep with them.
    pub(crate) fn plain_objects(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectMeta>> {
        let listing = Listing { prefix: prefix.into(), max: usize::MAX, ..Listing::default() };
        let page = self.walk(bucket, &listing, std::iter::empty(), true)?;
        let object = |entry| match entry {
            Entry::Object(found) => Some(found.meta),
            Entry::Prefix(_) => None,
        };
        Ok(page.entries.into_iter().filter_map(object).collect())
    }

    fn walk(
        &self,
        bucket: &str,
        listing: &Listing,
        odd: impl Iterator<Item = (String, PathBuf)>,
        plain: bool,
    ) -> Result<Page> {
        let folder = self.bucket_folder(bucket)?;
        let generation = self.generations.of(bucket, listing);
        let mut walk = Walk {
            buckets: self,
            bucket,
            listing,
            page: Page { generation, ..Page::default() },
            odd: odd.peekable(),
            rolled: listing.rolled(),
            plain,
        };
        if listing.max > 0 {
            let full = walk.folder(&folder, "")? || walk.odd_before(None)?;
            walk.page.more = full;
        }
        Ok(walk.page)
    }

    fn odd_keys(&self, bucket: &str) -> Result<Vec<(String, PathBuf)>> {
        let mut keys = Vec::new();
        for entry in entries(&self.odd_folder(bucket))? {
            if let Some(key) = entry.file_name().to_str().and_then(odd_key) {
                keys.push((key, entry.path()));
            }
        }
        Ok(keys)
    }

    /// Whether any object lies in the bucket.
    pub(crate) fn has_objects(&self, bucket: &str) -> Result<Option<String>> {
        let page = self.page(bucket, &Listing { max: 1, ..Listing::default() })?;
        Ok(page.entries.first().map(|entry| entry.name().to_owned()))
    }
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>> {
    let read = match std::fs::read_dir(folder) {
        Ok(read) => read,
        Err(cause) if durable::is_absent(&cause) => return Ok(Vec::new()),
        Err(cause) => return Err(Error::io("list a bucket", cause)),
    };
    read.collect::<std::io::Result<_>>().map_err(|e| Error::io("list a bucket", e))
}

struct Walk<'a, O: Iterator<Item = (String, PathBuf)>> {
    buckets: &'a Buckets,
    bucket: &'a str,
    listing: &'a Listing,
    page: Page,
    odd: Peekable<O>,
    /// The prefix all following keys of which are in the page already.
    rolled: Option<String>,
    /// Whether nobody asks for what fronts keep with an object. Links are followed then.
    plain: bool,
}

impl<O: Iterator<Item = (String, PathBuf)>> Walk<'_, O> {
    /// Goes through a folder whose keys start with `above`; `true` if the page is full and
    /// something is left over.
    fn folder(&mut self, folder: &Path, above: &str) -> Result<bool> {
        let (mut found, mut files) = (Vec::new(), HashSet::new());
        for entry in entries(folder)? {
            let Ok(mut kind) = entry.file_type() else { continue };
            let Ok(name) = entry.file_name().into_string() else { continue };
            if kind.is_symlink() && self.plain {
                let Ok(meta) = std::fs::metadata(entry.path()) else { continue };
                kind = meta.file_type();
            }
            if kind.is_dir() {
                found.push((format!("{above}{name}/"), true));
            } else if kind.is_file() && !names::is_reserved(&name) {
                files.insert(format!("{above}{name}"));
            }
        }
        self.buckets.generations.undo(self.bucket, above, self.page.generation, &mut files);
        found.extend(files.into_iter().map(|key| (key, false)));
        found.retain(|(key, is_folder)| self.may_hold(key, *is_folder));
        // With its slash a folder stands where its keys do.
        found.sort();
        for (key, is_folder) in found {
            if self.rolled.as_ref().is_some_and(|rolled| key.starts_with(rolled.as_str())) {
                continue;
            }
            let Some(name) = key.get(above.len()..) else { continue };
            let path = folder.join(name.trim_end_matches('/'));
            let full = match is_folder {
                true => self.folder(&path, &key)?,
                false => {
                    let full = self.odd_before(Some(&key))?;
                    // An engine wrote the key, too: what lies in the bucket's folder counts.
                    self.odd.next_if(|(odd, _)| *odd == key);
                    full || self.take(&key, &path)?
                }
            };
            if full {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn may_hold(&self, key: &str, is_folder: bool) -> bool {
        let Listing { prefix, after, .. } = self.listing;
        match is_folder {
            true => {
                (key.starts_with(prefix.as_str()) || prefix.starts_with(key))
                    && (key > after.as_str() || after.starts_with(key))
            }
            false => key.starts_with(prefix.as_str()) && key > after.as_str(),
        }
    }

    /// Takes the odd keys that come before `key`.
    fn odd_before(&mut self, key: Option<&str>) -> Result<bool> {
        while let Some((next, path)) =
            self.odd.next_if(|(next, _)| key.is_none_or(|key| next.as_str() < key))
        {
            if self.may_hold(&next, false) && self.take(&next, &path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn take(&mut self, key: &str, path: &Path) -> Result<bool> {
        let Listing { prefix, delimiter, after, max, .. } = self.listing;
        let full = self.page.entries.len() >= *max;
        let rest = key.get(prefix.len()..).unwrap_or_default();
        let end = delimiter.as_deref().filter(|d| !d.is_empty()).and_then(|delimiter| {
            rest.find(delimiter).map(|at| prefix.len() + at + delimiter.len())
        });
        if let Some(rolled) = end.and_then(|end| key.get(..end)) {
            if rolled == after || self.rolled.as_deref() == Some(rolled) {
                return Ok(false);
            }
            if !full {
                self.rolled = Some(rolled.to_owned());
                self.page.entries.push(Entry::Prefix(rolled.to_owned()));
            }
            return Ok(full);
        }
        // Retired since the listing began: it is shown as it was, and read by its key.
        let retired;
        let mut path = path;
        let seen = |path: &Path| match self.plain {
            true => std::fs::metadata(path),
            false => std::fs::symlink_metadata(path),
        };
        let mut meta = seen(path);
        if meta.is_err()
            && let Some(found) = self.buckets.retired_path(self.bucket, key)
        {
            retired = found;
            path = &retired;
            meta = seen(path);
        }
        // Removed while we listed: it is no longer there.
        let Ok(meta) = meta else { return Ok(false) };
        if !full {
            let attributes = match self.plain {
                true => None,
                false => self.buckets.attributes().read_path(path, &meta),
            };
            let meta = meta_of(key.to_owned(), &meta);
            self.page.entries.push(Entry::Object(Found { meta, attributes }));
        }
        Ok(full)
    }
}
