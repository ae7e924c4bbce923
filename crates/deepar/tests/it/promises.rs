//! Promises F2 and F3: the same bytes whatever interrupted a training, and nothing but a
//! refusal or finite forecasts from whatever data.

use std::collections::BTreeSet;

use deepar::{Isa, Likelihood, TABLE, TrainOptions, train};
use forecast::{Dataset, PredictOptions, Predictor, Silent, TimeSeries, TrainingObserver};

use super::{hyper, sines};

/// Takes a checkpoint every `every` steps, and hands one over at the start.
#[derive(Default)]
struct Keeper {
    every: usize,
    asked: usize,
    kept: Vec<Vec<u8>>,
    given: Option<Vec<u8>>,
    notes: Vec<String>,
}

impl TrainingObserver for Keeper {
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    fn resume(&mut self) -> Option<Vec<u8>> {
        self.given.take()
    }

    fn wants_checkpoint(&mut self) -> bool {
        self.asked += 1;
        self.every > 0 && self.asked.is_multiple_of(self.every)
    }

    fn checkpoint(&mut self, state: &[u8]) {
        self.kept.push(state.to_vec());
    }
}

#[test]
fn f2_a_training_goes_on_from_any_checkpoint_to_the_same_bytes() {
    let data = sines(4, 200);
    for more in [
        &[("dropout_rate", "0.2")][..],
        &[("learning_rate_schedule", "plateau"), ("learning_rate", "0.1")],
        &[("early_stopping_patience", "2"), ("likelihood", "gaussian")],
        &[("recipe", "deepar-plus"), ("ensemble_size", "2"), ("early_stopping_patience", "1")],
    ] {
        let hyper = hyper(&[more, &[("epochs", "14"), ("windows_per_epoch", "120")]].concat());
        for (isa, threads) in
            Isa::available().into_iter().map(|isa| (isa, 1)).chain([(Isa::detect(), 2)])
        {
            let options = TrainOptions { seed: 5, threads, isa };
            let run = |keeper: &mut Keeper| {
                train(&hyper, &data, &options, keeper).unwrap().to_files().unwrap()
            };
            // Every step, so also the last of an epoch, where the next one has to judge it.
            let mut whole = Keeper { every: 1, ..Keeper::default() };
            let files = run(&mut whole);
            assert!(files == run(&mut Keeper::default()), "watching changes the model");
            assert!(whole.kept.len() > 9);
            for state in whole.kept.iter().step_by(5) {
                let mut again = Keeper { given: Some(state.clone()), ..Keeper::default() };
                assert!(files == run(&mut again), "{isa}, {threads} threads, {more:?}");
                assert!(
                    again.notes[0].starts_with("Going on from a checkpoint"),
                    "{:?}",
                    again.notes
                );
            }
        }
    }
}

#[test]
fn f2_a_foreign_or_damaged_checkpoint_is_left_aside() {
    let data = sines(3, 200);
    let options = TrainOptions::default();
    let mut keeper = Keeper { every: 3, ..Keeper::default() };
    let files = train(&hyper(&[]), &data, &options, &mut keeper).unwrap().to_files().unwrap();
    let state = keeper.kept[1].clone();
    let mut other = data.clone();
    other.series[0].target[5] += 1.0;
    let mut bent = state.clone();
    bent[200] ^= 1;
    let more = TrainOptions { threads: 2, ..options.clone() };
    let seed = TrainOptions { seed: 1, ..options.clone() };
    let slower = hyper(&[("learning_rate", "2e-3")]);
    for (hyper, data, options, state, word) in [
        (&hyper(&[]), &other, &options, &state, "other data"),
        (&slower, &data, &options, &state, "other data, settings"),
        (&hyper(&[]), &data, &more, &state, "threads"),
        (&hyper(&[]), &data, &seed, &state, "seed"),
        (&hyper(&[]), &data, &options, &bent, "damaged"),
        (&hyper(&[]), &data, &options, &b"nonsense".to_vec(), "damaged"),
    ] {
        let mut resumed = Keeper { given: Some(state.clone()), ..Keeper::default() };
        let made = train(hyper, data, options, &mut resumed).unwrap().to_files().unwrap();
        let fresh = train(hyper, data, options, &mut Silent).unwrap().to_files().unwrap();
        assert!(made == fresh, "{word}: the checkpoint got in");
        assert!(resumed.notes[0].contains(word), "{word}: {:?}", resumed.notes);
    }
    assert!(files == train(&hyper(&[]), &data, &options, &mut Silent).unwrap().to_files().unwrap());
}

/// Series no sensor should send, by name. `share` asks for values a beta law takes.
fn degenerate(share: bool) -> Vec<(&'static str, Vec<Vec<f32>>)> {
    let unit = if share { 0.01 } else { 1.0 };
    let made = |len: usize, value: &dyn Fn(usize) -> f32| -> Vec<f32> {
        (0..len).map(|t| value(t) * unit).collect()
    };
    let daily = |t: usize| ((t % 24) as f32 + 1.0).round();
    let good = || made(400, &daily);
    let missing = || vec![f32::NAN; 400];
    vec![
        ("nothing at all", vec![]),
        ("empty", vec![vec![]]),
        ("empty among good", vec![vec![], good()]),
        ("all missing", vec![missing()]),
        ("all missing among good", vec![missing(), good(), missing()]),
        ("one point", vec![vec![unit]]),
        ("one point among good", vec![good(), vec![unit]]),
        ("many of one point", vec![vec![unit]; 400]),
        (
            "one observed in a gap",
            vec![(0..400).map(|t| if t == 200 { unit } else { f32::NAN }).collect(), good()],
        ),
        ("infinite", vec![made(400, &|t| if t == 7 { f32::INFINITY } else { 1.0 })]),
        ("minus infinite", vec![made(400, &|t| if t == 7 { f32::NEG_INFINITY } else { 1.0 })]),
        ("constant", vec![made(400, &|_| 5.0)]),
        ("all zero", vec![made(400, &|_| 0.0)]),
        ("zero among good", vec![made(400, &|_| 0.0), good()]),
        ("one giant", vec![made(400, &|t| if t == 200 { 1e20 } else { daily(t) })]),
        ("one giant count", vec![made(400, &|t| if t == 200 { 1e9 } else { daily(t) })]),
        ("largest floats", vec![made(400, &|_| f32::MAX)]),
        (
            "mixed scales",
            vec![made(400, &|t| 1e-20 * daily(t)), made(400, &|t| 1e20 * daily(t)), good()],
        ),
        ("mixed scales in one", vec![made(400, &|t| if t < 200 { 1e-20 } else { 1e20 })]),
        ("tiny", vec![made(400, &|_| 1e-38)]),
        ("denormal", vec![made(400, &|_| 1e-42)]),
        ("counts", vec![made(400, &|t| (t * 7 % 5) as f32)]),
        ("rare counts", vec![made(400, &|t| f32::from(t % 97 == 0))]),
        ("ends of the share", vec![(0..400).map(|t| f32::from(t % 2 == 0)).collect()]),
        ("only ones", vec![vec![1.0; 400]]),
        ("negative", vec![made(400, &|t| -daily(t))]),
        ("alternating signs", vec![made(400, &|t| if t % 2 == 0 { 1e6 } else { -1e6 })]),
        ("shorter than the horizon", vec![made(5, &daily), good(), made(3, &daily)]),
        ("all shorter than the horizon", vec![made(5, &daily); 100]),
        ("exactly the horizon", vec![made(6, &daily); 60]),
        ("every other missing", vec![made(800, &|t| if t % 2 == 0 { f32::NAN } else { daily(t) })]),
    ]
}

#[test]
fn f3_degenerate_series_are_refused_clearly_or_forecast_finitely() {
    let mut refused = BTreeSet::new();
    let mut learnt = 0;
    for likelihood in Likelihood::ALL {
        let name = likelihood.name();
        for (kind, targets) in degenerate(likelihood == Likelihood::Beta) {
            let series = targets
                .into_iter()
                .map(|target| TimeSeries { target: target.into(), ..TimeSeries::default() });
            let data = Dataset { freq: "H".parse().unwrap(), series: series.collect() };
            for (patience, recipe) in [("", "deepar"), ("1", "deepar"), ("", "deepar-plus")] {
                let settings = [
                    ("likelihood", name),
                    ("early_stopping_patience", patience),
                    ("recipe", recipe),
                    ("ensemble_size", if recipe == "deepar" { "1" } else { "2" }),
                    ("epochs", "3"),
                    // What runs away does so at a high rate.
                    ("learning_rate", "0.05"),
                ];
                let model =
                    match train(&hyper(&settings), &data, &TrainOptions::default(), &mut Silent) {
                        Ok(model) => model,
                        Err(error) => {
                            let text = error.to_string();
                            assert_eq!(
                                error.kind(),
                                base::ErrorKind::Invalid,
                                "{name}, {kind}: {text}"
                            );
                            assert!(!text.contains("NaN"), "{name}, {kind}: {text}");
                            refused.insert(format!("{kind}: {name}"));
                            continue;
                        }
                    };
                learnt += 1;
                // The artifact holds no NaN: loading checks each weight.
                let model = deepar::Model::from_files(&model.to_files().unwrap())
                    .unwrap_or_else(|error| panic!("{name}, {kind}: {error}"));
                let options = PredictOptions {
                    want_samples: true,
                    want_parameters: true,
                    num_samples: 40,
                    ..PredictOptions::default()
                };
                for forecast in model.predict(&data.series, &options).unwrap() {
                    let samples = forecast.samples.iter().flatten().flatten();
                    let quantiles = forecast.quantiles.iter().flat_map(|(_, values)| values);
                    let laws = forecast.parameters.iter().flat_map(|law| &law.values);
                    let laws = laws.flat_map(|(_, values)| values);
                    let all = forecast.mean.iter().chain(samples).chain(quantiles).chain(laws);
                    assert!(all.clone().all(|z| z.is_finite()), "{name}, {kind}: {forecast:?}");
                }
            }
        }
    }
    assert!(learnt > 120, "{learnt}");
    // What every law must refuse, and what a law that is no counter's must not.
    for kind in [
        "nothing at all",
        "empty",
        "all missing",
        "one point",
        "infinite",
        "all shorter than the horizon",
    ] {
        for likelihood in Likelihood::ALL {
            assert!(
                refused.contains(&format!("{kind}: {}", likelihood.name())),
                "{kind}: {refused:?}"
            );
        }
    }
    for kind in [
        "constant",
        "all zero",
        "one giant",
        "mixed scales",
        "tiny",
        "negative",
        "ends of the share",
    ] {
        for law in ["student-T", "gaussian", "deterministic-L1"] {
            assert!(!refused.contains(&format!("{kind}: {law}")), "{kind}: {law} was refused");
        }
    }
    assert!(
        !refused.contains("ends of the share: beta")
            && !refused.contains("counts: negative-binomial")
    );
}

#[test]
fn every_hyperparameter_out_of_range_is_refused_by_name_value_and_range() {
    let good =
        [("time_freq", "H"), ("context_length", "12"), ("prediction_length", "6"), ("epochs", "1")];
    for (name, default, range) in TABLE {
        let bad: &[&str] = match *name {
            // Empty means something for these.
            "cardinality" | "num_dynamic_feat" | "early_stopping_patience" => {
                &["[0]", "-1", "x", "1e99", "[1.5]"]
            }
            "_tuning_objective_metric" => &["x", "test:MAPE"],
            _ => &[
                "",
                "-1",
                "x",
                "NaN",
                "inf",
                "1e99",
                "[0]",
                "[2]",
                "99999999999999999999",
                "\u{0}",
            ],
        };
        for bad in bad {
            let others = good.into_iter().filter(|(known, _)| known != name);
            let given = others.chain([(*name, *bad)]);
            let error = deepar::Hyperparameters::parse(given).unwrap_err();
            assert_eq!(error.kind(), base::ErrorKind::Invalid);
            let expect = format!("hyperparameter {name} is \"{bad}\"; allowed: {range}");
            assert_eq!(error.to_string(), expect);
        }
        if default.is_none() {
            let given = good.iter().filter(|(known, _)| known != name);
            let error = deepar::Hyperparameters::parse(given.copied()).unwrap_err().to_string();
            assert_eq!(error, format!("hyperparameter {name} is required: {range}"));
        }
    }
}
