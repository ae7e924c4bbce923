//! Things: what a device is called, its attributes, its type and its groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::{Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::Registry;
use crate::authority::{hex, random};

/// Longest thing name, AWS's bound.
const THING_NAME_BYTES_MAX: usize = 128;

/// Most attributes of a thing without and with a type, AWS's bounds.
const ATTRIBUTES_MAX: usize = 3;
const TYPED_ATTRIBUTES_MAX: usize = 50;

/// Longest name and value of an attribute, AWS's bounds.
const ATTRIBUTE_NAME_BYTES_MAX: usize = 128;
const ATTRIBUTE_VALUE_BYTES_MAX: usize = 800;

/// Most attributes a type lists as searchable, AWS's bound.
const SEARCHABLE_MAX: usize = 3;

/// Most groups of one thing, AWS's bound.
const GROUPS_MAX: usize = 10;

/// A device, known by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thing {
    /// Its name; also the key of the row.
    pub name: String,
    /// When it was added.
    pub created_at: Timestamp,
    /// A UUID that no other thing of this name, before or after, has.
    #[serde(default)]
    pub id: String,
    /// What is known about it.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Its type's name.
    #[serde(default)]
    pub thing_type: Option<String>,
    /// The groups it is in.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Grows by one with every update.
    #[serde(default = "first_version")]
    pub version: u64,
}

impl Row for Thing {
    const TABLE: &'static str = "things";
}

fn first_version() -> u64 {
    1
}

/// What things have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThingType {
    /// Its name; also the key of the row.
    pub name: String,
    /// A UUID.
    pub id: String,
    /// For people.
    pub description: Option<String>,
    /// Names of attributes that one may search by.
    pub searchable: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when no new thing may have it.
    pub deprecated_at: Option<Timestamp>,
}

impl Row for ThingType {
    const TABLE: &'static str = "thing-types";
}

/// Things that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThingGroup {
    /// Its name; also the key of the row.
    pub name: String,
    /// A UUID.
    pub id: String,
    /// For people.
    pub description: Option<String>,
    /// What is known about it.
    pub attributes: BTreeMap<String, String>,
    /// The group it is part of.
    pub parent: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Grows by one with every update.
    pub version: u64,
}

impl Row for ThingGroup {
    const TABLE: &'static str = "thing-groups";
}

/// Attributes to set; an empty value removes one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewAttributes {
    /// Their values by name.
    pub values: BTreeMap<String, String>,
    /// Whether the attributes not named stay.
    pub merge: bool,
}

/// What to change about a thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThingUpdate {
    /// Attributes to set, if any.
    pub attributes: Option<NewAttributes>,
    /// A type to give it.
    pub thing_type: Option<String>,
    /// Whether to take its type away.
    pub remove_thing_type: bool,
    /// The version that the thing must have.
    pub expected_version: Option<u64>,
}

impl Thing {
    pub(crate) fn new(name: &str, now: Timestamp) -> Result<Thing> {
        Ok(Thing {
            name: name.to_owned(),
            created_at: now,
            id: uuid()?,
            attributes: BTreeMap::new(),
            thing_type: None,
            groups: BTreeSet::new(),
            version: 1,
        })
    }

    /// Itself, with an id if it had none.
    pub(crate) fn with_id(mut self) -> Result<Thing> {
        if self.id.is_empty() {
            self.id = uuid()?;
        }
        Ok(self)
    }

    fn expect_version(&self, expected: Option<u64>) -> Result<()> {
        match expected {
            Some(expected) if expected != self.version => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "thing {:?} has version {}, not {expected}; read it again",
                    self.name, self.version
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl Registry {
    /// Makes a thing. One that is there with the very same attributes and type is given back;
    /// otherwise [`ErrorKind::AlreadyExists`].
    pub fn create_thing(
        &self,
        name: &str,
        attributes: BTreeMap<String, String>,
        thing_type: Option<&str>,
    ) -> Result<Arc<Thing>> {
        check_thing_name(name)?;
        check_attributes(&attributes, thing_type.is_some())?;
        let _turn = self.turn();
        let mut thing = Thing::new(name, self.clock.now())?;
        thing.attributes = attributes;
        thing.thing_type = thing_type.map(str::to_owned);
        let stored = self.store.transact(|transaction| {
            if let Some(found) = transaction.get::<Thing>(name)? {
                let same =
                    found.attributes == thing.attributes && found.thing_type == thing.thing_type;
                if same {
                    return Ok(found.row);
                }
                return Err(exists("thing", name, "with other attributes or another type"));
            }
            usable_type(transaction, thing_type)?;
            transaction.put(name, &thing)?;
            Ok(thing)
        })?;
        let stored = Arc::new(stored);
        self.believe_thing(&stored);
        Ok(stored)
    }

    /// One thing, from memory.
    pub fn thing(&self, name: &str) -> Result<Arc<Thing>> {
        let things = self.things.read().unwrap_or_else(PoisonError::into_inner);
        things.get(name).cloned().ok_or_else(|| absent("thing", name))
    }

    /// All things by name, from memory.
    pub fn things(&self) -> Vec<Arc<Thing>> {
        let things = self.things.read().unwrap_or_else(PoisonError::into_inner);
        things.values().cloned().collect()
    }

    /// Changes a thing.
    pub fn update_thing(&self, name: &str, update: &ThingUpdate) -> Result<Arc<Thing>> {
        if update.remove_thing_type && update.thing_type.is_some() {
            return Err(Error::invalid(format!(
                "thing {name:?} cannot be given a type and have it removed at once"
            )));
        }
        let _turn = self.turn();
        let stored = self.store.transact(|transaction| {
            let found = transaction.get::<Thing>(name)?.ok_or_else(|| absent("thing", name))?;
            let mut thing = found.row;
            thing.expect_version(update.expected_version)?;
            if let Some(wanted) = &update.thing_type {
                usable_type(transaction, Some(wanted))?;
                thing.thing_type = Some(wanted.clone());
            }
            if update.remove_thing_type {
                thing.thing_type = None;
            }
            if let Some(new) = &update.attributes {
                apply(&mut thing.attributes, new);
            }
            check_attributes(&thing.attributes, thing.thing_type.is_some())?;
            thing.version += 1;
            transaction.replace(name, found.version, &thing)?;
            Ok(thing)
        })?;
        let stored = Arc::new(stored);
        self.believe_thing(&stored);
        self.policies().tell(self.certificates_of(name));
        Ok(stored)
    }

    /// Removes a thing; nothing happens if there is none. [`ErrorKind::Invalid`] while a
    /// certificate is attached.
    pub fn delete_thing(&self, name: &str, expected_version: Option<u64>) -> Result<()> {
        let _turn = self.turn();
        let attached = self.certificates_of(name);
        self.store.transact(|transaction| {
            let Some(found) = transaction.get::<Thing>(name)? else { return Ok(()) };
            found.expect_version(expected_version)?;
            if let Some(first) = attached.first() {
                return Err(Error::invalid(format!(
                    "thing {name:?} has {} principals attached, certificate {first} among them; \
                     detach them first",
                    attached.len()
                )));
            }
            transaction.delete::<Thing>(name)?;
            Ok(())
        })?;
        self.things.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(())
    }

    pub(crate) fn believe_thing(&self, thing: &Arc<Thing>) {
        let mut things = self.things.write().unwrap_or_else(PoisonError::into_inner);
        things.insert(thing.name.clone(), Arc::clone(thing));
    }

    // ---- types ----

    /// Makes a type. One that is there with the very same properties is given back.
    pub fn create_thing_type(
        &self,
        name: &str,
        description: Option<String>,
        searchable: Vec<String>,
    ) -> Result<ThingType> {
        check_name("thing type", name)?;
        check_searchable(&searchable)?;
        let made = ThingType {
            name: name.to_owned(),
            id: uuid()?,
            description,
            searchable,
            created_at: self.clock.now(),
            deprecated_at: None,
        };
        self.store.transact(|transaction| match transaction.get::<ThingType>(name)? {
            Some(found)
                if found.description == made.description && found.searchable == made.searchable =>
            {
                Ok(found.row)
            }
            Some(_) => Err(exists("thing type", name, "with other properties")),
            None => transaction.put(name, &made).map(|_version| made),
        })
    }

    /// One type.
    pub fn thing_type(&self, name: &str) -> Result<ThingType> {
        let found = self.store.get::<ThingType>(name)?;
        found.map(|found| found.row).ok_or_else(|| absent("thing type", name))
    }

    /// All types by name.
    pub fn thing_types(&self) -> Result<Vec<ThingType>> {
        let rows = self.store.list::<ThingType>()?;
        Ok(rows.into_iter().map(|(_, row)| row.row).collect())
    }

    /// Changes a type's properties.
    pub fn update_thing_type(
        &self,
        name: &str,
        description: Option<String>,
        searchable: Option<Vec<String>>,
    ) -> Result<()> {
        if let Some(searchable) = &searchable {
            check_searchable(searchable)?;
        }
        self.edit_type(name, |row| {
            if description.is_some() {
                row.description = description;
            }
            if let Some(searchable) = searchable {
                row.searchable = searchable;
            }
        })
    }

    /// Says that no new thing may have the type, or that it may again.
    pub fn deprecate_thing_type(&self, name: &str, undo: bool) -> Result<()> {
        let now = self.clock.now();
        self.edit_type(name, |row| {
            row.deprecated_at = match undo {
                true => None,
                false => row.deprecated_at.or(Some(now)),
            };
        })
    }

    fn edit_type(&self, name: &str, edit: impl FnOnce(&mut ThingType)) -> Result<()> {
        self.store.transact(|transaction| {
            let mut found =
                transaction.get::<ThingType>(name)?.ok_or_else(|| absent("thing type", name))?;
            edit(&mut found.row);
            transaction.replace(name, found.version, &found.row).map(drop)
        })
    }

    /// Removes a type that is deprecated and that no thing has. AWS wants five minutes between
    /// deprecation and removal; `wait` is how long that is here.
    pub fn delete_thing_type(&self, name: &str, wait: std::time::Duration) -> Result<()> {
        let _turn = self.turn();
        let Some(row) = self.store.get::<ThingType>(name)? else { return Ok(()) };
        let Some(deprecated_at) = row.deprecated_at else {
            return Err(Error::invalid(format!(
                "thing type {name:?} is not deprecated; deprecate it first"
            )));
        };
        let since = self.clock.now().millis().saturating_sub(deprecated_at.millis());
        if u128::from(since.max(0).unsigned_abs()) < wait.as_millis() {
            return Err(Error::invalid(format!(
                "thing type {name:?} was deprecated {} s ago; wait until {} s have passed",
                since / 1000,
                wait.as_secs()
            )));
        }
        let user = self.things().into_iter().find(|t| t.thing_type.as_deref() == Some(name));
        if let Some(user) = user {
            return Err(Error::invalid(format!(
                "thing type {name:?} is the type of thing {:?}; take it away there first",
                user.name
            )));
        }
        self.store.delete::<ThingType>(name).map(drop)
    }

    // ---- groups ----

    /// Makes a group. One that is there with the very same properties is given back.
    pub fn create_thing_group(
        &self,
        name: &str,
        description: Option<String>,
        attributes: BTreeMap<String, String>,
        parent: Option<String>,
    ) -> Result<ThingGroup> {
        check_name("thing group", name)?;
        check_attributes(&attributes, true)?;
        let made = ThingGroup {
            name: name.to_owned(),
            id: uuid()?,
            description,
            attributes,
            parent,
            created_at: self.clock.now(),
            version: 1,
        };
        self.store.transact(|transaction| {
            if let Some(found) = transaction.get::<ThingGroup>(name)? {
                let same = found.description == made.description
                    && found.attributes == made.attributes
                    && found.parent == made.parent;
                if same {
                    return Ok(found.row);
                }
                return Err(exists("thing group", name, "with other properties"));
            }
            if let Some(parent) = &made.parent
                && transaction.get::<ThingGroup>(parent)?.is_none()
            {
                return Err(absent("parent thing group", parent));
            }
            transaction.put(name, &made)?;
            Ok(made)
        })
    }

    /// One group.
    pub fn thing_group(&self, name: &str) -> Result<ThingGroup> {
        let found = self.store.get::<ThingGroup>(name)?;
        found.map(|found| found.row).ok_or_else(|| absent("thing group", name))
    }

    /// All groups by name.
    pub fn thing_groups(&self) -> Result<Vec<ThingGroup>> {
        let rows = self.store.list::<ThingGroup>()?;
        Ok(rows.into_iter().map(|(_, row)| row.row).collect())
    }

    /// Changes a group's properties; answers its new version.
    pub fn update_thing_group(
        &self,
        name: &str,
        description: Option<String>,
        attributes: Option<NewAttributes>,
        expected_version: Option<u64>,
    ) -> Result<u64> {
        self.store.transact(|transaction| {
            let mut found =
                transaction.get::<ThingGroup>(name)?.ok_or_else(|| absent("thing group", name))?;
            group_version(&found.row, expected_version)?;
            if description.is_some() {
                found.row.description = description;
            }
            if let Some(new) = &attributes {
                apply(&mut found.row.attributes, new);
            }
            check_attributes(&found.row.attributes, true)?;
            found.row.version += 1;
            transaction.replace(name, found.version, &found.row)?;
            Ok(found.row.version)
        })
    }

    /// Removes a group that is no other's parent; its things stay. Nothing happens if there is
    /// none.
    pub fn delete_thing_group(&self, name: &str, expected_version: Option<u64>) -> Result<()> {
        let _turn = self.turn();
        let changed = self.store.transact(|transaction| {
            let Some(found) = transaction.get::<ThingGroup>(name)? else { return Ok(Vec::new()) };
            group_version(&found.row, expected_version)?;
            let groups = transaction.list::<ThingGroup>()?;
            if let Some((child, _)) = groups.iter().find(|(_, g)| g.parent.as_deref() == Some(name))
            {
                return Err(Error::invalid(format!(
                    "thing group {name:?} is the parent of {child:?}; delete that first"
                )));
            }
            transaction.delete::<ThingGroup>(name)?;
            let mut changed = Vec::new();
            for (thing, found) in transaction.list::<Thing>()? {
                if found.groups.contains(name) {
                    let mut row = found.row;
                    row.groups.remove(name);
                    transaction.put(&thing, &row)?;
                    changed.push(Arc::new(row));
                }
            }
            Ok(changed)
        })?;
        changed.iter().for_each(|thing| self.believe_thing(thing));
        Ok(())
    }

    /// Puts a thing into a group, or takes it out; nothing changes if it is so already.
    pub fn set_membership(&self, thing: &str, group: &str, member: bool) -> Result<()> {
        let _turn = self.turn();
        let changed = self.store.transact(|transaction| {
            if transaction.get::<ThingGroup>(group)?.is_none() {
                return Err(absent("thing group", group));
            }
            let found = transaction.get::<Thing>(thing)?.ok_or_else(|| absent("thing", thing))?;
            let mut row = found.row;
            let changed = match member {
                true => row.groups.insert(group.to_owned()),
                false => row.groups.remove(group),
            };
            if row.groups.len() > GROUPS_MAX {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!("thing {thing:?} is in {GROUPS_MAX} groups, the most allowed"),
                ));
            }
            if changed {
                transaction.replace(thing, found.version, &row)?;
            }
            Ok(row)
        })?;
        self.believe_thing(&Arc::new(changed));
        Ok(())
    }
}

fn apply(attributes: &mut BTreeMap<String, String>, new: &NewAttributes) {
    if !new.merge {
        attributes.clear();
    }
    attributes.extend(new.values.clone());
    attributes.retain(|_, value| !value.is_empty());
}

fn usable_type(transaction: &mut Transaction<'_>, name: Option<&str>) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    let found = transaction.get::<ThingType>(name)?.ok_or_else(|| absent("thing type", name))?;
    if found.deprecated_at.is_some() {
        return Err(Error::invalid(format!(
            "thing type {name:?} is deprecated; no thing may be given it"
        )));
    }
    Ok(())
}

fn group_version(group: &ThingGroup, expected: Option<u64>) -> Result<()> {
    match expected {
        Some(expected) if expected != group.version => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "thing group {:?} has version {}, not {expected}; read it again",
                group.name, group.version
            ),
        )),
        _ => Ok(()),
    }
}

fn absent(what: &str, name: &str) -> Error {
    Error::not_found(format!("there is no {what} {name:?}"))
}

fn exists(what: &str, name: &str, how: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{what} {name:?} exists already {how}"))
}

/// A random UUID, version 4.
pub(crate) fn uuid() -> Result<String> {
    let mut bytes = random::<16>()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex(&bytes);
    Ok([&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-"))
}

/// AWS's rule, which also keeps the name fit to start a file's name.
pub(crate) fn check_thing_name(name: &str) -> Result<()> {
    if name.starts_with('-') {
        return Err(bad_name("thing", name));
    }
    check_name("thing", name)
}

fn check_name(what: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-');
    if name.is_empty() || name.len() > THING_NAME_BYTES_MAX || !name.chars().all(allowed) {
        return Err(bad_name(what, name));
    }
    Ok(())
}

fn bad_name(what: &str, name: &str) -> Error {
    Error::invalid(format!(
        "{name:?} is not a {what} name; use 1 to {THING_NAME_BYTES_MAX} letters, digits, \
         ':', '_' and '-', not beginning with '-'"
    ))
}

fn check_attributes(attributes: &BTreeMap<String, String>, typed: bool) -> Result<()> {
    let most = if typed { TYPED_ATTRIBUTES_MAX } else { ATTRIBUTES_MAX };
    if attributes.len() > most {
        return Err(Error::invalid(format!(
            "{} attributes are too many; at most {ATTRIBUTES_MAX} are allowed, and with a thing \
             type {TYPED_ATTRIBUTES_MAX}",
            attributes.len()
        )));
    }
    let in_name = |c: char| c.is_ascii_alphanumeric() || "_.,@/:#=[]-".contains(c);
    for (name, value) in attributes {
        check_attribute_name(name)?;
        if value.len() > ATTRIBUTE_VALUE_BYTES_MAX || !value.chars().all(in_name) {
            return Err(Error::invalid(format!(
                "attribute {name:?} has value {value:?}; use at most {ATTRIBUTE_VALUE_BYTES_MAX} \
                 letters, digits and any of _.,@/:#=[]-"
            )));
        }
    }
    Ok(())
}

fn check_attribute_name(name: &str) -> Result<()> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || "_.,@/:#-".contains(c);
    if name.is_empty() || name.len() > ATTRIBUTE_NAME_BYTES_MAX || !name.chars().all(in_name) {
        return Err(Error::invalid(format!(
            "{name:?} is not an attribute's name; use 1 to {ATTRIBUTE_NAME_BYTES_MAX} letters, \
             digits and any of _.,@/:#-"
        )));
    }
    Ok(())
}

fn check_searchable(names: &[String]) -> Result<()> {
    if names.len() > SEARCHABLE_MAX {
        return Err(Error::invalid(format!(
            "{} searchable attributes are too many; at most {SEARCHABLE_MAX} are allowed",
            names.len()
        )));
    }
    names.iter().try_for_each(|name| check_attribute_name(name))
}
