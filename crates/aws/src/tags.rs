//! Tags: labels that a client puts on what it made, kept and given back. Nothing acts on them.

use std::collections::BTreeMap;

use metastore::Row;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::rooms::Rooms;

/// Most tags of one resource.
const TAGS_MAX: usize = 50;
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

/// Values by key.
pub(crate) type Tags = BTreeMap<String, String>;

#[derive(Default, Serialize, Deserialize)]
struct Kept(Tags);

impl Row for Kept {
    const TABLE: &'static str = "aws-tags";
}

/// Gives a resource tags beside those it has, and says which it has then.
pub(crate) fn add(
    rooms: &Rooms,
    resource: &str,
    tags: impl IntoIterator<Item = (String, String)>,
) -> Result<Tags, Fault> {
    let mut tags = tags.into_iter().peekable();
    if tags.peek().is_none() {
        return of(rooms, resource);
    }
    let kept = rooms.metastore.transact(|rows| {
        let mut all = rows.get::<Kept>(resource)?.map(|seen| seen.row).unwrap_or_default();
        for (key, value) in tags {
            let chars = (key.chars().count(), value.chars().count());
            let good = (1..=KEY_CHARS_MAX).contains(&chars.0)
                && chars.1 <= VALUE_CHARS_MAX
                && !key.starts_with("aws:");
            if !good {
                return Err(base::Error::invalid(format!(
                    "tag {key:?}: a key has 1 to {KEY_CHARS_MAX} characters and does not begin \
                     with aws:, a value has up to {VALUE_CHARS_MAX}"
                )));
            }
            all.0.insert(key, value);
        }
        if all.0.len() > TAGS_MAX {
            let message = format!("{} tags; a resource has at most {TAGS_MAX}", all.0.len());
            return Err(base::Error::invalid(message));
        }
        rows.put(resource, &all)?;
        Ok(all.0)
    })?;
    Ok(kept)
}

/// The tags of a resource.
pub(crate) fn of(rooms: &Rooms, resource: &str) -> Result<Tags, Fault> {
    let kept = rooms.metastore.get::<Kept>(resource)?;
    Ok(kept.map(|seen| seen.row).unwrap_or_default().0)
}

/// Takes tags from a resource; a key that it does not have is no error.
pub(crate) fn remove(rooms: &Rooms, resource: &str, keys: &[String]) -> Result<(), Fault> {
    rooms.metastore.transact(|rows| {
        let Some(seen) = rows.get::<Kept>(resource)? else { return Ok(()) };
        let mut all = seen.row;
        all.0.retain(|key, _| !keys.contains(key));
        rows.put(resource, &all).map(drop)
    })?;
    Ok(())
}

/// Forgets the tags of a resource that is deleted.
pub(crate) fn forget(rooms: &Rooms, resource: &str) -> Result<(), Fault> {
    rooms.metastore.delete::<Kept>(resource)?;
    Ok(())
}
