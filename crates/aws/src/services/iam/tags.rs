//! Tags of roles and policies.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::limit_exceeded;
use crate::fault::Fault;

const TAGS_MAX: usize = 50;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Tag {
    pub(super) key: String,
    pub(super) value: String,
}

impl Tag {
    pub(super) fn json(&self) -> Value {
        json!({"Key": self.key, "Value": self.value})
    }
}

/// Adds tags to those there are; one with the same key takes the new value.
pub(super) fn merge(tags: &mut Vec<Tag>, given: Vec<Tag>) -> Result<(), Fault> {
    let invalid = |message: String| Fault::named("InvalidInput", 400, message);
    for (position, tag) in given.iter().enumerate() {
        let Tag { key, value } = tag;
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
            return Err(invalid(format!(
                "Tag {key:?} is invalid: a key has 1 to 128 characters, a value 256 at most"
            )));
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(invalid(format!("Tag {key:?} is invalid: aws: is reserved")));
        }
        if given[..position].iter().any(|earlier| earlier.key.eq_ignore_ascii_case(key)) {
            return Err(invalid(
                "Duplicate tag keys found. Please note that Tag keys are case insensitive.".into(),
            ));
        }
    }
    for tag in given {
        match tags.iter_mut().find(|known| known.key.eq_ignore_ascii_case(&tag.key)) {
            Some(known) => *known = tag,
            None => tags.push(tag),
        }
    }
    if tags.len() > TAGS_MAX {
        return Err(limit_exceeded(format!("Cannot exceed quota for TagsPerEntity: {TAGS_MAX}")));
    }
    tags.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(())
}

/// Removes tags; a key that is not there is no error.
pub(super) fn remove(tags: &mut Vec<Tag>, keys: &[String]) {
    tags.retain(|tag| !keys.iter().any(|key| key.eq_ignore_ascii_case(&tag.key)));
}
