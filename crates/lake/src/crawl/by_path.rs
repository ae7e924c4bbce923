//! Objects below a path as a table that no catalog has: what a job reads by path.
//!
//! What the objects hold is found out as a crawl finds it out, and remembered for as long as they
//! stay as they are. It is remembered apart from what crawlers know: a job may be told to read an
//! object otherwise than the table does that it belongs to, and queries must not notice.

use std::collections::{BTreeSet, HashMap};

use base::{Error, Result};
use futures::{StreamExt, TryStreamExt};
use metastore::Row;
use objects::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::classifier::{self, ClassifierKind};
use super::layout::{self, Grouping, Seen};
use super::look::{self, Look};
use super::{LOOKS_AT_ONCE, LOOKS_PER_TRANSACTION};
use crate::glob::Globs;
use crate::job::ObjectsAt;
use crate::lake::{blocking, is_hidden, partition_values};
use crate::{Format, Lake, RECORDS_PATH, Table, TableFile};

/// What was found out about an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct LookedAt {
    etag: String,
    /// [`classifier::fingerprint`] of what it was looked at with.
    with: String,
    look: Look,
}

impl Row for LookedAt {
    const TABLE: &'static str = "objects_by_path";
}

impl Lake {
    /// The objects at a place, and the table that they are. Without objects it has no columns.
    ///
    /// # Errors
    /// [`base::ErrorKind::Invalid`] if there are objects, and none holds what is asked for.
    pub(crate) async fn at_path(&self, at: &ObjectsAt) -> Result<(Table, Vec<TableFile>)> {
        self.buckets().expect_here(&at.bucket)?;
        let (prefix, objects) = self.objects_at(at).await?;
        let mut table = Table::new(("", at.address()), (at.bucket.as_str(), prefix), at.format);
        if objects.is_empty() {
            return Ok((table, Vec::new()));
        }
        let looks = self.look_at_objects(at, &table.prefix, &objects).await?;
        let mut seen = Vec::new();
        for object in &objects {
            // What is something else stays among the files: the scan sets it aside and says so.
            if let Some(Look::Understood { format, csv, path, shape, records, .. }) =
                looks.get(&object.key)
                && *format == at.format
            {
                seen.push(Seen {
                    below: below(&table, &object.key),
                    format: *format,
                    csv: csv.as_ref(),
                    path: path.as_deref(),
                    shape,
                    records: *records,
                    bytes: object.bytes,
                });
            }
        }
        let Some(found) = layout::layout(&seen, "", Grouping::Combine).tables.into_iter().next()
        else {
            let (count, format) = (objects.len(), at.format.as_str());
            let why = looks.values().find_map(|look| match look {
                Look::NotUnderstood { why } | Look::Altered { why } => Some(why.as_str()),
                Look::Understood { .. } => None,
            });
            let why = why.unwrap_or("they hold something else");
            return Err(Error::invalid(format!(
                "none of the {count} objects at {} is {format}: {why}",
                at.address()
            )));
        };
        table.csv = found.csv;
        table.columns = found.columns;
        // Folders that do not say what they are called give no columns.
        let unnamed = |name: &str| name.starts_with("partition_");
        table.partition_keys =
            found.partition_keys.into_iter().take_while(|key| !unnamed(&key.name)).collect();
        if let Some(path) = found.path {
            table.parameters.insert(RECORDS_PATH.to_owned(), path);
        }
        let files = objects.into_iter().map(|object| {
            Ok(TableFile {
                path: self.buckets().readable_path(&at.bucket, &object.key)?,
                bucket: at.bucket.clone(),
                partition_values: partition_values(&table, below(&table, &object.key)),
                key: object.key,
                bytes: object.bytes,
                etag: object.etag,
            })
        });
        let files = files.collect::<Result<_>>()?;
        Ok((table, files))
    }

    /// The objects of a place, by key, and what their keys begin with.
    async fn objects_at(&self, at: &ObjectsAt) -> Result<(String, Vec<ObjectMeta>)> {
        let exclusions = Globs::parse(&at.exclusions)?;
        let folder = at.folder();
        let listing = self.arrivals().listing();
        let mut coming = self.unfinished_keys(&at.bucket, &at.prefix)?;
        let mut listed = self.buckets().list(&at.bucket, &folder).await?;
        let arrived = listing.arrived().into_iter().filter(|(bucket, _)| *bucket == at.bucket);
        coming.extend(arrived.map(|(_, key)| key));
        drop(listing);
        let mut prefix = folder;
        if listed.is_empty()
            && !at.prefix.ends_with('/')
            && let Ok(object) = self.buckets().head(&at.bucket, &at.prefix).await
        {
            // The path is that of an object.
            prefix.clone_from(&at.prefix);
            listed.push(object);
        }
        listed.retain(|object| {
            let below = object.key.strip_prefix(prefix.as_str()).unwrap_or_default();
            object.bytes > 0
                && !coming.contains(&object.key)
                && !is_hidden(below)
                && !exclusions.matches(below)
                && (at.recurse || !below.contains('/'))
        });
        Ok((prefix, listed))
    }

    /// What each object holds, by key.
    async fn look_at_objects(
        &self,
        at: &ObjectsAt,
        prefix: &str,
        objects: &[ObjectMeta],
    ) -> Result<HashMap<String, Look>> {
        let told = at.classifiers();
        let with = classifier::fingerprint(&told)?;
        let row = |key: &str| format!("{}/{key}", at.bucket);
        let known = self.store().list_prefix::<LookedAt>(&row(prefix))?;
        // A bucket's name has no slash, so what follows the first one is the key.
        let known = known
            .into_iter()
            .map(|(row, found)| (row[at.bucket.len() + 1..].to_owned(), found.row));
        let mut known: HashMap<String, LookedAt> = known.collect();
        let there: BTreeSet<&str> = objects.iter().map(|object| object.key.as_str()).collect();
        let mut gone: Vec<String> =
            known.keys().filter(|key| !there.contains(key.as_str())).cloned().collect();
        gone.sort();
        if !gone.is_empty() {
            self.store().transact(|transaction| {
                for key in &gone {
                    transaction.delete::<LookedAt>(&row(key))?;
                }
                Ok(())
            })?;
        }
        known.retain(|key, _| there.contains(key.as_str()));
        let is_known = |object: &ObjectMeta| {
            known.get(&object.key).is_some_and(|found| {
                // What was altered may have been put right since.
                found.etag == object.etag
                    && found.with == with
                    && !matches!(found.look, Look::Altered { .. })
            })
        };
        let unknown: Vec<ObjectMeta> =
            objects.iter().filter(|object| !is_known(object)).cloned().collect();
        let (buckets, bucket) = (self.buckets(), &at.bucket);
        let looks = futures::stream::iter(unknown)
            .map(|object| {
                let (buckets, bucket) = (buckets.clone(), bucket.clone());
                let (told, with) = (told.clone(), with.clone());
                blocking(move || {
                    let look = look::look(&buckets, &bucket, &object.key, &told);
                    Ok((object.key, LookedAt { etag: object.etag, with, look }))
                })
            })
            .buffered(LOOKS_AT_ONCE);
        let mut batches = looks.try_chunks(LOOKS_PER_TRANSACTION);
        while let Some(batch) = batches.try_next().await.map_err(|failed| failed.1)? {
            self.store().transact(|transaction| {
                batch
                    .iter()
                    .try_for_each(|(key, found)| transaction.put(&row(key), found).map(drop))
            })?;
            known.extend(batch);
        }
        Ok(known.into_iter().map(|(key, found)| (key, found.look)).collect())
    }
}

fn below<'a>(table: &Table, key: &'a str) -> &'a str {
    key.strip_prefix(table.prefix.as_str()).unwrap_or_default()
}

impl ObjectsAt {
    /// What a crawler would be told to see the objects so.
    fn classifiers(&self) -> Vec<ClassifierKind> {
        match (self.format, &self.records) {
            (Format::Json, Some(path)) => vec![ClassifierKind::Json { path: path.clone() }],
            (Format::Csv, _) => vec![ClassifierKind::Csv {
                delimiter: self.delimiter.and_then(|c| u8::try_from(c).ok()),
                quote: match self.quote.as_deref() {
                    None => Some(b'"'),
                    Some(quote) => quote.bytes().next(),
                },
                header: self.header,
                names: Vec::new(),
                single_column: true,
            }],
            _ => Vec::new(),
        }
    }
}
