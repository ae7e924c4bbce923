//! What clients were refused, kept for whoever asks why.
//!
//! Invariants
//! * Bounded: the last few refusals of each client, for so many clients; the one that was
//!   refused longest ago is forgotten first.
//! * A refusal that repeats the last one is counted, not listed again.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use base::Timestamp;
use serde::Serialize;
use tracing::warn;

use crate::auth::{Action, Explanation};
use crate::hub::lock;

/// Clients remembered.
const CLIENTS_MAX: usize = 1_000;

/// Refusals listed for each.
const LISTED_MAX: usize = 20;

/// Lines logged in one second; the record has them all.
const LOGGED_MAX: u32 = 10;

/// One thing that a client was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// When it last happened.
    pub at: Timestamp,
    /// When it first happened.
    pub since: Timestamp,
    /// How often, one after the other.
    pub times: u64,
    /// Certificate id or `anonymous`, if it came that far.
    pub principal: Option<String>,
    /// A bounded word: `policy`, `certificate`, `limit`, `protocol`, `taken`.
    pub reason: &'static str,
    /// What it wanted, if a policy decided.
    pub action: Option<Action>,
    /// The client id, topic or filter it was about.
    pub name: String,
    /// Why.
    #[serde(flatten)]
    pub why: Explanation,
}

impl Refused {
    fn repeats(&self, other: &Refused) -> bool {
        (self.reason, self.action, &self.name, &self.why, &self.principal)
            == (other.reason, other.action, &other.name, &other.why, &other.principal)
    }
}

/// What is known about a client's refusals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refusals {
    /// The last ones, newest first.
    pub refused: Vec<Refused>,
    /// How many there were by reason, since the server started or the client was forgotten.
    pub counts: Vec<(&'static str, u64)>,
    /// When it was last let in after a refusal.
    pub accepted_at: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Kept {
    listed: VecDeque<Refused>,
    counts: Vec<(&'static str, u64)>,
    accepted_at: Option<Timestamp>,
    /// Orders clients by their last refusal.
    turn: u64,
}

#[derive(Debug, Default)]
struct Inner {
    clients: HashMap<String, Kept>,
    turn: u64,
    second: i64,
    logged: u32,
    unlogged: u64,
}

/// The record.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<Inner>);

impl Record {
    pub(crate) fn refused(&self, client_id: &str, refused: Refused) {
        let mut inner = lock(&self.0);
        inner.log(client_id, &refused);
        inner.turn += 1;
        let turn = inner.turn;
        if !inner.clients.contains_key(client_id) && inner.clients.len() >= CLIENTS_MAX {
            let oldest = inner.clients.iter().min_by_key(|(_, kept)| kept.turn);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                inner.clients.remove(&oldest);
            }
        }
        let kept = inner.clients.entry(client_id.to_owned()).or_default();
        kept.turn = turn;
        match kept.counts.iter_mut().find(|(reason, _)| *reason == refused.reason) {
            Some((_, count)) => *count += 1,
            None => kept.counts.push((refused.reason, 1)),
        }
        if let Some(last) = kept.listed.back_mut().filter(|last| last.repeats(&refused)) {
            last.times += 1;
            last.at = refused.at;
            return;
        }
        if kept.listed.len() >= LISTED_MAX {
            kept.listed.pop_front();
        }
        kept.listed.push_back(refused);
    }

    /// Notes that a client was let in, if it is one that was refused before.
    pub(crate) fn accepted(&self, client_id: &str, at: Timestamp) {
        if let Some(kept) = lock(&self.0).clients.get_mut(client_id) {
            kept.accepted_at = Some(at);
        }
    }

    pub(crate) fn of(&self, client_id: &str) -> Refusals {
        let inner = lock(&self.0);
        let Some(kept) = inner.clients.get(client_id) else { return Refusals::default() };
        Refusals {
            refused: kept.listed.iter().rev().cloned().collect(),
            counts: kept.counts.clone(),
            accepted_at: kept.accepted_at,
        }
    }
}

impl Inner {
    fn log(&mut self, client_id: &str, refused: &Refused) {
        let second = refused.at.0.div_euclid(1000);
        if second != self.second {
            (self.second, self.logged) = (second, 0);
        }
        self.logged += 1;
        if self.logged > LOGGED_MAX {
            self.unlogged += 1;
            return;
        }
        let unlogged = std::mem::take(&mut self.unlogged);
        let Refused { reason, name, why, .. } = refused;
        warn!(client_id, reason, name, why = %why.text, unlogged, "refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, at: i64) -> Refused {
        Refused {
            at: Timestamp(at),
            since: Timestamp(at),
            times: 1,
            principal: None,
            reason: "policy",
            action: Some(Action::Publish),
            name: name.to_owned(),
            why: Explanation::default(),
        }
    }

    #[test]
    fn repeats_are_counted_and_both_bounds_hold() {
        let record = Record::default();
        for at in 0..50 {
            record.refused("a", refused("x", at));
        }
        let of = record.of("a");
        assert_eq!((of.refused.len(), of.refused[0].times), (1, 50));
        assert_eq!((of.refused[0].since, of.refused[0].at), (Timestamp(0), Timestamp(49)));
        assert_eq!(of.counts, [("policy", 50)]);
        for at in 0..100 {
            record.refused("a", refused(&format!("t{at}"), at));
        }
        let of = record.of("a");
        assert_eq!((of.refused.len(), of.refused[0].name.as_str()), (LISTED_MAX, "t99"));
        for client in 0..CLIENTS_MAX {
            record.refused(&format!("c{client}"), refused("x", 0));
        }
        assert_eq!(record.of("a"), Refusals::default());
        assert_eq!(record.of("c0").refused.len(), 1);
    }
}
