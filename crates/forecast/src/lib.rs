//! The words and measures of forecasting: series, calendar, quantiles, metrics, backtest, baselines.
