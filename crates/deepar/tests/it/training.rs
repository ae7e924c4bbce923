//! Repeatable to the byte, and refusals for data nothing can be learnt from.

use base::ErrorKind;
use deepar::{Isa, TrainOptions, train};
use forecast::{
    Dataset, EpochReport, PredictOptions, SeasonalNaive, Silent, TrainingObserver, Values, backtest,
};

use super::{hyper, sines, trained};

#[test]
fn same_data_seed_and_threads_give_the_same_bytes() {
    let data = sines(4, 200);
    let hyper = hyper(&[("dropout_rate", "0.2")]);
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            let run = |seed| {
                let options = TrainOptions { seed, threads, isa };
                train(&hyper, &data, &options, &mut Silent).unwrap().to_files().unwrap()
            };
            assert!(run(1) == run(1), "{isa}, {threads} threads");
            assert!(run(1) != run(2), "{isa}: the seed does not matter");
        }
    }
}

#[test]
fn threads_and_instructions_change_rounding_only() {
    let data = sines(4, 200);
    let hyper = hyper(&[("epochs", "1")]);
    let mut losses = Vec::new();
    for isa in Isa::available() {
        for threads in [1, 2, 3, 64] {
            let options = TrainOptions { seed: 3, threads, isa };
            losses.push(train(&hyper, &data, &options, &mut Silent).unwrap().report().final_loss);
        }
    }
    for loss in &losses {
        assert!((loss / losses[0] - 1.0).abs() < 1e-4, "{losses:?}");
    }
}

#[test]
fn learns_a_sine() {
    let all = sines(4, 400);
    let history = Dataset {
        freq: all.freq,
        series: all.series.iter().map(|series| series.prefix(400 - 48, 0)).collect(),
    };
    for likelihood in ["student-T", "gaussian", "deterministic-L1"] {
        let hyper = hyper(&[
            ("likelihood", likelihood),
            ("epochs", "10"),
            ("num_cells", "24"),
            ("windows_per_epoch", "3000"),
            ("learning_rate", "5e-3"),
        ]);
        let model = trained(&hyper, &history);
        let options = PredictOptions::default();
        let ours = backtest(&model, &all, 8, 6, &options).unwrap();
        let naive = |season| {
            let naive = SeasonalNaive::new(all.freq, season, 6).unwrap();
            backtest(&naive, &all, 8, 6, &options).unwrap().nd
        };
        // Who knows nothing of the day is wrong by its amplitude, who knows it by the noise.
        assert!(ours.nd < 0.2 * naive(1), "{likelihood}: {} against {}", ours.nd, naive(1));
        assert!(ours.nd < 1.2 * naive(24), "{likelihood}: {} against {}", ours.nd, naive(24));
        let coverage = ours.coverage[8] - ours.coverage[0];
        assert!(
            likelihood == "deterministic-L1" || (0.55..=0.97).contains(&coverage),
            "{coverage}"
        );
    }
}

#[test]
fn counts_and_shares_have_their_laws() {
    let mut data = sines(4, 200);
    for series in &mut data.series {
        series.target.iter_mut().for_each(|z| *z = z.round());
    }
    let model = trained(&hyper(&[("likelihood", "negative-binomial")]), &data);
    let options = PredictOptions { want_samples: true, ..PredictOptions::default() };
    let forecast = &forecast::Predictor::predict(&model, &data.series, &options).unwrap()[3];
    for z in forecast.samples.as_ref().unwrap().iter().flatten() {
        assert!(*z >= 0.0 && (z - z.round()).abs() < 1e-3 * (1.0 + z), "{z} is no count");
    }
    for series in &mut data.series {
        series.target.iter_mut().for_each(|z| *z /= 100.0);
    }
    let model = trained(&hyper(&[("likelihood", "beta")]), &data);
    let forecast = &forecast::Predictor::predict(&model, &data.series, &options).unwrap()[0];
    assert!(forecast.samples.as_ref().unwrap().iter().flatten().all(|z| (0.0..=1.0).contains(z)));

    data.series[2].target[7] = 1.5;
    for (likelihood, expect) in [
        ("beta", "series \"sensor 2\": target 1.5 does not suit likelihood beta"),
        ("negative-binomial", "does not suit likelihood negative-binomial, which takes counts"),
    ] {
        let hyper = hyper(&[("likelihood", likelihood)]);
        let error = train(&hyper, &data, &TrainOptions::default(), &mut Silent).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }
}

#[test]
fn early_stopping_holds_back_and_keeps_the_best() {
    let data = sines(3, 200);
    let settings = [("epochs", "60"), ("learning_rate", "0.5"), ("early_stopping_patience", "2")];
    let model = trained(&hyper(&settings), &data);
    let report = model.report();
    assert!(report.epochs < 60, "a step size of 0.5 never settles");
    assert!(report.stopped.as_deref().unwrap().contains("no progress in 2 epochs"));
    let best = report
        .log
        .iter()
        .min_by(|a, b| a.validation_loss.unwrap().total_cmp(&b.validation_loss.unwrap()));
    let best = best.unwrap();
    assert_eq!((report.best_epoch, report.final_loss), (best.epoch, best.validation_loss.unwrap()));
}

#[test]
fn an_observer_can_stop_a_training() {
    struct After(u32);
    impl TrainingObserver for After {
        fn epoch(&mut self, _: &EpochReport) {
            self.0 = self.0.saturating_sub(1);
        }
        fn should_stop(&mut self) -> bool {
            self.0 == 0
        }
    }
    let data = sines(2, 200);
    let run = |epochs| train(&hyper(&[]), &data, &TrainOptions::default(), &mut After(epochs));
    let model = run(1).unwrap();
    assert_eq!(
        (model.report().epochs, model.report().stopped.as_deref()),
        (1, Some("asked to stop"))
    );
    assert_eq!(run(0).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn data_nothing_can_be_learnt_from_are_refused() {
    let refusal = |change: &dyn Fn(&mut Dataset)| {
        let mut data = sines(3, 200);
        change(&mut data);
        train(&hyper(&[]), &data, &TrainOptions::default(), &mut Silent).unwrap_err().to_string()
    };
    let each = |f: fn(&mut Values)| {
        move |data: &mut Dataset| data.series.iter_mut().for_each(|s| f(&mut s.target))
    };
    for (error, expect) in [
        (
            refusal(&|data| data.series.clear()),
            "0 observed points in 0 series; DeepAR needs at least 300",
        ),
        (refusal(&each(|target| target.fill(f32::NAN))), "0 observed points in 3 series"),
        (refusal(&each(|target| target.truncate(99))), "297 observed points"),
        (refusal(&each(|target| target.truncate(1))), "3 observed points"),
        (refusal(&each(|target| target.fill(3e30))), "too large; rescale the data"),
        (refusal(&each(|target| target[5] = f32::INFINITY)), "target[5] is not finite"),
        (refusal(&|data| data.freq = "D".parse().unwrap()), "the data are at 1D, time_freq is 1H"),
        (refusal(&|data| data.series[1].feat_static_cat.push(3)), "has 1 values in cat"),
        (
            refusal(&|data| {
                data.series.iter_mut().for_each(|s| s.feat_static_cat = vec![u32::MAX])
            }),
            "cat[0] is as large as 4294967295",
        ),
    ] {
        assert!(error.contains(expect), "{error}");
    }
    let many = sines(100, 5);
    let error = train(&hyper(&[]), &many, &TrainOptions::default(), &mut Silent).unwrap_err();
    assert!(
        error.to_string().contains("every series is shorter than prediction_length 6"),
        "{error}"
    );
    let wide =
        hyper(&[("num_cells", "1024"), ("num_layers", "16"), ("embedding_dimension", "1000")]);
    let mut data = sines(3, 200);
    data.series.iter_mut().for_each(|series| series.feat_static_cat = vec![900_000]);
    let error = train(&wide, &data, &TrainOptions::default(), &mut Silent).unwrap_err();
    assert!(error.to_string().contains("parameters, at most"), "{error}");
    let long = hyper(&[("num_cells", "1024"), ("context_length", "10000")]);
    let error = train(&long, &sines(3, 200), &TrainOptions::default(), &mut Silent).unwrap_err();
    assert!(error.to_string().contains("MiB, at most 2048; lower context_length"), "{error}");
}

#[test]
fn odd_data_give_a_finite_model() {
    let with = |change: &dyn Fn(usize, &mut f32)| {
        let mut data = sines(3, 200);
        for series in &mut data.series {
            series.target.iter_mut().enumerate().for_each(|(t, z)| change(t, z));
        }
        data
    };
    let mut ragged = sines(3, 300);
    ragged.series[0].target.truncate(2);
    ragged.series[1].target.truncate(6);
    for (name, data) in [
        ("constant", with(&|_, z| *z = 5.0)),
        ("zeros", with(&|_, z| *z = 0.0)),
        ("huge", with(&|_, z| *z *= 1e28)),
        ("tiny", with(&|_, z| *z *= 1e-35)),
        ("sparse", with(&|t, z| *z = if t % 50 == 0 { 1e6 } else { 0.0 })),
        ("gappy", with(&|t, z| *z = if t % 3 == 0 && t > 100 { f32::NAN } else { *z })),
        ("leading gap", with(&|t, z| *z = if t < 90 { f32::NAN } else { *z })),
        ("ragged", ragged),
    ] {
        for likelihood in ["student-T", "gaussian"] {
            let model = trained(&hyper(&[("likelihood", likelihood)]), &data);
            let forecasts =
                forecast::Predictor::predict(&model, &data.series, &PredictOptions::default())
                    .unwrap();
            for forecast in forecasts {
                let all =
                    forecast.quantiles.iter().flat_map(|(_, values)| values).chain(&forecast.mean);
                assert!(all.clone().all(|z| z.is_finite()), "{name}, {likelihood}: {forecast:?}");
            }
        }
    }
}

#[test]
fn every_frequency_trains() {
    for freq in ["min", "15min", "H", "2H", "D", "W", "M", "7M"] {
        let mut data = sines(2, 200);
        data.freq = freq.parse().unwrap();
        let model = trained(&hyper(&[("time_freq", freq), ("epochs", "1")]), &data);
        assert!(model.report().final_loss.is_finite(), "{freq}");
    }
}

#[test]
fn the_smallest_network_and_horizon_work() {
    let data = sines(2, 200);
    let settings = [
        ("context_length", "1"),
        ("prediction_length", "1"),
        ("num_cells", "1"),
        ("num_layers", "1"),
        ("mini_batch_size", "1"),
        ("dropout_rate", "0"),
    ];
    let model = trained(&hyper(&settings), &data);
    let options = PredictOptions { num_samples: 1, ..PredictOptions::default() };
    let forecasts = forecast::Predictor::predict(&model, &data.series, &options).unwrap();
    assert!(forecasts[1].mean[0].is_finite());
}

#[test]
fn where_the_values_lie_changes_nothing() {
    let mut own = sines(3, 300);
    own.series[1].target[40..90].fill(f32::NAN);
    own.series.iter_mut().for_each(|s| s.feat_dynamic_real = vec![s.target[..].repeat(2).into()]);
    own.series[1].feat_dynamic_real[0].fill(2.0);
    let mut shared = own.clone();
    let all = |series: &forecast::TimeSeries| {
        [&series.target, &series.feat_dynamic_real[0]].map(|values| values.to_vec()).concat()
    };
    let block = std::sync::Arc::new(own.series.iter().flat_map(all).collect::<Vec<f32>>());
    for (k, series) in shared.series.iter_mut().enumerate() {
        series.target = Values::shared(block.clone(), k * 900, 300);
        series.feat_dynamic_real = vec![Values::shared(block.clone(), k * 900 + 300, 600)];
    }
    let [a, b] = [&own, &shared].map(|data| trained(&hyper(&[]), data));
    assert!(a.to_files().unwrap() == b.to_files().unwrap());
    let forecasts = |model: &deepar::Model, data: &Dataset| {
        forecast::Predictor::predict(model, &data.series, &PredictOptions::default()).unwrap()
    };
    assert_eq!(forecasts(&a, &own), forecasts(&b, &shared));
}
