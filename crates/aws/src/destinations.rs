//! Where HTTP actions of rules may post: endpoints that confirmed that they want it.
//!
//! As on AWS an endpoint gets a POST with a token first. It is ENABLED when the token comes
//! back, by a GET of the `enableUrl` that it was sent, or by ConfirmTopicRuleDestination.

use std::sync::Arc;

use base::{Clock, Error, ErrorKind, Result, Timestamp};
use egress::{Egress, lies_under};
use metastore::{Metastore, Row};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

/// How long a token confirms, as on AWS.
const TOKEN_MILLIS: i64 = 3 * 24 * 60 * 60 * 1000;

/// How a destination stands, in AWS's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Status {
    InProgress,
    Enabled,
    Disabled,
    Error,
}

/// An endpoint, by its id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Destination {
    /// What was confirmed, or is to be: this URL and everything below it.
    pub(crate) url: String,
    pub(crate) status: Status,
    pub(crate) reason: String,
    /// Whether it was confirmed once.
    confirmed: bool,
    token: String,
    asked_at: Timestamp,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl Row for Destination {
    const TABLE: &'static str = "aws-iot-destinations";
}

/// All destinations, and the way to them.
#[derive(Debug)]
pub struct Destinations {
    store: Metastore,
    clock: Arc<dyn Clock>,
    egress: Egress,
    /// The address that confirmations come back to.
    confirm_at: String,
}

impl Destinations {
    /// `confirm_at` is the address of this server, as endpoints reach it.
    pub fn new(
        store: Metastore,
        clock: Arc<dyn Clock>,
        egress: Egress,
        confirm_at: String,
    ) -> Destinations {
        Destinations { store, clock, egress, confirm_at }
    }

    /// Posts what a rule made, if a destination that is ENABLED covers `url`.
    pub fn post(&self, url: &str, headers: &[(String, String)], body: &[u8]) -> Result<()> {
        let parsed = self.egress.check(url)?;
        let covers = |found: &Destination| {
            Url::parse(&found.url).is_ok_and(|confirmed| lies_under(&parsed, &confirmed))
        };
        let rows: Vec<_> = self.list()?.into_iter().filter(|(_, row)| covers(row)).collect();
        if !rows.iter().any(|(_, row)| row.status == Status::Enabled) {
            let message = match rows.first() {
                Some((_, row)) => {
                    let said = json!(row.status);
                    let reason = &row.reason;
                    format!("the destination {} of {url} is {said}: {reason}", row.url)
                }
                None => format!("no topic rule destination covers {url}"),
            };
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let kind = [("Content-Type".to_owned(), "application/octet-stream".to_owned())];
        let kind = kind.into_iter().filter(|_| !typed);
        let headers: Vec<_> = headers.iter().cloned().chain(kind).collect();
        self.egress.post(url, &headers, body)
    }

    /// Refuses a URL that the settings do not open.
    pub(crate) fn check(&self, url: &str) -> Result<Url> {
        self.egress.check(url)
    }

    /// Every destination by its id; one whose token came to nothing is in ERROR.
    pub(crate) fn list(&self) -> Result<Vec<(String, Destination)>> {
        let now = self.clock.now();
        let rows = self.store.list::<Destination>()?.into_iter();
        Ok(rows.map(|(id, found)| (id, found.row.at(now))).collect())
    }

    pub(crate) fn get(&self, id: &str) -> Result<Option<Destination>> {
        let now = self.clock.now();
        Ok(self.store.get::<Destination>(id)?.map(|found| found.row.at(now)))
    }

    /// Makes a destination and asks its endpoint to confirm. Blocks.
    pub(crate) fn make(&self, url: &str, arn: impl Fn(&str) -> String) -> Result<String> {
        let url = self.egress.check(url)?.to_string();
        let id = uuid::Uuid::new_v4().to_string();
        let now = self.clock.now();
        let row = Destination {
            url,
            status: Status::InProgress,
            reason: String::new(),
            confirmed: false,
            token: String::new(),
            asked_at: now,
            created_at: now,
            updated_at: now,
        };
        self.store.transact(|transaction| {
            let rows = transaction.list::<Destination>()?;
            if let Some((id, _)) = rows.iter().find(|(_, found)| found.row.url == row.url) {
                let message = format!("the destination {id} has the URL {}", row.url);
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            transaction.create(&id, &row).map(drop)
        })?;
        self.ask(&id, &arn(&id))?;
        Ok(id)
    }

    /// Sends a new token. That it cannot be delivered is the destination's state, not an error.
    pub(crate) fn ask(&self, id: &str, arn: &str) -> Result<()> {
        let word = || uuid::Uuid::new_v4().simple().to_string();
        let token = format!("{}{}", word(), word());
        // The token counts from here on: the endpoint may confirm before it answers.
        let url = self.change(id, |row, now| {
            row.token.clone_from(&token);
            row.asked_at = now;
            row.status = Status::InProgress;
            row.reason = "waiting for the endpoint to confirm".to_owned();
            Ok(row.url.clone())
        })?;
        let mut to = self.egress.check(&url)?;
        to.query_pairs_mut().append_pair("confirmationToken", &token);
        let body = json!({
            "arn": arn,
            "confirmationToken": token,
            "enableUrl": format!("{}/confirmdestination/{token}", self.confirm_at),
            "messageType": "DestinationConfirmation",
        });
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = [
            header("Content-Type", "application/json"),
            header("x-amz-rules-engine-message-type", "DestinationConfirmation"),
            header("x-amz-rules-engine-destination-arn", arn),
        ];
        let Err(failed) = self.egress.post(to.as_str(), &headers, body.to_string().as_bytes())
        else {
            return Ok(());
        };
        // The token stays out of what is kept and shown.
        let why = failed.to_string().replace(&token, "...");
        tracing::warn!(url, why, "a topic rule destination could not be asked to confirm");
        self.change(id, |row, _| {
            if row.status == Status::InProgress && row.token == token {
                row.status = Status::Error;
                row.reason = why;
            }
            Ok(())
        })
    }

    /// Enables the destination that a token was made for.
    pub fn confirm(&self, token: &str) -> Result<()> {
        let found = self.list()?.into_iter().find(|(_, row)| row.token == token);
        let Some((id, _)) = found.filter(|_| !token.is_empty()) else {
            return Err(Error::invalid("this confirmation token is not known"));
        };
        self.change(&id, |row, now| {
            if row.token != token || row.expired(now) {
                return Err(Error::invalid(
                    "this confirmation token is no longer valid; UpdateTopicRuleDestination with \
                     the status IN_PROGRESS sends a new one",
                ));
            }
            // Following the link again must not undo what the owner switched off since.
            if row.status != Status::Disabled {
                row.status = Status::Enabled;
                row.reason = "confirmed by the endpoint".to_owned();
            }
            row.confirmed = true;
            Ok(())
        })
    }

    /// Switches a confirmed destination on, or any off.
    pub(crate) fn switch(&self, id: &str, on: bool) -> Result<()> {
        self.change(id, |row, _| {
            if on && !row.confirmed {
                return Err(Error::invalid(format!(
                    "the endpoint {} has not confirmed; the status IN_PROGRESS asks it again",
                    row.url
                )));
            }
            row.status = if on { Status::Enabled } else { Status::Disabled };
            row.reason = format!("{} by its owner", if on { "enabled" } else { "disabled" });
            Ok(())
        })
    }

    pub(crate) fn delete(&self, id: &str) -> Result<bool> {
        self.store.delete::<Destination>(id)
    }

    fn change<T>(
        &self,
        id: &str,
        edit: impl FnOnce(&mut Destination, Timestamp) -> Result<T>,
    ) -> Result<T> {
        let now = self.clock.now();
        self.store.transact(|transaction| {
            let found = transaction.get::<Destination>(id)?;
            let found =
                found.ok_or_else(|| Error::not_found(format!("there is no destination {id:?}")))?;
            let mut row = found.row;
            let result = edit(&mut row, now)?;
            row.updated_at = now;
            transaction.put(id, &row)?;
            Ok(result)
        })
    }
}

impl Destination {
    /// How it stands at `now`.
    fn at(mut self, now: Timestamp) -> Destination {
        if self.status == Status::InProgress && self.expired(now) {
            self.status = Status::Error;
            self.reason = "it was not confirmed within three days".to_owned();
        }
        self
    }

    fn expired(&self, now: Timestamp) -> bool {
        now.millis().saturating_sub(self.asked_at.millis()) > TOKEN_MILLIS
    }
}
