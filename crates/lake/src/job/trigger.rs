//! What starts jobs and crawlers without being asked: schedules, the ends of other runs, new
//! data; and the next attempt of a run that failed.
//!
//! ```text
//! due --begin--> firing (a row) --one transaction each--> run 1, run 2, ... --> no firing
//! ```
//!
//! Invariants
//! * A firing is a row before anything is started for it, and each of its actions is crossed
//!   off in the transaction that takes the job. So a crash neither repeats an action nor
//!   forgets one.
//! * What was due while nobody looked is due once.
//! * A clock that is set back by less than a day repeats nothing.

use std::collections::BTreeMap;

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::{Row, Transaction};
use serde::{Deserialize, Serialize};

use super::bookmark;
use super::run::JobRun;
use crate::crawl::CrawlOutcome;
use crate::lake::blocking;
use crate::{Job, Lake, RunState, Schedule};

/// How long a failed run waits for its next attempt.
const RETRY_MILLIS: i64 = 5_000;
/// Most attempts after the first.
pub const RETRIES_MAX: u32 = 10;
/// How often new data may be looked for, in seconds, at the least and the most.
pub const EVERY_SECS: std::ops::RangeInclusive<u64> = 5..=86_400;
/// A clock that was ahead by more than this was wrong and not merely adjusted.
const STEP_BACK_MILLIS_MAX: i64 = 86_400_000;
/// Glue's bounds.
const NAME_BYTES_MAX: usize = 255;
const ACTIONS_MAX: usize = 100;

/// What starts jobs or crawlers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// When it fires.
    pub when: When,
    /// What it starts.
    pub actions: Vec<TriggerAction>,
    /// Whether it fires.
    pub active: bool,
}

impl Row for Trigger {
    const TABLE: &'static str = "triggers";
}

/// When a trigger fires.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// When somebody asks.
    OnDemand,
    /// By the clock.
    Scheduled(Schedule),
    /// When others have ended.
    Conditional {
        /// Whether all of them must; otherwise any.
        all: bool,
        /// Which.
        conditions: Vec<Condition>,
    },
    /// When a source of one of its jobs has objects that the job has not read.
    NewData {
        /// Looked at so often, in seconds, and so fires at most so often.
        every_secs: u64,
    },
}

/// The end of a run or a crawl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// A run of a job ended so.
    Job {
        /// The job.
        job: String,
        /// How.
        state: RunState,
    },
    /// A crawl ended so.
    Crawler {
        /// The crawler.
        crawler: String,
        /// How.
        outcome: CrawlOutcome,
    },
}

/// What a trigger starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerAction {
    /// A run of a job.
    Job {
        /// The job.
        job: String,
        /// What the run is told.
        arguments: BTreeMap<String, String>,
        /// Minutes it may take.
        timeout_minutes: Option<u64>,
    },
    /// A crawl.
    Crawler {
        /// The crawler.
        crawler: String,
    },
}

/// Where a trigger stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerState {
    /// Until when it was looked at.
    pub seen: Timestamp,
    /// The newest ends that it knows, by what ended.
    ends: BTreeMap<String, String>,
    /// What it is about to start.
    pub firing: Option<Firing>,
    /// When it last fired.
    pub fired_at: Option<Timestamp>,
    /// How often it fired.
    pub fired: u64,
}

impl Row for TriggerState {
    const TABLE: &'static str = "trigger_states";
}

/// Actions that are to be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    /// When it was due.
    pub at: Timestamp,
    /// The first action that is not crossed off.
    pub next: usize,
}

/// A failed run's next attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The job.
    pub job: String,
    /// The run that failed.
    pub run_id: String,
    /// Which attempt comes, from 1.
    pub attempt: u32,
    /// When.
    pub due_at: Timestamp,
}

impl Row for Retry {
    const TABLE: &'static str = "job_retries";
}

/// Why a run is started: what has to be crossed off with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// Somebody asked.
    #[default]
    Asked,
    /// An action of a trigger's firing.
    Trigger {
        /// The trigger.
        name: String,
        /// The firing.
        at: Timestamp,
        /// The action's place.
        action: usize,
    },
    /// A failed run is tried again.
    Retry(Retry),
}

impl Cause {
    /// Crosses off what the run is started for, and completes its row. A new run of a job, for
    /// whatever cause, stands in for the attempt that was due.
    pub(super) fn cross_off(
        &self,
        transaction: &mut Transaction<'_>,
        run: &mut JobRun,
    ) -> Result<()> {
        match self {
            Cause::Asked => {}
            Cause::Trigger { name, at, action } => {
                cross_off(transaction, name, *at, *action)?;
                run.trigger = Some(name.clone());
            }
            Cause::Retry(retry) => {
                let due = transaction.get::<Retry>(&retry.job)?;
                if due.is_none_or(|due| due.row != *retry) {
                    let run_id = &retry.run_id;
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!("run {run_id} is no longer to be tried again"),
                    ));
                }
                run.attempt = retry.attempt;
                run.previous = Some(retry.run_id.clone());
            }
        }
        transaction.delete::<Retry>(&run.job).map(drop)
    }
}

/// Crosses an action off its firing; refused if it was before.
fn cross_off(
    transaction: &mut Transaction<'_>,
    name: &str,
    at: Timestamp,
    action: usize,
) -> Result<()> {
    let gone =
        || Error::new(ErrorKind::Conflict, format!("action {action} of trigger {name:?} is done"));
    let Some(trigger) = transaction.get::<Trigger>(name)? else { return Err(gone()) };
    let Some(found) = transaction.get::<TriggerState>(name)? else { return Err(gone()) };
    let mut state = found.row;
    match &mut state.firing {
        Some(firing) if firing.at == at && firing.next == action => firing.next += 1,
        _ => return Err(gone()),
    }
    if action + 1 >= trigger.actions.len() {
        state.firing = None;
    }
    transaction.put(name, &state).map(drop)
}

/// Keeps a run that failed for another attempt, if its job allows one.
pub(super) fn retry_later(
    transaction: &mut Transaction<'_>,
    run: &JobRun,
    now: Timestamp,
) -> Result<()> {
    let Some(job) = transaction.get::<Job>(&run.job)? else { return Ok(()) };
    if run.attempt >= job.max_retries {
        return Ok(());
    }
    let retry = Retry {
        job: run.job.clone(),
        run_id: run.run_id.clone(),
        attempt: run.attempt + 1,
        due_at: Timestamp(now.millis().saturating_add(RETRY_MILLIS)),
    };
    transaction.put(&run.job, &retry).map(drop)
}

impl Trigger {
    /// Refuses what could never fire or start.
    fn check(&self) -> Result<()> {
        let bad = |why: String| Err(Error::invalid(format!("trigger {:?}: {why}", self.name)));
        let allowed = |c: char| c.is_ascii_alphanumeric() || " _.:-".contains(c);
        if self.name.is_empty()
            || self.name.len() > NAME_BYTES_MAX
            || !self.name.chars().all(allowed)
        {
            return bad(format!(
                "use 1 to {NAME_BYTES_MAX} letters, digits, ' ', '_', '.', ':' and '-' as its name"
            ));
        }
        if self.actions.is_empty() || self.actions.len() > ACTIONS_MAX {
            let count = self.actions.len();
            return bad(format!("it has {count} actions; give 1 to {ACTIONS_MAX}"));
        }
        match &self.when {
            When::Conditional { conditions, .. } if conditions.is_empty() => {
                bad("it has no condition".to_owned())
            }
            When::Conditional { conditions, .. } => {
                let open = conditions.iter().find(|one| match one {
                    Condition::Job { state, .. } => !state.is_final(),
                    Condition::Crawler { outcome, .. } => *outcome == CrawlOutcome::Running,
                });
                open.map_or(Ok(()), |open| bad(format!("{open:?} is not how anything ends")))
            }
            When::NewData { every_secs } if !EVERY_SECS.contains(every_secs) => bad(format!(
                "it looks every {every_secs} s; give {} to {}",
                EVERY_SECS.start(),
                EVERY_SECS.end()
            )),
            When::NewData { .. } => {
                let crawls = |one: &TriggerAction| matches!(one, TriggerAction::Crawler { .. });
                match self.actions.iter().any(crawls) {
                    true => {
                        bad("new data is what a job has not read; a crawler has no such".into())
                    }
                    false => Ok(()),
                }
            }
            When::OnDemand | When::Scheduled(_) => Ok(()),
        }
    }
}

impl Lake {
    /// Stores a new trigger.
    pub fn create_trigger(&self, trigger: &Trigger) -> Result<()> {
        self.check_trigger(trigger)?;
        let state = self.fresh_state(trigger)?;
        self.store().transact(|transaction| {
            transaction.create(&trigger.name, trigger)?;
            transaction.put(&trigger.name, &state).map(drop)
        })
    }

    /// Replaces a trigger; a firing under way is forgotten.
    pub fn update_trigger(&self, trigger: &Trigger) -> Result<()> {
        self.check_trigger(trigger)?;
        let fresh = self.fresh_state(trigger)?;
        self.store().transact(|transaction| {
            if transaction.get::<Trigger>(&trigger.name)?.is_none() {
                return Err(no_trigger(&trigger.name));
            }
            let before = transaction.get::<TriggerState>(&trigger.name)?.map(|found| found.row);
            let state = TriggerState {
                fired: before.as_ref().map_or(0, |before| before.fired),
                fired_at: before.and_then(|before| before.fired_at),
                ..fresh
            };
            transaction.put(&trigger.name, trigger)?;
            transaction.put(&trigger.name, &state).map(drop)
        })
    }

    /// Puts a trigger in force or out of it. What was due meanwhile is not due.
    pub fn set_trigger_active(&self, name: &str, active: bool) -> Result<()> {
        let trigger = Trigger { active, ..self.get_trigger(name)? };
        self.update_trigger(&trigger)
    }

    /// A trigger.
    pub fn get_trigger(&self, name: &str) -> Result<Trigger> {
        match self.store().get::<Trigger>(name)? {
            Some(found) => Ok(found.row),
            None => Err(no_trigger(name)),
        }
    }

    /// Where a trigger stands.
    pub fn get_trigger_state(&self, name: &str) -> Result<TriggerState> {
        match self.store().get::<TriggerState>(name)? {
            Some(found) => Ok(found.row),
            None => Err(no_trigger(name)),
        }
    }

    /// All triggers by name.
    pub fn list_triggers(&self) -> Result<Vec<Trigger>> {
        Ok(self.store().list::<Trigger>()?.into_iter().map(|(_, found)| found.row).collect())
    }

    /// Forgets a trigger; whether there was one.
    pub fn delete_trigger(&self, name: &str) -> Result<bool> {
        self.store().transact(|transaction| {
            transaction.delete::<TriggerState>(name)?;
            transaction.delete::<Trigger>(name)
        })
    }

    fn check_trigger(&self, trigger: &Trigger) -> Result<()> {
        trigger.check()?;
        for action in &trigger.actions {
            match action {
                TriggerAction::Job { job, .. } => {
                    let job = self.get_job(job)?;
                    if matches!(trigger.when, When::NewData { .. }) && !job.bookmark {
                        return Err(Error::invalid(format!(
                            "trigger {:?}: job {:?} has no bookmark, so all data is new to it",
                            trigger.name, job.name
                        )));
                    }
                }
                TriggerAction::Crawler { crawler } => drop(self.get_crawler(crawler)?),
            }
        }
        let When::Conditional { conditions, .. } = &trigger.when else { return Ok(()) };
        for condition in conditions {
            match condition {
                Condition::Job { job, .. } => drop(self.get_job(job)?),
                Condition::Crawler { crawler, .. } => drop(self.get_crawler(crawler)?),
            }
        }
        Ok(())
    }

    /// A state to which all that has happened is known.
    fn fresh_state(&self, trigger: &Trigger) -> Result<TriggerState> {
        let mut ends = BTreeMap::new();
        if let When::Conditional { conditions, .. } = &trigger.when {
            for condition in conditions {
                if let Some((what, end, _)) = self.newest_end(condition)? {
                    ends.insert(what, end);
                }
            }
        }
        let seen = self.clock().now();
        Ok(TriggerState { seen, ends, firing: None, fired_at: None, fired: 0 })
    }

    /// What a condition watches, the newest end of it, and whether it ended as it should.
    fn newest_end(&self, condition: &Condition) -> Result<Option<(String, String, bool)>> {
        Ok(match condition {
            Condition::Job { job, state } => {
                let runs = self.list_runs(job)?;
                let newest = runs.into_iter().find(|run| run.state.is_final());
                newest.map(|run| (format!("job/{job}"), run.run_id, run.state == *state))
            }
            Condition::Crawler { crawler, outcome } => {
                let crawls = self.list_crawls(crawler)?;
                let newest = crawls.into_iter().find(|crawl| crawl.finished_at.is_some());
                newest.map(|crawl| {
                    (format!("crawler/{crawler}"), crawl.id, crawl.outcome == *outcome)
                })
            }
        })
    }

    /// Fires a trigger because somebody asks; refused while it fires.
    pub fn fire_trigger(&self, name: &str) -> Result<()> {
        let at = self.clock().now();
        self.store().transact(|transaction| {
            let Some(found) = transaction.get::<TriggerState>(name)? else {
                return Err(no_trigger(name));
            };
            if found.firing.is_some() {
                let why = format!("trigger {name:?} is firing; wait for it");
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            transaction.put(name, &found.row.clone().begin(at)).map(drop)
        })
    }

    /// Looks at all triggers and begins to fire those that are due. Answers those that have
    /// something to start, also from before a crash.
    pub async fn due_triggers(&self) -> Result<Vec<(Trigger, Firing)>> {
        let mut due = Vec::new();
        for trigger in self.list_triggers()? {
            match self.look_at_trigger(&trigger).await {
                Ok(Some(firing)) => due.push((trigger, firing)),
                Ok(None) => {}
                // One that watches something deleted must not hold up the others.
                Err(error) => tracing::warn!(trigger = trigger.name, %error, "a trigger is blind"),
            }
        }
        Ok(due)
    }

    async fn look_at_trigger(&self, trigger: &Trigger) -> Result<Option<Firing>> {
        let state = self.get_trigger_state(&trigger.name)?;
        if state.firing.is_some() {
            return Ok(state.firing);
        }
        if !trigger.active {
            return Ok(None);
        }
        let now = self.clock().now();
        let Some(next) = self.next_state(trigger, state.clone(), now).await? else {
            return Ok(None);
        };
        let firing = next.firing.clone();
        self.store().transact(|transaction| {
            let found = transaction.get::<TriggerState>(&trigger.name)?;
            match found.is_some_and(|found| found.row == state) {
                true => transaction.put(&trigger.name, &next).map(|_| firing),
                // Changed meanwhile: the next look decides.
                false => Ok(None),
            }
        })
    }

    /// The state after a look, if it is another.
    async fn next_state(
        &self,
        trigger: &Trigger,
        state: TriggerState,
        now: Timestamp,
    ) -> Result<Option<TriggerState>> {
        let behind = now.millis().saturating_sub(state.seen.millis());
        if behind < -STEP_BACK_MILLIS_MAX {
            return Ok(Some(TriggerState { seen: now, ..state }));
        }
        match &trigger.when {
            When::OnDemand => Ok(None),
            When::Scheduled(schedule) => {
                let due = behind > 0 && schedule.was_due(state.seen, now);
                Ok(due.then(|| state.begin(now)))
            }
            When::NewData { every_secs } => {
                let every = i64::try_from(every_secs.saturating_mul(1000)).unwrap_or(i64::MAX);
                if behind < every {
                    return Ok(None);
                }
                for action in &trigger.actions {
                    let TriggerAction::Job { job, .. } = action else { continue };
                    if self.has_new_data(job).await? {
                        return Ok(Some(state.begin(now)));
                    }
                }
                Ok(Some(TriggerState { seen: now, ..state }))
            }
            When::Conditional { all, conditions } => {
                let mut met = 0;
                let mut ends = state.ends.clone();
                for condition in conditions {
                    let Some((what, end, as_asked)) = self.newest_end(condition)? else { continue };
                    if as_asked && state.ends.get(&what) != Some(&end) {
                        met += 1;
                        ends.insert(what, end);
                    }
                }
                let due = if *all { met == conditions.len() } else { met > 0 };
                Ok(due.then(|| TriggerState { ends, ..state }.begin(now)))
            }
        }
    }

    /// Whether a source of a job has objects that the job has not read.
    pub async fn has_new_data(&self, job: &str) -> Result<bool> {
        let job = self.get_job(job)?;
        for node in &job.nodes {
            let Some((_, files)) = self.read_by_node(node).await? else { continue };
            let (store, name, node) =
                (self.store().clone(), job.name.clone(), node.id().to_owned());
            let sorted = blocking(move || bookmark::sort(&store, &name, &node, files)).await?;
            if !sorted.new.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Crosses an action off that starts no run: a crawl, or one that cannot be started.
    pub fn skip_action(&self, name: &str, at: Timestamp, action: usize) -> Result<()> {
        self.store().transact(|transaction| cross_off(transaction, name, at, action))
    }

    /// The attempts that are due.
    pub fn due_retries(&self) -> Result<Vec<Retry>> {
        let now = self.clock().now().millis();
        let due = |retry: &Retry| {
            let left = retry.due_at.millis().saturating_sub(now);
            // A clock that was set back must not hold an attempt up for long.
            left <= 0 || left > RETRY_MILLIS
        };
        let all = self.store().list::<Retry>()?.into_iter().map(|(_, found)| found.row);
        Ok(all.filter(due).collect())
    }

    /// Gives a failed run's next attempt up.
    pub fn forget_retry(&self, job: &str) -> Result<()> {
        self.store().delete::<Retry>(job).map(drop)
    }
}

impl TriggerState {
    fn begin(self, at: Timestamp) -> Self {
        TriggerState {
            seen: at,
            firing: Some(Firing { at, next: 0 }),
            fired_at: Some(at),
            fired: self.fired + 1,
            ..self
        }
    }
}

fn no_trigger(name: &str) -> Error {
    Error::not_found(format!("there is no trigger {name:?}"))
}
