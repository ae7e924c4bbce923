//! Updates that go wrong by themselves: nobody declared an alarm, and nobody who asks is hurt.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Result};
use forecast::{DateTime, Forecast, Frequency, PredictOptions, Predictor, TimeSeries};
use serde_json::Value;
use serving::{Guard, Host, Rollout, Status, Variant};

use crate::host::{World, ask, mean};

/// Forecasts a constant, and misbehaves as it was told.
struct Told {
    value: f32,
    fault: Fault,
    calls: AtomicUsize,
    /// Lets those out that wait without an end.
    over: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Panics,
    NotFinite,
    Absurd,
    Short,
    Fails,
    Refuses,
    FailsOnce,
    Slow,
    NeverEnds,
    FailsInTheEnd,
    TakesAll,
}

const FAULTS: [(&str, Fault); 11] = [
    ("panics", Fault::Panics),
    ("nan", Fault::NotFinite),
    ("absurd", Fault::Absurd),
    ("short", Fault::Short),
    ("fails", Fault::Fails),
    ("refuses", Fault::Refuses),
    ("fails-once", Fault::FailsOnce),
    ("slow", Fault::Slow),
    ("never-ends", Fault::NeverEnds),
    ("fails-in-the-end", Fault::FailsInTheEnd),
    ("takes-all", Fault::TakesAll),
];

impl Predictor for Told {
    fn freq(&self) -> Frequency {
        Frequency::HOURLY
    }

    fn prediction_length(&self) -> usize {
        2
    }

    fn predict(&self, series: &[TimeSeries], options: &PredictOptions) -> Result<Vec<Forecast>> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let (mut value, mut steps) = (self.value, 2);
        match self.fault {
            Fault::None => {}
            Fault::Panics => panic!("told to"),
            Fault::NotFinite => value = f32::NAN,
            Fault::Absurd => value = 1e9,
            Fault::Short => steps = 1,
            Fault::Fails => return Err(Error::internal("told to")),
            Fault::Refuses => return Err(Error::invalid("series 0: told to")),
            Fault::FailsOnce if call == 40 => return Err(Error::internal("told to")),
            Fault::FailsOnce => {}
            Fault::Slow => std::thread::sleep(Duration::from_millis(20)),
            Fault::NeverEnds | Fault::FailsInTheEnd => {
                while !self.over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                if self.fault == Fault::FailsInTheEnd {
                    return Err(Error::internal("told to"));
                }
            }
            Fault::TakesAll => {
                let mut much: Vec<u8> = Vec::new();
                if much.try_reserve_exact(isize::MAX as usize).is_err() {
                    return Err(Error::new(ErrorKind::Exhausted, "no memory"));
                }
            }
        }
        let one = |_: &TimeSeries| Forecast {
            item_id: None,
            start: DateTime(0),
            freq: Frequency::HOURLY,
            mean: vec![value; steps],
            quantiles: options.quantiles.iter().map(|q| (*q, vec![value; steps])).collect(),
            samples: None,
            parameters: None,
        };
        Ok(series.iter().map(one).collect())
    }
}

/// Model files hold a value, and a fault after it if there is one. A fault whose name ends in
/// `-later` begins once the switch is set.
fn world(guard: Guard) -> (World, Arc<AtomicBool>, Arc<AtomicBool>) {
    let (later, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut world = World::new();
    world.settings.guard = guard;
    let (switch, out) = (Arc::clone(&later), Arc::clone(&over));
    world.loader = Arc::new(move |path: &Path| {
        let text = std::fs::read_to_string(path).map_err(|cause| Error::io("read", cause))?;
        let mut words = text.split_whitespace();
        let no_number = |_| Error::new(ErrorKind::Corrupt, "no model in it");
        let value = words.next().unwrap_or_default().parse().map_err(no_number)?;
        let word = words.next().unwrap_or_default();
        let fault = FAULTS.iter().find(|(name, _)| *name == word.trim_end_matches("-later"));
        let fault = fault.map_or(Fault::None, |(_, fault)| *fault);
        let told =
            |fault| Told { value, fault, calls: AtomicUsize::new(0), over: Arc::clone(&out) };
        Ok(match word.ends_with("-later") {
            true => Box::new(Later(told(Fault::None), told(fault), Arc::clone(&switch))),
            false => Box::new(told(fault)) as Box<dyn Predictor>,
        })
    });
    (world, later, over)
}

struct Later(Told, Told, Arc<AtomicBool>);

impl Predictor for Later {
    fn freq(&self) -> Frequency {
        Frequency::HOURLY
    }

    fn prediction_length(&self) -> usize {
        2
    }

    fn predict(&self, series: &[TimeSeries], options: &PredictOptions) -> Result<Vec<Forecast>> {
        let now = if self.2.load(Ordering::SeqCst) { &self.1 } else { &self.0 };
        now.predict(series, options)
    }
}

fn quick() -> Guard {
    let (patience, accuracy_every) = (Duration::from_millis(30), Duration::from_millis(20));
    Guard { patience, accuracy_every, ..Guard::default() }
}

async fn served(world: &World) -> Arc<Host> {
    let host = world.start();
    world.config(&host, "old", &[("all", "1", 1.0)]);
    host.create_endpoint("e", "old").unwrap();
    host.settled("e").await.unwrap();
    host
}

fn canary(wait_secs: u64) -> Rollout {
    Rollout { shares: vec![0.5, 1.0], wait_secs, keep_secs: 0, limit_secs: None, alarms: vec![] }
}

/// Asks until the endpoint serves the old configuration again; every request must be answered.
async fn asks_until_undone(host: &Host, limit: Duration) -> (usize, String) {
    let began = Instant::now();
    let mut answered = 0;
    loop {
        let value = mean(host, "e").await.unwrap();
        assert!(value == 1.0 || value == 2.0, "{value}");
        answered += 1;
        let row = host.endpoint("e").unwrap();
        let undone = row.status == Status::InService && row.config == "old";
        if let Some(why) = row.failure_reason.filter(|_| undone) {
            return (answered, why);
        }
        assert!(began.elapsed() < limit, "not undone after {answered} answers: {:?}", row.status);
    }
}

#[tokio::test]
async fn g3_a_bad_model_is_undone_by_itself_and_no_request_pays_for_it() {
    for at_once in [true, false] {
        for (name, fault) in FAULTS {
            // What neither failed in rehearsal nor in a canary comes out in front of everybody.
            let (world, later, over) = world(quick());
            let host = served(&world).await;
            for _ in 0..30 {
                mean(&host, "e").await.unwrap();
            }
            world.config(&host, "new", &[("all", &format!("2 {name}-later"), 1.0)]);
            let rollout = (!at_once).then(|| canary(3600));
            host.update_endpoint_by("e", "new", rollout, &[]).unwrap();
            while mean(&host, "e").await.unwrap() != 2.0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if at_once {
                assert_eq!(host.settled("e").await.unwrap().config, "new");
            }
            later.store(true, Ordering::SeqCst);
            let began = Instant::now();
            let (answered, why) = asks_until_undone(&host, Duration::from_secs(20)).await;
            println!(
                "{fault:?}, {}: undone after {answered} answers and {:?}: {why}",
                if at_once { "at once" } else { "canary" },
                began.elapsed()
            );
            assert!(why.starts_with("update to \"new\" undone: variant \"all\" "), "{why}");
            let row = host.endpoint("e").unwrap();
            assert_eq!((row.config.as_str(), row.wanted.as_deref()), ("old", Some("new")));
            for _ in 0..20 {
                assert_eq!(mean(&host, "e").await.unwrap(), 1.0, "{fault:?}");
            }
            over.store(true, Ordering::SeqCst);
        }
    }
}

#[tokio::test]
async fn g3_a_rehearsal_keeps_a_bad_model_from_the_first_request() {
    for (name, fault) in FAULTS {
        if matches!(fault, Fault::Slow | Fault::FailsOnce | Fault::NeverEnds) {
            continue;
        }
        let (world, ..) = world(quick());
        let host = served(&world).await;
        mean(&host, "e").await.unwrap();
        world.config(&host, "new", &[("all", &format!("2 {name}"), 1.0)]);
        host.update_endpoint("e", "new").unwrap();
        let row = host.settled("e").await.unwrap();
        assert_eq!((row.status, row.config.as_str()), (Status::InService, "old"), "{fault:?}");
        let why = row.failure_reason.unwrap();
        assert!(why.contains("in rehearsal"), "{fault:?}: {why}");
        let counts = host.counters();
        assert!(counts.iter().all(|count| count.config == "old"), "{counts:?}");
    }
}

#[tokio::test]
async fn g3_what_old_and_new_models_both_refuse_condemns_nobody() {
    let (world, ..) = world(quick());
    let host = served(&world).await;
    world.config(&host, "new", &[("all", "2", 1.0)]);
    host.update_endpoint("e", "new").unwrap();
    assert_eq!(host.settled("e").await.unwrap().config, "new");
    for _ in 0..50 {
        let bad = serving::Invocation { body: "{}".into(), ..ask("e") };
        assert_eq!(host.invoke(bad).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(mean(&host, "e").await.unwrap(), 2.0);
    }
    assert_eq!(host.endpoint("e").unwrap().config, "new");
}

#[tokio::test]
async fn g3_the_old_variants_go_when_probation_is_over() {
    let guard = Guard { probation: Duration::from_millis(50), ..quick() };
    let (world, later, _) = world(guard);
    let host = served(&world).await;
    world.config(&host, "new", &[("all", "2 fails-later", 1.0)]);
    host.update_endpoint("e", "new").unwrap();
    host.settled("e").await.unwrap();
    while host.on_trial("e").is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    later.store(true, Ordering::SeqCst);
    // What it fails on now it fails on: it has passed, and its errors are for alarms.
    assert_eq!(mean(&host, "e").await.unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(host.endpoint("e").unwrap().config, "new");
    // A person can still go back, from the files.
    let row = host.rollback("e", "the new model fails").unwrap();
    assert_eq!((row.config.as_str(), row.status), ("old", Status::InService));
    assert_eq!(mean(&host, "e").await.unwrap(), 1.0);
}

#[tokio::test]
async fn a_verdict_that_comes_after_the_next_update_undoes_nothing() {
    let (world, later, over) = world(Guard { patience: Duration::from_secs(60), ..quick() });
    let host = served(&world).await;
    world.config(&host, "bad", &[("all", "2 fails-in-the-end-later", 1.0)]);
    world.config(&host, "good", &[("all", "3", 1.0)]);
    host.update_endpoint("e", "bad").unwrap();
    host.settled("e").await.unwrap();
    later.store(true, Ordering::SeqCst);
    let asking = Arc::clone(&host);
    let asking = tokio::spawn(async move { mean(&asking, "e").await });
    let taken = || host.counters().iter().any(|one| one.config == "bad" && one.invocations > 0);
    while !taken() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    host.update_endpoint("e", "good").unwrap();
    host.settled("e").await.unwrap();
    // The model that is gone fails now, and an old one answers.
    over.store(true, Ordering::SeqCst);
    assert_eq!(asking.await.unwrap().unwrap(), 1.0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(host.endpoint("e").unwrap().config, "good");
    assert_eq!(mean(&host, "e").await.unwrap(), 3.0);
}

#[tokio::test]
async fn a_request_that_two_variants_leave_unanswered_ends_in_time() {
    let (mut world, later, over) = world(Guard { patience: Duration::from_millis(100), ..quick() });
    world.settings.timeout = Duration::from_secs(1);
    let host = world.start();
    world.config(&host, "old", &[("all", "1 never-ends-later", 1.0)]);
    world.config(&host, "new", &[("all", "2 never-ends-later", 1.0)]);
    host.create_endpoint("e", "old").unwrap();
    host.settled("e").await.unwrap();
    host.update_endpoint("e", "new").unwrap();
    host.settled("e").await.unwrap();
    later.store(true, Ordering::SeqCst);
    let began = Instant::now();
    assert_eq!(mean(&host, "e").await.unwrap_err().kind(), ErrorKind::Unavailable);
    let took = began.elapsed();
    over.store(true, Ordering::SeqCst);
    assert!(took < Duration::from_millis(1800), "{took:?}");
}

#[tokio::test]
async fn counts_of_configurations_long_gone_are_let_go() {
    let (world, _later, _over) = world(quick());
    let host = served(&world).await;
    mean(&host, "e").await.unwrap();
    for (k, config) in ["a", "b"].into_iter().enumerate() {
        world.config(&host, config, &[("all", "1", 1.0)]);
        host.update_endpoint("e", config).unwrap();
        host.settled("e").await.unwrap();
        // What may come back goes on counting where it was.
        host.rollback("e", "to see").unwrap();
        let counts = host.counters();
        assert_eq!(counts.len(), 1, "{counts:?}");
        assert_eq!(counts[0].invocations, u64::from(k == 0), "{counts:?}");
        host.update_endpoint("e", config).unwrap();
        host.settled("e").await.unwrap();
    }
    host.update_endpoint("e", "old").unwrap();
    host.settled("e").await.unwrap();
    let old = host.counters().into_iter().find(|one| one.config == "old").unwrap();
    assert_eq!(old.invocations, 0);
}

#[tokio::test]
async fn without_a_guard_an_update_stays_whatever_happens() {
    let guard = Guard { on: false, ..quick() };
    let (world, ..) = world(guard);
    let host = served(&world).await;
    world.config(&host, "new", &[("all", "2 fails", 1.0)]);
    host.update_endpoint("e", "new").unwrap();
    assert_eq!(host.settled("e").await.unwrap().config, "new");
    assert_eq!(mean(&host, "e").await.unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(host.endpoint("e").unwrap().config, "new");
}

#[tokio::test]
async fn a_person_rolls_back_and_forth_and_calls_an_update_off() {
    let (world, ..) = world(quick());
    let host = served(&world).await;
    let error = host.rollback("e", "no reason").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("nothing to go back to"), "{error}");
    assert_eq!(host.rollback("none", "").unwrap_err().kind(), ErrorKind::NotFound);
    world.config(&host, "new", &[("all", "2", 1.0)]);
    host.update_endpoint("e", "new").unwrap();
    host.settled("e").await.unwrap();
    for (config, value) in [("old", 1.0), ("new", 2.0), ("old", 1.0)] {
        let row = host.rollback("e", "tried").unwrap();
        assert_eq!((row.config.as_str(), row.wanted.as_deref()), (config, Some(config)));
        assert!(row.failure_reason.unwrap().ends_with("undone: tried"));
        assert_eq!(mean(&host, "e").await.unwrap(), value);
    }
    host.update_endpoint_by("e", "new", Some(canary(3600)), &[]).unwrap();
    while host.on_trial("e").is_none_or(|(_, share)| share == 0.0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(host.on_trial("e"), Some(("new".to_owned(), 0.5)));
    host.rollback("e", "changed my mind").unwrap();
    let row = host.settled("e").await.unwrap();
    assert_eq!((row.config.as_str(), row.status), ("old", Status::InService));
    assert_eq!(row.wanted.as_deref(), Some("old"));
    assert_eq!(row.failure_reason.unwrap(), "update to \"new\" undone: changed my mind");
    for _ in 0..10 {
        assert_eq!(mean(&host, "e").await.unwrap(), 1.0);
    }
    // What it may go back to survives a restart, and the models' names.
    host.update_endpoint("e", "new").unwrap();
    host.settled("e").await.unwrap();
    for config in ["old", "new"] {
        host.delete_config(config).unwrap();
        let model = host.model(&format!("{config}-all")).unwrap();
        assert!(host.endpoint("e").unwrap().needs(&model.artifact));
        host.delete_model(&model.name).unwrap();
    }
    drop(host);
    let host = world.start();
    assert_eq!(mean(&host, "e").await.unwrap(), 2.0);
    host.rollback("e", "").unwrap();
    assert_eq!(mean(&host, "e").await.unwrap(), 1.0);
}

#[tokio::test]
async fn g3_actual_values_condemn_a_worse_model() {
    let (world, ..) = world(quick());
    let host = served(&world).await;
    let asked = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&asked);
    host.judge_accuracy_with(Arc::new(move |comparison: &serving::Comparison| {
        *seen.lock().unwrap() = Some(comparison.clone());
        Some("mean weighted quantile loss 0.4 against 0.2, p 0.01 of 80 pairs".to_owned())
    }));
    world.config(&host, "new", &[("all", "2", 1.0)]);
    host.update_endpoint_by("e", "new", Some(canary(3600)), &[]).unwrap();
    let row = host.settled("e").await.unwrap();
    assert_eq!(row.config, "old");
    assert!(row.failure_reason.unwrap().contains("quantile loss 0.4"));
    let asked = asked.lock().unwrap().clone().unwrap();
    let one = |model: &str| vec![("all".to_owned(), model.to_owned())];
    assert_eq!((asked.old, asked.new), (one("old-all"), one("new-all")));
}

#[tokio::test]
async fn g4_an_update_that_ends_the_process_is_given_up() {
    let (world, ..) = world(quick());
    let host = served(&world).await;
    world.config(&host, "new", &[("all", "2", 1.0)]);
    host.update_endpoint_by("e", "new", Some(canary(3600)), &[]).unwrap();
    let mut host = host;
    for _ in 0..3 {
        drop(host);
        host = world.start();
        let row = host.endpoint("e").unwrap();
        assert_eq!((row.status, row.config.as_str()), (Status::Updating, "old"));
        mean(&host, "e").await.unwrap();
        while host.on_trial("e").is_none_or(|(_, share)| share == 0.0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    drop(host);
    let host = world.start();
    let row = host.settled("e").await.unwrap();
    assert_eq!((row.status, row.config.as_str()), (Status::InService, "old"));
    assert!(row.failure_reason.unwrap().contains("ended 4 times"));
    assert_eq!(mean(&host, "e").await.unwrap(), 1.0);
}

#[tokio::test]
async fn g5_a_new_model_that_never_ends_takes_no_thread_of_the_old_ones() {
    let (mut world, later, over) = world(Guard { patience: Duration::from_secs(3600), ..quick() });
    world.settings.threads = 1;
    let host = served(&world).await;
    world.config(&host, "new", &[("green", "2 never-ends-later", 1.0)]);
    host.update_endpoint_by("e", "new", Some(canary(3600)), &[]).unwrap();
    while mean(&host, "e").await.unwrap() != 2.0 {}
    later.store(true, Ordering::SeqCst);
    let to = |variant: &str| serving::Invocation {
        target_variant: Some(variant.to_owned()),
        ..ask("e")
    };
    let mut stuck = Vec::new();
    for _ in 0..3 {
        let host = Arc::clone(&host);
        stuck.push(tokio::spawn(async move { host.invoke(to("green")).await }));
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    for _ in 0..50 {
        assert_eq!(host.invoke(to("all")).await.unwrap().variant, "all");
    }
    host.rollback("e", "it hangs").unwrap();
    assert_eq!(host.settled("e").await.unwrap().config, "old");
    assert_eq!(mean(&host, "e").await.unwrap(), 1.0);
    over.store(true, Ordering::SeqCst);
    for answer in stuck {
        answer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn shadows_get_their_share_of_copies_and_answer_nobody() {
    let (world, later, over) = world(quick());
    let host = world.start();
    world.config(
        &host,
        "c",
        &[("all", "1", 1.0), ("s", "2", 0.0), ("t", "3 never-ends-later", 0.0)],
    );
    let mut variants: Vec<Variant> = host.config("c").unwrap().variants;
    variants[1].shadow = Some(0.25);
    variants[2].shadow = Some(1.0);
    host.create_config("shadowed", variants).unwrap();
    host.create_endpoint("e", "shadowed").unwrap();
    host.settled("e").await.unwrap();
    let mut due = [0; 2];
    for _ in 0..40 {
        for name in host.shadows_due("e") {
            due[usize::from(name == "t")] += 1;
            let answer = host.copy(ask("e"), &name).await.unwrap();
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            let value = if name == "s" { 2.0 } else { 3.0 };
            assert_eq!(
                (answer.variant, body["predictions"][0]["mean"][0].as_f64()),
                (name, Some(value))
            );
        }
        assert_eq!(mean(&host, "e").await.unwrap(), 1.0);
    }
    assert_eq!(due, [10, 40]);
    let to = |variant: &str| serving::Invocation {
        target_variant: Some(variant.to_owned()),
        ..ask("e")
    };
    assert_eq!(host.invoke(to("s")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(host.update_weights("e", &[("s".to_owned(), 1.0)]).is_err());
    // One that hangs holds up no answer; copies beyond its queue are left out.
    later.store(true, Ordering::SeqCst);
    let mut copies = Vec::new();
    for _ in 0..20 {
        let host = Arc::clone(&host);
        copies.push(tokio::spawn(async move { host.copy(ask("e"), "t").await }));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    for _ in 0..20 {
        assert_eq!(mean(&host, "e").await.unwrap(), 1.0);
    }
    over.store(true, Ordering::SeqCst);
    let mut refused = 0;
    for copy in copies {
        refused += usize::from(copy.await.unwrap().is_err());
    }
    assert!((8..=12).contains(&refused), "{refused}");
    let counts = host.counters();
    let shadow = counts.iter().find(|count| count.variant == "t").unwrap();
    assert!(shadow.shadow && shadow.refused == refused as u64, "{shadow:?}");
}

#[tokio::test]
async fn old_variants_on_hold_are_nobodys_to_ask_for() {
    let (world, ..) = world(quick());
    let host = served(&world).await;
    world.config(&host, "new", &[("other", "2", 1.0)]);
    let to = |variant: &str| serving::Invocation {
        target_variant: Some(variant.to_owned()),
        ..ask("e")
    };
    host.update_endpoint_by("e", "new", Some(canary(3600)), &[]).unwrap();
    while host.on_trial("e").is_none_or(|(_, share)| share == 0.0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for variant in ["all", "other"] {
        assert_eq!(host.invoke(to(variant)).await.unwrap().variant, variant);
    }
    host.rollback("e", "").unwrap();
    host.settled("e").await.unwrap();
    host.update_endpoint("e", "new").unwrap();
    host.settled("e").await.unwrap();
    assert!(host.on_trial("e").is_some());
    assert_eq!(host.invoke(to("all")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn g2_shares_of_a_rollout_are_kept_and_none_is_left_after_it_is_undone() {
    let (world, ..) = world(quick());
    let host = served(&world).await;
    world.config(&host, "new", &[("all", "2", 1.0)]);
    let rollout = Rollout { shares: vec![0.1, 1.0], ..canary(3600) };
    host.update_endpoint_by("e", "new", Some(rollout), &[]).unwrap();
    while mean(&host, "e").await.unwrap() != 2.0 {}
    let mut new = 0;
    for _ in 0..1000 {
        new += usize::from(mean(&host, "e").await.unwrap() == 2.0);
    }
    // Two of every twenty; the first and the last block are cut.
    assert!((97..=103).contains(&new), "{new}");
    host.rollback("e", "seen enough").unwrap();
    for _ in 0..100 {
        assert_eq!(mean(&host, "e").await.unwrap(), 1.0);
    }
}
