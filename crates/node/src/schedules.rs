//! What runs by the clock: crawlers whose schedule is due.
//!
//! What came due several times while no server ran, or while it ran still, is run once.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch;

use crate::Node;

/// How often is looked. Schedules are exact to the minute.
const TURN: Duration = Duration::from_secs(1);

/// Starts what is due until the node stops.
pub(crate) async fn run(node: Weak<Node>, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(TURN) => {}
        }
        let Some(node) = node.upgrade() else { return };
        let (lake, now) = (node.lake.lake.clone(), node.clock.now());
        let due = match tokio::task::spawn_blocking(move || lake.take_due_crawlers(now)).await {
            Ok(Ok(due)) => due,
            Ok(Err(error)) => {
                tracing::error!(%error, "schedules cannot be looked at; it is tried again");
                continue;
            }
            Err(_stopping) => return,
        };
        for name in due {
            tracing::info!(crawler = name, "its schedule is due");
            let (lake, logs) = (node.lake.lake.clone(), node.logs.clone());
            let clock = node.clock.clone();
            tokio::spawn(async move {
                aws::crawl_as_scheduled(&lake, &logs, &*clock, &name).await;
            });
        }
    }
}
