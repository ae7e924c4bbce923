//! The rows of the table of faults: every fault test says what it measured, and `cargo xtask`
//! gathers the lines into one table at the end of a run.
//!
//! A test of another crate says a line of the same form by itself.

use std::time::Duration;

use crate::account::Account;

/// What one fault test came to.
#[derive(Debug)]
pub struct Row<'a> {
    /// The fault, in a few words.
    pub fault: &'a str,
    /// How often it was injected.
    pub rounds: u64,
    /// What was acknowledged, and what of it lies in the lake.
    pub account: &'a Account,
    /// The most memory the server had resident.
    pub peak_kib: u64,
    /// What it may have.
    pub bound_mib: u64,
    /// The longest time from the end of the fault until all was as before, with no hand laid on;
    /// `None` where nothing was ever interrupted.
    pub recovered: Option<Duration>,
    /// What shows that the fault happened.
    pub control: &'a str,
}

impl Row<'_> {
    /// Says the row, then panics unless every promise is kept. A row is said before it is
    /// judged, so that the table of a failed run holds it.
    pub fn settle(&self) {
        self.say();
        let Row { fault, account, peak_kib, bound_mib, .. } = self;
        account.assert_clean(fault);
        assert!(account.acknowledged > 0, "{fault}: nothing was acknowledged");
        assert!(
            peak_kib.div_ceil(1024) <= *bound_mib,
            "{fault}: {peak_kib} KiB resident; {bound_mib} MiB are allowed"
        );
    }

    /// Says the row, as it is: of a control, which breaks promises on purpose.
    pub fn say(&self) {
        let Row { fault, rounds, account, peak_kib, bound_mib, recovered, control } = self;
        let recovered =
            recovered.map_or("-".to_owned(), |time| format!("{:.1}", time.as_secs_f64()));
        println!(
            "FAULT: {fault} | {rounds} | {} | {} | {} | {} | {} of {bound_mib} | {recovered} | {control}",
            account.acknowledged,
            account.rows,
            account.lost.len(),
            account.doubled.len(),
            peak_kib.div_ceil(1024),
        );
    }
}
