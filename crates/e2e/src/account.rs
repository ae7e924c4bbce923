//! The oracle of every fault test: what was sent and acknowledged against what is in a table.
//!
//! Acknowledged means once in the table; sent without an acknowledgement means at most once;
//! nothing else may be there. Readings are found by SQL, as a user would, or in the objects
//! themselves.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::Server;
use crate::mqtt::Ledger;

/// Sequence numbers between two ledgers' first ones: more than one publisher sends in a round.
pub const BLOCK: u64 = 10_000_000;
/// Rows asked for at once; one answer holds 100,000.
const PAGE: u64 = 80_000;

/// The verdict over some ledgers. The lists name offending sequence numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Readings handed to a socket.
    pub sent: u64,
    /// Those a PUBACK came for.
    pub acknowledged: u64,
    /// Rows of what was sent, counted with their repetitions.
    pub rows: u64,
    /// Acknowledged and not in the table.
    pub lost: Vec<u64>,
    /// In the table more than once.
    pub doubled: Vec<u64>,
    /// In the table and never sent.
    pub invented: Vec<u64>,
    /// Rows with sequence numbers far from anything sent.
    pub strangers: u64,
}

impl Account {
    /// Panics unless every promise is kept.
    pub fn assert_clean(&self, context: &str) {
        let first = |list: &[u64]| format!("{} {:?}", list.len(), &list[..list.len().min(10)]);
        assert!(
            self.lost.is_empty()
                && self.doubled.is_empty()
                && self.invented.is_empty()
                && self.strangers == 0,
            "{context}: sent {} acknowledged {} rows {}; lost {}; doubled {}; invented {}; strangers {}",
            self.sent,
            self.acknowledged,
            self.rows,
            first(&self.lost),
            first(&self.doubled),
            first(&self.invented),
            self.strangers
        );
    }

    /// Adds one ledger and how often each sequence number of its block was found.
    pub fn compare(&mut self, ledger: &Ledger, found: &HashMap<u64, u64>) {
        self.sent += ledger.sent.len() as u64;
        self.acknowledged += ledger.acknowledged.len() as u64;
        self.rows += found.values().sum::<u64>();
        let sent: std::collections::HashSet<u64> = ledger.sent.iter().copied().collect();
        self.lost.extend(ledger.acknowledged.iter().filter(|seq| !found.contains_key(seq)));
        self.doubled.extend(found.iter().filter(|(_, times)| **times > 1).map(|(seq, _)| seq));
        self.invented.extend(found.keys().filter(|seq| !sent.contains(seq)));
        self.lost.sort_unstable();
        self.doubled.sort_unstable();
        self.invented.sort_unstable();
    }
}

/// Audits a table with a `seq` column. Each ledger starts at a multiple of [`BLOCK`].
pub fn audit(server: &Server, table: &str, ledgers: &[Ledger]) -> Account {
    let mut account = Account::default();
    for ledger in ledgers {
        let (Some(first), Some(last)) = (ledger.sent.first(), ledger.sent.last()) else { continue };
        let mut found = HashMap::new();
        // One page past the last catches what was never sent.
        for from in (*first..=*last + PAGE).step_by(PAGE as usize) {
            let until = (from + PAGE).min(first + BLOCK);
            let sql = format!(
                "SELECT seq, count(*) AS times FROM {table} WHERE seq >= {from} AND seq < {until} GROUP BY seq"
            );
            for row in server.forebay(&["lake", "sql", &sql])["rows"].as_array().unwrap() {
                found.insert(row[0].as_u64().unwrap(), row[1].as_u64().unwrap());
            }
        }
        account.compare(ledger, &found);
    }
    account.strangers = count(server, table).abs_diff(account.rows);
    account
}

/// How often each reading lies somewhere, by device and sequence number.
pub type Found = BTreeMap<(String, u64), u64>;

/// How often each reading lies in the objects of a bucket or a whole lake. Every gzip object is
/// read; one that is torn, or holds anything else, panics.
pub fn delivered(lake: &Path) -> Found {
    delivered_in(crate::files_below(lake))
}

/// As [`delivered`], in some of the objects.
pub fn delivered_in(objects: impl IntoIterator<Item = PathBuf>) -> Found {
    let mut found = Found::new();
    for file in
        objects.into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "gz"))
    {
        let shown = file.display();
        let mut text = String::new();
        GzDecoder::new(&std::fs::read(&file).unwrap()[..])
            .read_to_string(&mut text)
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        for line in text.lines() {
            let reading: Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{shown}: {e}: {line}"));
            let reading_of = (reading["device"].as_str(), reading["seq"].as_u64());
            let (Some(device), Some(seq)) = reading_of else { panic!("{shown}: {line}") };
            *found.entry((device.to_owned(), seq)).or_insert(0) += 1;
        }
    }
    found
}

/// Audits the objects below `lake`, each ledger under its device's name. A device may have
/// several ledgers, which share no sequence number.
pub fn of_objects<'a>(
    lake: &Path,
    ledgers: impl IntoIterator<Item = (&'a str, &'a Ledger)>,
) -> Account {
    let mut by_device: BTreeMap<&str, Ledger> = BTreeMap::new();
    for (device, ledger) in ledgers {
        let sum = by_device.entry(device).or_default();
        sum.sent.extend(&ledger.sent);
        sum.acknowledged.extend(&ledger.acknowledged);
    }
    let mut found: BTreeMap<String, HashMap<u64, u64>> = BTreeMap::new();
    for ((device, seq), times) in delivered(lake) {
        found.entry(device).or_default().insert(seq, times);
    }
    let mut account = Account::default();
    for (device, ledger) in by_device {
        account.compare(&ledger, &found.remove(device).unwrap_or_default());
    }
    account.strangers = found.values().flat_map(HashMap::values).sum();
    account
}

/// The rows of a table.
pub fn count(server: &Server, table: &str) -> u64 {
    let answer: Value = server.forebay(&["lake", "sql", &format!("SELECT count(*) FROM {table}")]);
    answer["rows"][0][0].as_u64().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_losses_doubles_and_inventions_are_seen() {
        let ledger = Ledger { sent: vec![10, 11, 12, 13, 14], acknowledged: vec![10, 11, 12] };
        let mut account = Account::default();
        account.compare(&ledger, &HashMap::from([(10, 1), (11, 2), (13, 1), (99, 1)]));
        let expected = Account {
            sent: 5,
            acknowledged: 3,
            rows: 5,
            lost: vec![12],
            doubled: vec![11],
            invented: vec![99],
            strangers: 0,
        };
        assert_eq!(account, expected);
    }

    #[test]
    fn unacknowledged_readings_may_be_there_or_not() {
        let ledger = Ledger { sent: vec![1, 2, 3], acknowledged: vec![1] };
        let mut account = Account::default();
        account.compare(&ledger, &HashMap::from([(1, 1), (3, 1)]));
        account.assert_clean("one of two in flight arrived");
    }
}
