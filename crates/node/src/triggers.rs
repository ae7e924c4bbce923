//! Starts what triggers and failed runs call for. What is due is the lake's to say; this looks
//! every second and starts it by way of AWS's door, so that such a run is shown and stopped
//! like any other.

use std::sync::Arc;
use std::time::Duration;

use aws::Rooms;
use base::ErrorKind;
use lake::{Cause, Firing, Trigger, TriggerAction};
use tokio::sync::watch;

/// How often is looked.
const TURN: Duration = Duration::from_secs(1);

/// Looks until the node stops.
pub(crate) async fn run(rooms: Arc<Rooms>, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(TURN) => {}
        }
        retry(&rooms).await;
        match rooms.lake.due_triggers().await {
            Ok(due) => {
                for (trigger, firing) in due {
                    fire(&rooms, &trigger, &firing).await;
                }
            }
            Err(error) => tracing::error!(%error, "triggers cannot be read; it is tried again"),
        }
    }
}

async fn retry(rooms: &Arc<Rooms>) {
    let due = match rooms.lake.due_retries() {
        Ok(due) => due,
        Err(error) => {
            tracing::error!(%error, "failed runs cannot be read; it is tried again");
            return;
        }
    };
    for retry in due {
        let (job, attempt, failed) = (retry.job.clone(), retry.attempt, retry.run_id.clone());
        let cause = Cause::Retry(retry);
        let started = aws::start_job_for(rooms, &job, Default::default(), None, &cause).await;
        match started {
            Ok(run) => tracing::info!(job, run, attempt, failed, "a failed run is tried again"),
            // Somebody runs the job; that run stands in for the attempt.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => {
                tracing::warn!(job, failed, %error, "a failed run cannot be tried again");
                if let Err(error) = rooms.lake.forget_retry(&job) {
                    tracing::error!(job, %error, "an attempt cannot be given up");
                }
            }
        }
    }
}

async fn fire(rooms: &Arc<Rooms>, trigger: &Trigger, firing: &Firing) {
    for (place, action) in trigger.actions.iter().enumerate().skip(firing.next) {
        let name = trigger.name.as_str();
        let skip = || match rooms.lake.skip_action(name, firing.at, place) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(trigger = name, %error, "an action cannot be crossed off");
                false
            }
        };
        let on = match action {
            TriggerAction::Job { job, arguments, timeout_minutes } => {
                let cause = Cause::Trigger { name: name.to_owned(), at: firing.at, action: place };
                let arguments = arguments.clone();
                match aws::start_job_for(rooms, job, arguments, *timeout_minutes, &cause).await {
                    Ok(run) => {
                        tracing::info!(trigger = name, job, run, "a trigger started a run");
                        true
                    }
                    Err(error) => {
                        tracing::warn!(trigger = name, job, %error, "a trigger starts no run");
                        skip()
                    }
                }
            }
            TriggerAction::Crawler { crawler } => {
                // Crossed off first: a crawl that is repeated finds the same.
                let on = skip();
                if on {
                    crawl(rooms, name, crawler);
                }
                on
            }
        };
        if !on {
            return;
        }
    }
}

/// Crawls beside everything else; how it went is the crawler's to show.
fn crawl(rooms: &Arc<Rooms>, trigger: &str, crawler: &str) {
    let (lake, trigger, crawler) = (rooms.lake.clone(), trigger.to_owned(), crawler.to_owned());
    tokio::spawn(async move {
        if let Err(error) = lake.run_crawler(&crawler).await {
            tracing::warn!(trigger, crawler, %error, "a triggered crawl failed");
        }
    });
}
