//! All rules, read and indexed, and which of them applies at an offset.
//!
//! A change takes effect from an offset. For a replay to make what was made before, no record
//! at or above that offset may have been evaluated with the older rules. So whoever evaluates
//! first takes a [`View`], which fixes the rules together with the offset up to which they may
//! be used, and a change fixes its offset and the new rules while no view can be taken.
//!
//! Invariants
//! * For one offset, [`View::matching`] gives the same versions for ever (until
//!   [`RuleBook::prune`] forgets offsets that every stream has passed).
//! * A rule's row is durable before a view shows it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base::{Error, ErrorKind, MessageRef, Offset, Result, Timestamp};
use metastore::Metastore;

use crate::rule::{Action, NewRule, Republishing, RuleRow, RuleState, RuleVersion};
use crate::sql::{Context, Sql, Template};
use crate::target::{ErrorTarget, PutTarget, Target};

/// Most rules that are not deleted (AWS's bound per account).
const RULES_MAX: usize = 1_000;

/// Topics that go straight to a stream and that no rule sees.
const DIRECT_PUT_PREFIX: &str = "$aws/firehose/";

const BASIC_INGEST_PREFIX: &str = "$aws/rules/";

/// A version of a rule with its statement read.
#[derive(Debug)]
pub struct InForce {
    /// The rule's name.
    pub rule: String,
    /// The version's number.
    pub version: u64,
    /// The statement.
    pub sql: Sql,
    /// What is done with the output.
    pub actions: Vec<Action>,
    /// The name of each action's stream.
    streams: Vec<Template>,
    /// Topics that get the output.
    pub republish: Vec<Target>,
    /// Where else the output is put.
    pub puts: Vec<PutTarget>,
    /// What gets a report when an action failed.
    pub on_error: Option<ErrorTarget>,
    from: Offset,
    /// Exclusive; `None` for the newest version.
    until: Option<Offset>,
}

impl InForce {
    fn read(rule: &str, version: &RuleVersion, until: Option<Offset>) -> Result<InForce> {
        let sql = Sql::parse(&version.sql)?;
        let stream = |action: &Action| {
            let Action::Firehose { stream, .. } = action;
            Template::parse(stream, &sql)
        };
        let streams = version.actions.iter().map(stream).collect::<Result<_>>()?;
        let target = |republish| Target::read(republish, &sql);
        let republish = version.republish.iter().map(target).collect::<Result<_>>()?;
        let put = |put| PutTarget::read(put, &sql);
        let puts = version.puts.iter().map(put).collect::<Result<_>>()?;
        let on_error = version.on_error.as_ref().map(|given| given.read(&sql)).transpose()?;
        Ok(InForce {
            rule: rule.to_owned(),
            version: version.version,
            actions: version.actions.clone(),
            streams,
            republish,
            puts,
            on_error,
            from: version.from_offset,
            until,
            sql,
        })
    }

    /// The stream of an action, by its place, if it is the same for every message.
    pub fn constant_stream(&self, action: usize) -> Option<&str> {
        self.streams.get(action)?.constant()
    }

    /// The stream that an action hands a message to; the error says for people why there is none.
    pub fn stream(
        &self,
        action: usize,
        message: &MessageRef<'_>,
        context: &Context<'_>,
    ) -> std::result::Result<String, String> {
        let template = self.streams.get(action).ok_or("there is no such action")?;
        template.fill(&self.sql, message, context)
    }

    /// Whether this version is in force at an offset.
    pub fn applies_at(&self, offset: Offset) -> bool {
        self.from <= offset && self.until.is_none_or(|until| offset < until)
    }
}

/// The enabled versions of all rules, by rule name and offset, and an index by first topic level.
#[derive(Debug, Default)]
struct Rules {
    rows: Vec<RuleRow>,
    in_force: Vec<Arc<InForce>>,
    by_first_level: HashMap<String, Vec<usize>>,
    any_first_level: Vec<usize>,
    by_name: HashMap<String, Vec<usize>>,
}

/// The rules in force, for records below an offset.
#[derive(Clone, Debug)]
pub struct View {
    rules: Arc<Rules>,
    /// Exclusive: records at or above may be subject to newer rules.
    pub until: Offset,
}

/// All rules of the store.
#[derive(Debug)]
pub struct RuleBook {
    store: Metastore,
    rules: RwLock<Arc<Rules>>,
}

impl RuleBook {
    /// Reads all rules. A stored statement that cannot be read any more is `Corrupt`: to drop
    /// the rule would silently stop a pipeline.
    pub fn open(store: Metastore) -> Result<RuleBook> {
        let rows = store.list::<RuleRow>()?.into_iter().map(|(_, versioned)| versioned.row);
        let rules = Rules::build(rows.collect())?;
        Ok(RuleBook { store, rules: RwLock::new(Arc::new(rules)) })
    }

    /// The rules together with the offset up to which they may be used. `durable` is asked
    /// while no rule can change; evaluate only records that it covers.
    pub fn view(&self, durable: impl FnOnce() -> Offset) -> View {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        View { until: durable(), rules: Arc::clone(&rules) }
    }

    /// The rules that are not deleted, by name.
    pub fn list(&self) -> Vec<RuleRow> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.rows.iter().filter(|row| row.current().is_some()).cloned().collect()
    }

    /// The rule `name`.
    pub fn get(&self, name: &str) -> Result<RuleRow> {
        let mut rules = self.list();
        match rules.iter().position(|row| row.name == name) {
            Some(index) => Ok(rules.swap_remove(index)),
            None => Err(unknown(name)),
        }
    }

    /// Makes a rule, in force from the offset that `durable` gives (the journal's watermark;
    /// asked while no record can be evaluated).
    pub fn create(
        &self,
        new: &NewRule,
        now: Timestamp,
        durable: impl FnOnce() -> Offset,
    ) -> Result<RuleRow> {
        self.create_with(new, &Republishing::default(), now, durable)
    }

    /// As [`RuleBook::create`], for a rule that republishes.
    pub fn create_with(
        &self,
        new: &NewRule,
        republishing: &Republishing,
        now: Timestamp,
        durable: impl FnOnce() -> Offset,
    ) -> Result<RuleRow> {
        new.check_with(republishing)?;
        self.change(&new.name, durable, |row, rules, from| {
            if row.as_ref().is_some_and(|row| row.current().is_some()) {
                let message = format!("rule {:?} exists already", new.name);
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            if rules.rows.iter().filter(|row| row.current().is_some()).count() >= RULES_MAX {
                let message = format!("there are {RULES_MAX} rules, and no more are allowed");
                return Err(Error::new(ErrorKind::Exhausted, message));
            }
            let mut row = row.unwrap_or_else(|| RuleRow {
                name: new.name.clone(),
                description: String::new(),
                created_at: now,
                versions: Vec::new(),
            });
            row.description.clone_from(&new.description);
            row.created_at = now;
            row.push(version_of(new, republishing, now, from));
            Ok(row)
        })
    }

    /// Replaces statement, actions and description of a rule from the watermark on.
    pub fn replace(
        &self,
        new: &NewRule,
        now: Timestamp,
        durable: impl FnOnce() -> Offset,
    ) -> Result<RuleRow> {
        self.replace_with(new, &Republishing::default(), now, durable)
    }

    /// As [`RuleBook::replace`], for a rule that republishes.
    pub fn replace_with(
        &self,
        new: &NewRule,
        republishing: &Republishing,
        now: Timestamp,
        durable: impl FnOnce() -> Offset,
    ) -> Result<RuleRow> {
        new.check_with(republishing)?;
        self.change(&new.name, durable, |row, _, from| {
            let mut row = existing(row, &new.name)?;
            row.description.clone_from(&new.description);
            row.push(version_of(new, republishing, now, from));
            Ok(row)
        })
    }

    /// Enables or disables a rule from the watermark on. Nothing changes if it is so already.
    pub fn set_enabled(
        &self,
        name: &str,
        enabled: bool,
        now: Timestamp,
        durable: impl FnOnce() -> Offset,
    ) -> Result<RuleRow> {
        let state = if enabled { RuleState::Enabled } else { RuleState::Disabled };
        self.change(name, durable, |row, _, from| {
            let mut row = existing(row, name)?;
            push_state(&mut row, state, now, from);
            Ok(row)
        })
    }

    /// Deletes a rule from the watermark on. Records before it are still subject to the rule.
    pub fn delete(
        &self,
        name: &str,
        now: Timestamp,
        durable: impl FnOnce() -> Offset,
    ) -> Result<()> {
        self.change(name, durable, |row, _, from| {
            let mut row = existing(row, name)?;
            push_state(&mut row, RuleState::Deleted, now, from);
            Ok(row)
        })?;
        Ok(())
    }

    /// The rules, disabled ones too, that name the stream.
    pub fn naming_stream(&self, stream: &str) -> Vec<String> {
        let names = |action: &Action| {
            let Action::Firehose { stream: named, .. } = action;
            named == stream
        };
        let of_row =
            |row: &RuleRow| row.current().is_some_and(|version| version.actions.iter().any(names));
        self.list().into_iter().filter(of_row).map(|row| row.name).collect()
    }

    /// Forgets versions that apply only below `before`, which every stream must have passed.
    /// Returns how many were forgotten.
    pub fn prune(&self, before: Offset) -> Result<usize> {
        let mut guard = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let mut forgotten = 0;
        let mut rows = guard.rows.clone();
        let mut changed = Vec::new();
        for row in &mut rows {
            let kept = row.versions.iter().rposition(|version| version.from_offset <= before);
            let kept = kept.unwrap_or(0);
            if kept > 0 {
                forgotten += kept;
                row.versions.drain(..kept);
                changed.push(row.clone());
            }
        }
        if changed.is_empty() {
            return Ok(0);
        }
        let rules = Rules::build(rows)?;
        self.store.transact(|transaction| {
            for row in &changed {
                transaction.put(&row.name, row)?;
            }
            Ok(())
        })?;
        *guard = Arc::new(rules);
        Ok(forgotten)
    }

    /// Changes one row, durably, while nobody can take a view.
    fn change(
        &self,
        name: &str,
        durable: impl FnOnce() -> Offset,
        edit: impl FnOnce(Option<RuleRow>, &Rules, Offset) -> Result<RuleRow>,
    ) -> Result<RuleRow> {
        let mut guard = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let mut rows = guard.rows.clone();
        let at = rows.binary_search_by(|row| row.name.as_str().cmp(name));
        let row = edit(at.ok().map(|index| rows[index].clone()), &guard, durable())?;
        match at {
            Ok(index) => rows[index] = row.clone(),
            Err(index) => rows.insert(index, row.clone()),
        }
        let rules = Rules::build(rows)?;
        self.store.put(&row.name, &row)?;
        *guard = Arc::new(rules);
        Ok(row)
    }
}

impl Rules {
    /// Reads the statements of `rows`, which come sorted by name.
    fn build(rows: Vec<RuleRow>) -> Result<Rules> {
        let mut rules = Rules::default();
        for row in &rows {
            for (index, version) in row.versions.iter().enumerate() {
                if version.state != RuleState::Enabled {
                    continue;
                }
                let until = row.versions.get(index + 1).map(|next| next.from_offset);
                let read = InForce::read(&row.name, version, until).map_err(|error| {
                    let message = format!("stored rule {:?} cannot be read: {error}", row.name);
                    Error::new(ErrorKind::Corrupt, message).with_source(error)
                })?;
                rules.push(read);
            }
        }
        rules.rows = rows;
        Ok(rules)
    }

    fn push(&mut self, in_force: InForce) {
        let index = self.in_force.len();
        self.by_name.entry(in_force.rule.clone()).or_default().push(index);
        if let Some(filter) = in_force.sql.topic_filter() {
            match first_level(filter.as_str()) {
                "+" | "#" => self.any_first_level.push(index),
                level => self.by_first_level.entry(level.to_owned()).or_default().push(index),
            }
        }
        self.in_force.push(Arc::new(in_force));
    }
}

impl View {
    /// Every enabled version that some offset is still subject to.
    pub fn rules(&self) -> impl Iterator<Item = &InForce> {
        self.rules.in_force.iter().map(|in_force| &**in_force)
    }

    /// The rules that apply to a record, by name. A message to `$aws/rules/NAME/...` goes to
    /// that rule alone, whatever its topic filter.
    pub fn matching(&self, topic: &str, offset: Offset) -> Vec<&Arc<InForce>> {
        let rules = &*self.rules;
        let applying = |index: &usize| {
            let in_force = &rules.in_force[*index];
            in_force.applies_at(offset).then_some(in_force)
        };
        if topic.starts_with(DIRECT_PUT_PREFIX) {
            return Vec::new();
        }
        if let Some(rest) = topic.strip_prefix(BASIC_INGEST_PREFIX) {
            let named = rules.by_name.get(first_level(rest)).into_iter().flatten();
            return named.filter_map(applying).collect();
        }
        let level = rules.by_first_level.get(first_level(topic)).into_iter().flatten();
        let mut candidates: Vec<&usize> = level.chain(&rules.any_first_level).collect();
        candidates.sort_unstable();
        let matches = |in_force: &&Arc<InForce>| {
            in_force.sql.topic_filter().is_some_and(|filter| filter.matches(topic))
        };
        candidates.into_iter().filter_map(applying).filter(matches).collect()
    }
}

/// The topic without the prefix that addresses a rule directly.
pub fn without_basic_ingest(topic: &str) -> &str {
    topic
        .strip_prefix(BASIC_INGEST_PREFIX)
        .and_then(|rest| rest.split_once('/'))
        .map_or(topic, |(_, topic)| topic)
}

fn first_level(topic: &str) -> &str {
    topic.split('/').next().unwrap_or(topic)
}

fn version_of(
    new: &NewRule,
    republishing: &Republishing,
    now: Timestamp,
    from: Offset,
) -> RuleVersion {
    RuleVersion {
        version: 1,
        from_offset: from,
        state: if new.enabled { RuleState::Enabled } else { RuleState::Disabled },
        sql: new.sql.clone(),
        actions: new.actions.clone(),
        republish: republishing.output.clone(),
        puts: republishing.puts.clone(),
        on_error: republishing.on_error.clone(),
        changed_at: now,
    }
}

fn push_state(row: &mut RuleRow, state: RuleState, now: Timestamp, from: Offset) {
    if let Some(last) = row.versions.last().filter(|last| last.state != state).cloned() {
        row.push(RuleVersion { state, from_offset: from, changed_at: now, ..last });
    }
}

fn existing(row: Option<RuleRow>, name: &str) -> Result<RuleRow> {
    row.filter(|row| row.current().is_some()).ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> Error {
    Error::not_found(format!("there is no rule {name:?}"))
}
