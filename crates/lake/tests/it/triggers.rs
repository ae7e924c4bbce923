//! Triggers and retries: what is due is started once, also across kill -9 and clock steps.

use std::time::Duration;

use base::{ErrorKind, Timestamp};
use lake::{Cause, Condition, RunState, Trigger, TriggerAction, When};

use crate::world::{World, engine, job};

fn job_action() -> TriggerAction {
    TriggerAction::Job { job: "j".into(), arguments: Default::default(), timeout_minutes: None }
}

fn trigger(when: When) -> Trigger {
    Trigger { name: "t".into(), when, actions: vec![job_action()], active: true }
}

fn cron(text: &str) -> When {
    When::Scheduled(text.parse().unwrap())
}

async fn world(when: When) -> World {
    let world = World::new();
    world.readings(&["a"]).await;
    world.lake.create_job(&job()).unwrap();
    world.lake.create_trigger(&trigger(when)).unwrap();
    world
}

/// Starts what is due as the node does; the runs.
async fn fire(world: &World) -> Vec<String> {
    let mut runs = Vec::new();
    for (trigger, firing) in world.lake.due_triggers().await.unwrap() {
        for action in firing.next..trigger.actions.len() {
            let cause = Cause::Trigger { name: trigger.name.clone(), at: firing.at, action };
            let planned = world.lake.start_run_for("j", &Default::default(), &cause).await.unwrap();
            if let Some(spec) = &planned.spec {
                world.lake.finish_run("j", &spec.run_id, &engine(spec)).await.unwrap();
            }
            runs.push(planned.run.run_id);
        }
    }
    runs
}

#[tokio::test]
async fn a_schedule_fires_once_however_long_nobody_looked() {
    // The clock stands at midnight.
    let mut world = world(cron("cron(0 * * * ? *)")).await;
    assert_eq!(fire(&world).await.len(), 0);
    world.clock.advance(Duration::from_secs(3599));
    assert_eq!(fire(&world).await.len(), 0);
    world.clock.advance(Duration::from_secs(1));
    let runs = fire(&world).await;
    assert_eq!(runs.len(), 1);
    assert_eq!(world.lake.get_run("j", &runs[0]).unwrap().trigger.as_deref(), Some("t"));
    assert_eq!(fire(&world).await.len(), 0, "not again in the same minute");
    world = world.restart();
    world.clock.advance(Duration::from_secs(5 * 3600));
    assert_eq!(fire(&world).await.len(), 1, "five hours missed are one run");
    assert_eq!(fire(&world).await.len(), 0);
    assert_eq!(world.lake.get_trigger_state("t").unwrap().fired, 2);

    world.lake.set_trigger_active("t", false).unwrap();
    world.clock.advance(Duration::from_secs(7200));
    assert_eq!(fire(&world).await.len(), 0);
    world.lake.set_trigger_active("t", true).unwrap();
    assert_eq!(fire(&world).await.len(), 0, "what was due while it was off is not due");
}

#[tokio::test]
async fn a_firing_outlives_kill_nine_and_starts_each_action_once() {
    let mut world = world(When::OnDemand).await;
    let two = Trigger { actions: vec![job_action(), job_action()], ..trigger(When::OnDemand) };
    world.lake.update_trigger(&two).unwrap();
    assert!(world.lake.due_triggers().await.unwrap().is_empty());
    world.lake.fire_trigger("t").unwrap();
    assert_eq!(world.lake.fire_trigger("t").unwrap_err().kind(), ErrorKind::Conflict);
    // Killed before anything was started: still to be done.
    world = world.restart();
    let (_, firing) = world.lake.due_triggers().await.unwrap().remove(0);
    assert_eq!(firing.next, 0);
    let cause = |action| Cause::Trigger { name: "t".into(), at: firing.at, action };
    let options = Default::default();
    let planned = world.lake.start_run_for("j", &options, &cause(0)).await.unwrap();
    assert!(planned.spec.is_some());
    // Killed while the first ran: the second is to be done, the first is not begun again.
    world = world.restart();
    assert_eq!(world.lake.recover().await.unwrap().failed.len(), 1);
    let again = world.lake.start_run_for("j", &options, &cause(0)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    let (_, firing) = world.lake.due_triggers().await.unwrap().remove(0);
    assert_eq!(firing.next, 1);
    assert_eq!(fire(&world).await.len(), 1);
    assert!(world.lake.due_triggers().await.unwrap().is_empty());
    assert_eq!(world.lake.list_runs("j").unwrap().len(), 2);
}

#[tokio::test]
async fn the_clock_may_be_set_without_firing_twice() {
    let world = world(cron("cron(0 12 * * ? *)")).await;
    world.clock.advance(Duration::from_secs(12 * 3600 + 30));
    assert_eq!(fire(&world).await.len(), 1);
    // Set back an hour: noon comes again and is not due again.
    let back =
        std::sync::Arc::new(base::ManualClock::at(Timestamp(1_795_392_000_000 + 11 * 3_600_000)));
    let World { folder, lake, .. } = world;
    drop(lake);
    let world = World::over(folder, back);
    assert_eq!(fire(&world).await.len(), 0);
    world.clock.advance(Duration::from_secs(3600 + 10));
    assert_eq!(fire(&world).await.len(), 0);
    world.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(fire(&world).await.len(), 1);
}

#[tokio::test]
async fn new_data_fires_and_old_data_does_not() {
    let world = world(When::NewData { every_secs: 60 }).await;
    assert_eq!(fire(&world).await.len(), 0, "not before a minute");
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(fire(&world).await.len(), 1);
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(fire(&world).await.len(), 0);
    world.put("raw/b", "{\"n\":5}").await;
    assert_eq!(fire(&world).await.len(), 0, "at most once a minute");
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(fire(&world).await.len(), 1);
    assert!(world.rows("curated").await.contains(&5));
}

#[tokio::test]
async fn the_end_of_another_run_fires() {
    let condition = Condition::Job { job: "first".into(), state: RunState::Succeeded };
    let world = World::new();
    world.readings(&["a"]).await;
    world.lake.create_job(&job()).unwrap();
    let first = lake::Job { name: "first".into(), ..job() };
    world.lake.create_job(&first).unwrap();
    let options = lake::RunOptions::default();
    let spec = world.lake.start_run("first", &options).await.unwrap().spec.unwrap();
    world.lake.finish_run("first", &spec.run_id, &engine(&spec)).await.unwrap();
    let when = When::Conditional { all: true, conditions: vec![condition] };
    world.lake.create_trigger(&trigger(when)).unwrap();
    assert_eq!(fire(&world).await.len(), 0, "what ended before it was made is no news");
    world.clock.advance(Duration::from_secs(1));
    world.lake.start_run("first", &options).await.unwrap();
    assert_eq!(fire(&world).await.len(), 1);
    assert_eq!(fire(&world).await.len(), 0);
}

#[tokio::test]
async fn a_failed_run_is_tried_again_as_often_as_its_job_says() {
    let mut world = World::new();
    world.readings(&["a"]).await;
    world.lake.create_job(&lake::Job { max_retries: 2, ..job() }).unwrap();
    let planned = world.lake.start_run("j", &Default::default()).await.unwrap();
    world.lake.fail_run("j", &planned.run.run_id, "out of luck").unwrap();
    let mut last = planned.run.run_id;
    for attempt in 1..=2 {
        assert!(world.lake.due_retries().unwrap().is_empty(), "not at once");
        world.clock.advance(Duration::from_secs(6));
        world = world.restart();
        let retry = world.lake.due_retries().unwrap().remove(0);
        assert_eq!((retry.attempt, &retry.run_id), (attempt, &last));
        let cause = Cause::Retry(retry);
        let run = world.lake.start_run_for("j", &Default::default(), &cause).await.unwrap().run;
        assert_eq!((run.attempt, run.previous), (attempt, Some(last)));
        last = run.run_id;
        // The server's end fails a run as an error does.
        world = world.restart();
        world.lake.recover().await.unwrap();
        let again = world.lake.start_run_for("j", &Default::default(), &cause).await;
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict, "no attempt twice");
    }
    world.clock.advance(Duration::from_secs(60));
    assert!(world.lake.due_retries().unwrap().is_empty());

    // Whoever runs the job first stands in for the attempt.
    let planned = world.lake.start_run("j", &Default::default()).await.unwrap();
    world.lake.fail_run("j", &planned.run.run_id, "again").unwrap();
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(world.lake.due_retries().unwrap().len(), 1);
    assert_eq!(world.run().await.state, RunState::Succeeded);
    assert!(world.lake.due_retries().unwrap().is_empty());
}

#[tokio::test]
async fn triggers_that_could_never_fire_are_refused() {
    let world = world(When::OnDemand).await;
    let named = |name: &str, when: When| Trigger { name: name.into(), ..trigger(when) };
    let crawls = Trigger {
        actions: vec![TriggerAction::Crawler { crawler: "c".into() }],
        ..named("x", When::NewData { every_secs: 60 })
    };
    let nobody = TriggerAction::Crawler { crawler: "nobody".into() };
    for (bad, says) in [
        (named("", When::OnDemand), "name"),
        (named("x", When::NewData { every_secs: 0 }), "5 to 86400"),
        (named("x", When::Conditional { all: true, conditions: vec![] }), "no condition"),
        (Trigger { actions: vec![], ..named("x", When::OnDemand) }, "0 actions"),
        (crawls, "crawler"),
        (Trigger { actions: vec![nobody], ..named("x", When::OnDemand) }, "nobody"),
        (trigger(When::OnDemand), "exists"),
    ] {
        let error = world.lake.create_trigger(&bad).unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
}
