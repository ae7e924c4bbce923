//! Forecasts: their place in time, their seed, what they refuse.

use forecast::{PredictOptions, Predictor, TimeSeries};

use super::{hyper, sines, trained};

fn options() -> PredictOptions {
    PredictOptions { want_samples: true, ..PredictOptions::default() }
}

#[test]
fn forecasts_begin_where_the_target_ends() {
    let mut data = sines(3, 200);
    let model = trained(&hyper(&[]), &data);
    data.series[1].target.extend([f32::NAN, f32::NAN]);
    let forecasts = model.predict(&data.series, &options()).unwrap();
    assert_eq!(forecasts[0].start.to_string(), "2021-02-13 08:00:00");
    assert_eq!(forecasts[1].start.to_string(), "2021-02-13 10:00:00");
    assert_eq!(forecasts[2].item_id.as_deref(), Some("sensor 2"));
    for forecast in &forecasts {
        assert_eq!(forecast.mean.len(), 6);
        assert_eq!(forecast.samples.as_ref().unwrap().len(), 100);
        for pair in forecast.quantiles.windows(2) {
            assert!(pair[0].1.iter().zip(&pair[1].1).all(|(low, high)| low <= high));
        }
    }
}

#[test]
fn the_seed_decides_and_neighbours_do_not() {
    let data = sines(40, 200);
    let model = trained(&hyper(&[]), &data);
    let asked = |seed, num_samples| PredictOptions { seed, num_samples, ..options() };
    let all = model.predict(&data.series, &asked(Some(7), 50)).unwrap();
    assert_eq!(all, model.predict(&data.series, &asked(Some(7), 50)).unwrap());
    assert_ne!(all, model.predict(&data.series, &asked(Some(8), 50)).unwrap());
    assert_eq!(
        model.predict(&data.series[..2], &asked(None, 50)).unwrap(),
        model.predict(&data.series[..2], &asked(Some(0), 50)).unwrap()
    );
    // The first series alone, and among forty, is the same; so are the paths that fewer and
    // more samples share, whatever block they fall into.
    assert_eq!(all[0], model.predict(&data.series[..1], &asked(Some(7), 50)).unwrap()[0]);
    let few = model.predict(&data.series[..1], &asked(Some(7), 5)).unwrap();
    let (few, many) = (few[0].samples.as_ref().unwrap(), all[0].samples.as_ref().unwrap());
    for (few, many) in few.iter().flatten().zip(many[..5].iter().flatten()) {
        assert!((few - many).abs() <= 1e-4 * (1.0 + many.abs()));
    }
    for num_samples in [1, 15, 16, 17, 33, 100, 129] {
        let forecast = &model.predict(&data.series[..1], &asked(None, num_samples)).unwrap()[0];
        assert_eq!(forecast.samples.as_ref().unwrap().len(), num_samples);
    }
}

#[test]
fn nothing_below_zero_where_nothing_was() {
    let mut data = sines(3, 200);
    for series in &mut data.series {
        series.target.iter_mut().for_each(|z| *z = (*z - 12.0).max(0.0));
    }
    let model = trained(&hyper(&[]), &data);
    assert!(model.is_nonnegative());
    let least = |model: &deepar::Model, data: &forecast::Dataset| {
        let forecasts = model.predict(&data.series, &options()).unwrap();
        let samples = forecasts.iter().flat_map(|f| f.samples.as_ref().unwrap().iter().flatten());
        samples.fold(f32::INFINITY, |least, z| least.min(*z))
    };
    assert_eq!(least(&model, &data), 0.0);
    data.series[0].target[3] = -1.0;
    let model = trained(&hyper(&[]), &data);
    assert!(!model.is_nonnegative() && least(&model, &data) < 0.0);
}

#[test]
fn histories_of_every_length_are_forecast() {
    let data = sines(3, 200);
    let model = trained(&hyper(&[]), &data);
    for len in [0, 1, 2, 5, 11, 12, 13, 100] {
        let series = data.series[0].prefix(len, 0);
        let forecast = &model.predict(&[series], &options()).unwrap()[0];
        assert!(forecast.mean.iter().all(|z| z.is_finite()), "{len}");
    }
    let silent = TimeSeries { target: vec![f32::NAN; 30].into(), ..data.series[0].clone() };
    let forecast = &model.predict(&[silent], &options()).unwrap()[0];
    assert!(forecast.mean.iter().all(|z| z.is_finite() && *z > 0.0));
    assert!(model.predict(&[], &options()).unwrap().is_empty());
}

#[test]
fn categories_and_features_are_learnt_and_checked() {
    let mut data = sines(4, 300);
    for (k, series) in data.series.iter_mut().enumerate() {
        series.feat_static_cat = vec![k as u32 % 2, k as u32];
        // What the feature says, the target does: nothing else tells it.
        let feature: Vec<f32> = (0..306).map(|t| ((t * t) % 7) as f32).collect();
        series.target = feature[..300].iter().map(|f| 10.0 + f + 5.0 * (k % 2) as f32).collect();
        series.feat_dynamic_real = vec![feature.into()];
    }
    let settings = [
        ("epochs", "8"),
        ("windows_per_epoch", "2000"),
        ("learning_rate", "1e-2"),
        ("dropout_rate", "0"),
    ];
    let model = trained(&hyper(&settings), &data);
    assert_eq!((model.cardinality(), model.num_dynamic_feat()), (&[2, 4][..], 1));
    let forecasts = model.predict(&data.series, &options()).unwrap();
    for (series, forecast) in data.series.iter().zip(&forecasts) {
        let offset = 10.0 + 5.0 * series.feat_static_cat[0] as f32;
        for (mean, feature) in forecast.mean.iter().zip(&series.feat_dynamic_real[0][300..]) {
            assert!((mean - offset - feature).abs() < 1.0, "{mean} for {}", offset + feature);
        }
    }
    let error = |change: &dyn Fn(&mut TimeSeries)| {
        let mut series = data.series[0].clone();
        change(&mut series);
        model.predict(&[series], &options()).unwrap_err().to_string()
    };
    for (error, expect) in [
        (
            error(&|s| s.feat_static_cat.clear()),
            "series \"sensor 0\": has 0 values in cat, the model was trained with 2",
        ),
        (error(&|s| s.feat_static_cat[0] = 2), "cat[0] is 2, the model knows 0 to 1"),
        (
            error(&|s| s.feat_dynamic_real.clear()),
            "has 0 dynamic_feat, the model was trained with 1",
        ),
        (
            error(&|s| s.feat_dynamic_real[0].truncate(305)),
            "dynamic_feat[0] has 305 values; a target of 300 and 6 steps ahead need 306",
        ),
        (error(&|s| s.feat_dynamic_real[0][305] = f32::NAN), "dynamic_feat[0][305] is missing"),
        (error(&|s| s.target[0] = f32::INFINITY), "target[0] is not finite"),
    ] {
        assert!(error.contains(expect), "{error}");
    }
    // Told to ignore them, the model takes series with or without.
    let ignoring =
        trained(&hyper(&[("cardinality", "ignore"), ("num_dynamic_feat", "ignore")]), &data);
    assert!(ignoring.cardinality().is_empty());
    let bare =
        TimeSeries { feat_static_cat: vec![], feat_dynamic_real: vec![], ..data.series[0].clone() };
    assert_eq!(
        ignoring.predict(&[bare], &options()).unwrap()[0].mean,
        ignoring.predict(&data.series[..1], &options()).unwrap()[0].mean
    );
}

#[test]
fn options_out_of_range_are_refused() {
    let data = sines(2, 200);
    let model = trained(&hyper(&[]), &data);
    for bad in [
        PredictOptions { num_samples: 0, ..options() },
        PredictOptions { num_samples: usize::MAX, ..options() },
        PredictOptions { quantiles: vec![1.0], ..options() },
    ] {
        assert!(model.predict(&data.series, &bad).is_err());
    }
}
