//! `train`, `forecast` and `backtest` on files, no server needed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use base::Error;
use charts::{Band, Frame, Ink, fan};
use forecast::{Dataset, PredictOptions, Predictor, Scores, SeasonalNaive, TimeSeries};
use serde_json::{Value, json};
use training::{TrainSpec, channel};

use crate::args;
use crate::exit::{Exit, FAILED, OK};
use crate::output::Printer;

/// Points of history in a chart.
const CHART_POINTS: usize = 60;

/// Trains in this process: there is no server to protect.
pub(crate) fn train(args: args::Train, printer: Printer) -> Result<u8> {
    let model = match (args.reproduce, args.model) {
        (Some(model), _) => {
            return reproduce(&model, &args.train, args.test.as_deref(), printer);
        }
        (None, Some(model)) => model,
        (None, None) => return Err(Exit::usage("give --model or --reproduce").into()),
    };
    let algorithm = args.algorithm.parse();
    let spec = TrainSpec {
        train: args.train,
        test: args.test,
        algorithm: algorithm.map_err(|error: Error| Exit::usage(error.to_string()))?,
        hyperparameters: hyperparameters(&args.hyperparameters)?,
        seed: args.seed,
        threads: args.threads,
        model,
        windows: 1,
    };
    let result = training::job::run(&spec, &base::SystemClock, &mut |line| printer.note(line))?;
    let shown = serde_json::to_value(&result)?;
    printer.answer(&shown, || {
        let learnt = match result.final_loss {
            Some(loss) => format!("{} windows, final loss {loss:.4}", result.windows),
            None => "nothing to learn".to_owned(),
        };
        format!(
            "{}: {learnt}, in {:.1} s ({:.1} CPU s)",
            spec.model.display(),
            result.wall_seconds,
            result.cpu_seconds,
        )
    });
    Ok(OK)
}

/// Makes a model again; failed unless it came out the same.
fn reproduce(model: &Path, train: &Path, test: Option<&Path>, printer: Printer) -> Result<u8> {
    let told = training::reproduce(model, train, test, &base::SystemClock, &mut |line| {
        printer.note(line);
    })?;
    let mut shown = serde_json::to_value(&told)?;
    shown["model"] = json!(model.display().to_string());
    printer.answer(&shown, || {
        let verdict = match (told.identical, told.compared.is_empty()) {
            (true, _) => format!("made again, byte for byte: {}", told.compared.join(", ")),
            (false, true) => "cannot come out again, so nothing was trained".to_owned(),
            (false, false) => "came out differently".to_owned(),
        };
        let changed = told.changes.iter().map(|change| {
            format!(
                "\n  {}\n    in the model: {}\n    now: {}",
                change.what, change.model, change.now
            )
        });
        let left = told.not_compared.iter().map(|what| format!("\n  not compared: {what}"));
        let more: String = changed.chain(left).collect();
        format!("{}: {verdict}{more}", model.display())
    });
    Ok(if told.identical { OK } else { FAILED })
}

/// `k=v` words; a later one wins.
fn hyperparameters(words: &[String]) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| {
            Exit::usage(format!("hyperparameter {word:?} is not of the form name=value"))
        })?;
        map.insert(name.to_owned(), value.to_owned());
    }
    Ok(map)
}

/// A model and the series it is asked about.
pub(crate) fn load(model: &Path, input: &Path) -> Result<(Box<dyn Predictor>, Dataset)> {
    let model = training::load(model)?;
    let dataset = channel::read(input, model.freq())?;
    if dataset.series.is_empty() {
        return Err(Error::invalid(format!("{} holds no series", input.display())).into());
    }
    Ok((model, dataset))
}

/// Forecasts every series: JSON lines in DeepAR's answer form, or charts on a terminal.
pub(crate) fn forecast(args: &args::Forecast, printer: Printer) -> Result<()> {
    let (model, dataset) = load(&args.model, &args.input)?;
    let levels = args.quantiles.iter().map(|level| {
        level.parse::<f64>().map_err(|e| Exit::usage(format!("quantile {level:?}: {e}")))
    });
    let options = PredictOptions {
        num_samples: args.num_samples,
        seed: args.seed,
        quantiles: levels.collect::<Result<Vec<_>, _>>()?,
        ..PredictOptions::default()
    };
    options.validate()?;
    let charts = !printer.is_json() && std::io::IsTerminal::is_terminal(&std::io::stdout());
    for (index, series) in dataset.series.iter().enumerate() {
        let forecasts = model.predict(std::slice::from_ref(series), &options)?;
        for forecast in &forecasts {
            if charts {
                printer.line(&chart(series, index, forecast, printer.color()));
            } else {
                printer.line(&as_json(series, forecast, &args.quantiles).to_string());
            }
        }
    }
    Ok(())
}

fn as_json(series: &TimeSeries, forecast: &forecast::Forecast, levels: &[String]) -> Value {
    let quantiles: serde_json::Map<String, Value> = levels
        .iter()
        .zip(&forecast.quantiles)
        .map(|(name, (_, values))| (name.clone(), json!(values)))
        .collect();
    json!({
        "item_id": series.item_id,
        "start": forecast.start.to_string(),
        "freq": forecast.freq.to_string(),
        "mean": forecast.mean,
        "quantiles": quantiles,
    })
}

fn chart(series: &TimeSeries, index: usize, forecast: &forecast::Forecast, color: bool) -> String {
    let from = series.target.len().saturating_sub(CHART_POINTS);
    let history: Vec<f64> = series.target[from..].iter().map(|value| f64::from(*value)).collect();
    let (first, last) = (forecast.quantiles.first(), forecast.quantiles.last());
    let (Some((low, lows)), Some((high, highs))) = (first, last) else { return String::new() };
    let bands: Vec<Band> = forecast
        .mean
        .iter()
        .zip(lows.iter().zip(highs))
        .map(|(mid, (lo, hi))| Band {
            lo: f64::from(*lo),
            mid: f64::from(*mid),
            hi: f64::from(*hi),
        })
        .collect();
    let frame = Frame {
        width: 90,
        height: 12,
        step: forecast.freq.to_string(),
        ink: Ink { color, unicode: true },
    };
    format!(
        "{}: mean from {} on, {low} to {high} quantiles\n{}",
        series.label(index),
        forecast.start,
        fan(&history, &bands, &frame)
    )
}

/// Scores the model beside seasonal naive over rolling windows.
pub(crate) fn backtest(args: &args::Backtest, printer: Printer) -> Result<()> {
    let (model, dataset) = load(&args.model, &args.test)?;
    let length = model.prediction_length();
    let options = PredictOptions {
        num_samples: args.num_samples,
        seed: args.seed,
        ..PredictOptions::default()
    };
    let ours = forecast::backtest(&*model, &dataset, args.windows, length, &options)?;
    let naive = SeasonalNaive::for_freq(dataset.freq, length)?;
    let naive = forecast::backtest(&naive, &dataset, args.windows, length, &options)?;
    let mut shown = scores_as_json(&ours);
    shown["seasonal_naive"] = scores_as_json(&naive);
    shown["windows"] = json!(ours.windows);
    printer.answer(&shown, || {
        let line = |name: &str, scores: &Scores| {
            format!(
                "{name:<15} mean wQuantileLoss {:.4}   MASE {:.3}   ND {:.4}   sMAPE {:.4}   RMSE {:.3}",
                scores.mean_w_quantile_loss, scores.mase, scores.nd, scores.smape, scores.rmse
            )
        };
        let worse = ours.mean_w_quantile_loss >= naive.mean_w_quantile_loss;
        let verdict = if worse { "\nThis model is no better than repeating the last season." } else { "" };
        format!("{}\n{}{verdict}", line("model", &ours), line("seasonal naive", &naive))
    });
    Ok(())
}

/// Scores under the names of the contract.
fn scores_as_json(scores: &Scores) -> Value {
    let coverage: serde_json::Map<String, Value> = scores
        .quantiles
        .iter()
        .zip(&scores.coverage)
        .map(|(level, share)| (level.to_string(), json!(share)))
        .collect();
    json!({
        "mean_wQuantileLoss": scores.mean_w_quantile_loss,
        "MASE": scores.mase,
        "ND": scores.nd,
        "sMAPE": scores.smape,
        "RMSE": scores.rmse,
        "coverage": coverage,
    })
}
