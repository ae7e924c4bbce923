//! The improved recipe: an ensemble over centred windows, with calibrated bands.

use deepar::{Hyperparameters, Model, TrainOptions, train};
use forecast::{
    Dataset, Frequency, PredictOptions, Predictor, SeasonalNaive, TimeSeries, backtest,
};

use super::{hyper, sines, trained};

fn plus(more: &[(&str, &str)]) -> Hyperparameters {
    hyper(&[&[("recipe", "deepar-plus"), ("likelihood", "gaussian")], more].concat())
}

#[test]
fn members_share_the_paths_and_travel_with_the_model() {
    let data = sines(3, 200);
    let model = trained(&plus(&[("ensemble_size", "3")]), &data);
    let back = Model::from_files(&model.to_files().unwrap()).unwrap();
    for num_samples in [1, 2, 7, 100] {
        let options = PredictOptions { num_samples, want_samples: true, ..Default::default() };
        let made = model.predict(&data.series, &options).unwrap();
        assert_eq!(made, back.predict(&data.series, &options).unwrap());
        assert!(made.iter().all(|f| f.samples.as_ref().unwrap().len() == num_samples));
    }
    // A member more or less is another model, and so is each member.
    let alone = trained(&plus(&[("ensemble_size", "1"), ("windows_per_epoch", "80")]), &data);
    let names = |model: &Model| {
        let files = model.to_files().unwrap();
        let weights = files.into_iter().find(|(name, _)| name.ends_with(".safetensors")).unwrap().1;
        let tensors = safetensors::SafeTensors::deserialize(&weights).unwrap();
        let mut names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
        names.sort();
        let heads: Vec<Vec<u8>> = names
            .iter()
            .filter(|name| name.ends_with("head.weight"))
            .map(|name| tensors.tensor(name).unwrap().data().to_vec())
            .collect();
        (names, heads)
    };
    let (several, heads) = names(&model);
    assert_eq!(several.len(), 3 * names(&alone).0.len());
    assert!(several.contains(&"member.2.head.skip".to_owned()), "{several:?}");
    assert!(heads[0] != heads[1] && heads[1] != heads[2]);
    // The first member is what a model of one is after as many windows.
    assert_eq!(names(&alone).1[0], heads[0]);
}

#[test]
fn an_ensemble_counts_its_epochs_through_and_stops_where_it_is_told() {
    struct StopAfter(u32);
    impl forecast::TrainingObserver for StopAfter {
        fn epoch(&mut self, report: &forecast::EpochReport) {
            assert_eq!(report.epochs, 6);
            assert!(report.epoch < report.epochs);
            self.0 -= 1;
        }
        fn should_stop(&mut self) -> bool {
            self.0 == 0
        }
    }
    let data = sines(3, 200);
    let hyper = plus(&[("ensemble_size", "2")]);
    let whole = train(&hyper, &data, &TrainOptions::default(), &mut StopAfter(99)).unwrap();
    let epochs: Vec<u32> = whole.report().log.iter().map(|epoch| epoch.epoch).collect();
    assert_eq!(epochs, [0, 1, 2, 3, 4, 5]);
    assert_eq!(whole.report().windows, 2 * 3 * 120);
    for (after, members) in [(2, 1), (3, 1), (4, 2)] {
        let part = train(&hyper, &data, &TrainOptions::default(), &mut StopAfter(after)).unwrap();
        assert_eq!(part.hyperparameters().ensemble_size, members, "stopped after {after}");
        assert_eq!(part.report().stopped.as_deref(), Some("asked to stop"));
        Model::from_files(&part.to_files().unwrap()).unwrap();
    }
}

/// A sine whose level jumps in the middle, and again by less: what a mean over the context
/// smears out.
fn shifting(len: usize) -> Dataset {
    let mut data = sines(4, len);
    for series in &mut data.series {
        let level = series.target[0];
        for (t, z) in series.target.iter_mut().enumerate() {
            *z += level
                * if t > len * 3 / 4 {
                    9.0
                } else if t > len / 3 {
                    6.0
                } else {
                    0.0
                };
        }
    }
    data
}

#[test]
fn a_sine_with_a_level_shift_beats_naive() {
    let test = shifting(1200);
    let cut = |series: &TimeSeries| series.prefix(series.target.len() - 96, 0);
    let data = Dataset { freq: test.freq, series: test.series.iter().map(cut).collect() };
    for likelihood in ["gaussian", "student-T"] {
        let settings = [
            ("likelihood", likelihood),
            ("context_length", "24"),
            ("prediction_length", "24"),
            ("epochs", "10"),
            ("windows_per_epoch", "3200"),
            ("ensemble_size", "2"),
        ];
        let model = trained(&plus(&settings), &data);
        let options = PredictOptions::default();
        let ours = backtest(&model, &test, 4, 24, &options).unwrap();
        let naive = SeasonalNaive::new(Frequency::HOURLY, 24, 24).unwrap();
        let naive = backtest(&naive, &test, 4, 24, &options).unwrap();
        let (ours_loss, naive_loss) = (ours.mean_w_quantile_loss, naive.mean_w_quantile_loss);
        assert!(ours_loss < 0.9 * naive_loss, "{likelihood}: {ours_loss} {naive_loss}");
        let inside = ours.coverage[8] - ours.coverage[0];
        assert!((0.6..0.98).contains(&inside), "{likelihood}: {inside} in the 80 % band");
    }
}

#[test]
fn a_cold_start_is_on_the_level_of_the_others() {
    let data = sines(3, 400);
    let model = trained(&plus(&[("epochs", "6")]), &data);
    let nothing = TimeSeries { target: vec![f32::NAN; 3].into(), ..data.series[0].clone() };
    let one = TimeSeries { target: vec![20.0].into(), ..data.series[0].clone() };
    let none = TimeSeries { target: Vec::new().into(), ..data.series[0].clone() };
    let made = model.predict(&[nothing, one, none], &PredictOptions::default()).unwrap();
    for (k, forecast) in made.iter().enumerate() {
        let (low, high) = (forecast.quantile(0.1).unwrap(), forecast.quantile(0.9).unwrap());
        for (step, (low, high)) in low.iter().zip(&high).enumerate() {
            assert!(*low >= 0.0 && low < high && *high < 200.0, "{k}, {step}: {low} to {high}");
        }
    }
    // Twenty was seen: the first step is near it.
    assert!((made[1].quantile(0.5).unwrap()[0] - 20.0).abs() < 10.0, "{:?}", made[1].mean);
}
