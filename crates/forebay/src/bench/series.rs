//! The series of `bench train` and `bench infer`: a folder that is named, or a set made here.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use forecast::{Dataset, Frequency, TimeSeries, jsonl};
use training::channel;

use crate::args::BenchSet;

/// Steps of a forecast, and of what is read before it: the article's.
pub(super) const HORIZON: usize = 24;

/// Points kept of a series to forecast it: the longest hourly lag, the context, and some more.
const HISTORY: usize = 1000;

/// Where training and test series are, and the test series themselves.
pub(super) struct Set {
    pub(super) name: String,
    pub(super) train: PathBuf,
    pub(super) test: PathBuf,
    pub(super) tests: Dataset,
}

impl Set {
    /// Reads the folder that is named, or makes a set in `scratch`.
    pub(super) fn open(args: &BenchSet, scratch: &Path) -> Result<Set> {
        let (name, folder) = match &args.data {
            Some(folder) => {
                let name = folder.file_name().unwrap_or(folder.as_os_str());
                (name.display().to_string(), std::path::absolute(folder)?)
            }
            None => ("made here".to_owned(), make(scratch)?),
        };
        let find = |stem: &str| {
            let names =
                [".jsonl.gz", ".json.gz", ".jsonl", ".json"].map(|end| format!("{stem}{end}"));
            let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
            found.with_context(|| format!("{} has no {}", folder.display(), names[0]))
        };
        let (train, test) = (find("train")?, find("test")?);
        let tests = channel::read(&test, Frequency::HOURLY)?;
        let longest = tests.series.iter().map(|series| series.target.len()).max().unwrap_or(0);
        ensure!(longest > HISTORY / 2, "the test series have at most {longest} points");
        Ok(Set { name, train, test, tests })
    }

    /// Where forecasts of the last `windows` horizons of each series begin, as
    /// [`forecast::backtest`] has them.
    pub(super) fn origins(&self, windows: usize) -> Vec<(usize, usize)> {
        let of = |(at, series): (usize, &TimeSeries)| {
            let len = series.target.len();
            let fitting = (1..=windows.min(len / HORIZON)).rev();
            let origins = fitting.map(move |back| len - back * HORIZON);
            origins.filter(|origin| *origin > 0).map(move |origin| (at, origin))
        };
        self.tests.series.iter().enumerate().flat_map(of).collect()
    }

    /// The first series alone, and `count` stretches of all of them, each another moment.
    pub(super) fn requests(&self, count: usize) -> (Dataset, Dataset) {
        let freq = self.tests.freq;
        let all = &self.tests.series;
        let stretch = |k: usize| {
            let series = &all[k % all.len()];
            let len = series.target.len();
            let back = k / all.len() % (len - len.min(HISTORY) + 1);
            let (from, to) = ((len - back).saturating_sub(HISTORY), len - back);
            TimeSeries {
                item_id: Some(format!("{k}")),
                start: freq.advance(series.start, from as i64),
                target: series.target[from..to].to_vec().into(),
                ..TimeSeries::default()
            }
        };
        let one =
            all.first().map(|series| TimeSeries { feat_static_cat: Vec::new(), ..series.clone() });
        let one = Dataset { freq, series: one.into_iter().collect() };
        (one, Dataset { freq, series: (0..count).map(stretch).collect() })
    }
}

/// Writes a data set.
pub(super) fn write(path: &Path, dataset: &Dataset) -> Result<()> {
    let text = jsonl::write(dataset);
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Twelve stations over 250 days: a day, a week and noise on a level of their own.
fn make(scratch: &Path) -> Result<PathBuf> {
    let (points, held) = (6000, 28 * HORIZON);
    let mut state = 42u64;
    let mut noise = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24) - 0.5
    };
    let mut station = |k: usize| {
        let mut drift = 0.0;
        let mut value = |t: usize| {
            let turn = |period: f64| (t as f64 / period * std::f64::consts::TAU).sin();
            drift = 0.95 * drift + noise();
            let level = 20.0 * (1.0 + k as f64);
            (level * (1.0 + 0.4 * turn(24.0) + 0.1 * turn(168.0) + 0.1 * drift)).max(0.0) as f32
        };
        TimeSeries {
            item_id: Some(format!("station {k}")),
            start: forecast::DateTime(23_000_000),
            target: (0..points).map(&mut value).collect(),
            ..TimeSeries::default()
        }
    };
    let series: Vec<TimeSeries> = (0..12).map(&mut station).collect();
    let cut = series.iter().map(|series| series.prefix(points - held, 0)).collect();
    let freq = Frequency::HOURLY;
    write(&scratch.join("train.jsonl"), &Dataset { freq, series: cut })?;
    write(&scratch.join("test.jsonl"), &Dataset { freq, series })?;
    Ok(scratch.to_owned())
}
