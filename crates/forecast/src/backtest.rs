//! Forecasts the past and compares.

use base::{Error, Result};

use crate::metrics::{Scorer, Scores};
use crate::predict::{PredictOptions, Predictor};
use crate::series::{Dataset, TimeSeries};

/// Scores `predictor` on the last `windows * prediction_length` points of every series:
/// window w of `windows` is forecast from the true history up to
/// `len - prediction_length * (windows - w)`, without refitting (rolling origin).
///
/// A series too short for a window, leaving no history, sits that window out; a data set in
/// which all do is refused. The levels scored are `options.quantiles`.
///
/// ```
/// use forecast::{Dataset, Frequency, PredictOptions, SeasonalNaive, TimeSeries, backtest};
///
/// let target = (0..24 * 14).map(|hour| (hour % 24) as f32).collect();
/// let series = vec![TimeSeries { target, ..TimeSeries::default() }];
/// let data = Dataset { freq: Frequency::HOURLY, series };
/// let naive = SeasonalNaive::for_freq(Frequency::HOURLY, 24)?;
/// let scores = backtest(&naive, &data, 7, 24, &PredictOptions::default())?;
/// assert_eq!((scores.windows, scores.points, scores.nd), (7, 168, 0.0));
/// # Ok::<(), base::Error>(())
/// ```
pub fn backtest(
    predictor: &dyn Predictor,
    dataset: &Dataset,
    windows: usize,
    prediction_length: usize,
    options: &PredictOptions,
) -> Result<Scores> {
    check(predictor, dataset, windows, prediction_length)?;
    let mut scorer = Scorer::new(&options.quantiles, dataset.freq.season())?;
    let mut asked = options.clone();
    if !asked.quantiles.contains(&0.5) {
        asked.quantiles.push(0.5);
    }
    for series in &dataset.series {
        let len = series.target.len();
        // Features go on over the predictor's whole horizon, which may pass the window.
        let fitting = windows.min(len / prediction_length);
        let origins: Vec<usize> = (1..=fitting)
            .rev()
            .map(|back| len - back * prediction_length)
            .filter(|origin| *origin > 0 && features_reach(predictor, series, *origin))
            .collect();
        let histories: Vec<TimeSeries> = origins
            .iter()
            .map(|origin| series.prefix(*origin, predictor.prediction_length()))
            .collect();
        let forecasts = predictor.predict(&histories, &asked)?;
        for (origin, forecast) in origins.iter().zip(&forecasts) {
            let truth = &series.target[*origin..*origin + prediction_length];
            scorer.add(&series.target[..*origin], truth, forecast)?;
        }
    }
    let scores = scorer.finish();
    if scores.windows == 0 {
        return Err(Error::invalid(format!(
            "no series is longer than the {windows} windows of {prediction_length} steps to forecast"
        )));
    }
    Ok(scores)
}

fn features_reach(predictor: &dyn Predictor, series: &TimeSeries, origin: usize) -> bool {
    let needed = origin + predictor.prediction_length();
    series.feat_dynamic_real.iter().all(|feature| feature.len() >= needed)
}

fn check(
    predictor: &dyn Predictor,
    dataset: &Dataset,
    windows: usize,
    horizon: usize,
) -> Result<()> {
    if windows == 0 || horizon == 0 {
        return Err(Error::invalid(format!("a backtest of {windows} windows of {horizon} steps")));
    }
    if horizon > predictor.prediction_length() {
        let max = predictor.prediction_length();
        return Err(Error::invalid(format!(
            "windows of {horizon} steps, but the model forecasts {max}"
        )));
    }
    if dataset.freq != predictor.freq() {
        let (data, model) = (dataset.freq, predictor.freq());
        return Err(Error::invalid(format!("data at {data}, but the model forecasts at {model}")));
    }
    Ok(())
}
