//! What the demo shows at its end: forecasts and the account.

use std::net::SocketAddr;
use std::path::Path;

use charts::{Band, Frame, Ink, Table, fan};
use node::Addresses;
use serde_json::{Value, json};

use super::{Outcome, Station};
use crate::output::{Printer, human_bytes, human_count};

/// Hours of history in a chart.
const HISTORY_HOURS: usize = 60;
/// Stations whose chart is shown; the rest are in the table.
const CHARTS_MAX: usize = 3;

/// Prints forecasts, the account, and with `stays` how to look around.
pub(super) fn print(
    outcome: &Outcome,
    data_dir: &Path,
    addresses: Addresses,
    stays: bool,
    printer: Printer,
) {
    printer.answer(&as_json(outcome, data_dir, addresses), || {
        let mut text = String::new();
        for station in outcome.stations.iter().take(CHARTS_MAX) {
            text += &chart(outcome, station, printer.color());
            text.push('\n');
        }
        text += &forecast_table(outcome);
        text.push('\n');
        text += &account(outcome);
        if stays {
            text += &look_around(outcome, data_dir, addresses.mqtt);
        }
        text
    });
}

fn as_json(outcome: &Outcome, data_dir: &Path, addresses: Addresses) -> Value {
    let training = &outcome.training;
    let stations: Vec<Value> = outcome
        .stations
        .iter()
        .map(|station| {
            json!({
                "device": station.name,
                "mean_wQuantileLoss": finite(station.model_loss),
                "seasonal_naive_mean_wQuantileLoss": finite(station.naive_loss),
                "forecast": station.forecast,
            })
        })
        .collect();
    json!({
        "sent": outcome.sent,
        "acknowledged": outcome.acknowledged,
        "in_lake": outcome.in_lake,
        "lost": outcome.verdict.lost,
        "doubled": outcome.verdict.doubled,
        "set_aside": outcome.set_aside,
        "balanced": outcome.balances(),
        "stages": outcome.stages,
        "peak_rss_bytes": outcome.peak_rss_bytes,
        "target": outcome.target,
        "table": outcome.names.table,
        "mean_wQuantileLoss": model_loss(outcome),
        "seasonal_naive_mean_wQuantileLoss": naive_loss(outcome),
        "windows": training.windows,
        "stations": stations,
        "data_dir": data_dir,
        "http": addresses.http,
    })
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn model_loss(outcome: &Outcome) -> Option<f64> {
    outcome.training.test.as_ref().and_then(|test| finite(test.model.mean_w_quantile_loss))
}

fn naive_loss(outcome: &Outcome) -> Option<f64> {
    outcome.training.test.as_ref().and_then(|test| finite(test.seasonal_naive.mean_w_quantile_loss))
}

fn chart(outcome: &Outcome, station: &Station, color: bool) -> String {
    let target = &station.history.target;
    let history: Vec<f64> = target[target.len().saturating_sub(HISTORY_HOURS)..]
        .iter()
        .map(|v| f64::from(*v))
        .collect();
    let [lo, mid, hi] = quantiles(station);
    let bands: Vec<Band> = lo
        .iter()
        .zip(&mid)
        .zip(&hi)
        .map(|((lo, mid), hi)| Band { lo: *lo, mid: *mid, hi: *hi })
        .collect();
    let frame =
        Frame { width: 90, height: 12, step: "h".to_owned(), ink: Ink { color, unicode: true } };
    format!(
        "{}: {}, next 24 hours with the 10-90 % band\n{}",
        station.name,
        outcome.target,
        fan(&history, &bands, &frame)
    )
}

/// The 10, 50 and 90 % quantiles of a station's forecast.
fn quantiles(station: &Station) -> [Vec<f64>; 3] {
    ["0.1", "0.5", "0.9"].map(|level| {
        let values = station.forecast["quantiles"][level].as_array();
        values.into_iter().flatten().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect()
    })
}

fn forecast_table(outcome: &Outcome) -> String {
    let mut table =
        Table::new(["station", "next 24 h: 10 %", "50 %", "90 %", "loss", "seasonal naive"]);
    for station in &outcome.stations {
        let [lo, mid, hi] = quantiles(station).map(|values| span(&values));
        let loss = |value: f64| format!("{value:.4}");
        table.row([
            station.name.clone(),
            lo,
            mid,
            hi,
            loss(station.model_loss),
            loss(station.naive_loss),
        ]);
    }
    table.render()
}

/// The least and the most over the day.
fn span(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{low:.0}..{high:.0}")
}

fn account(outcome: &Outcome) -> String {
    let mut table = Table::new(["stage", "seconds", "CPU seconds", "bytes"]);
    for stage in &outcome.stages {
        let bytes = if stage.bytes == 0 { String::new() } else { human_bytes(stage.bytes) };
        let (seconds, cpu) = (format!("{:.1}", stage.seconds), format!("{:.1}", stage.cpu_seconds));
        table.row([stage.name.to_owned(), seconds, cpu, bytes]);
    }
    let seconds: f64 = outcome.stages.iter().map(|stage| stage.seconds).sum();
    let skill = match (model_loss(outcome), naive_loss(outcome)) {
        (Some(model), Some(naive)) => {
            let percent = 100.0 * (1.0 - model / naive);
            let verdict = if percent > 0.0 { "better" } else { "WORSE" };
            format!(
                "mean wQuantileLoss {model:.4}, seasonal naive {naive:.4}: {:.0} % {verdict}",
                percent.abs()
            )
        }
        _ => "skill unknown: the test days have no observed value".to_owned(),
    };
    format!(
        "{}\nsent {} = acknowledged {} = in the lake {}   lost {}   doubled {}   {}\n\
         {skill}\n{seconds:.1} s in all, peak memory {}\n",
        table.render(),
        human_count(outcome.sent),
        human_count(outcome.acknowledged),
        human_count(outcome.in_lake),
        outcome.verdict.lost,
        outcome.verdict.doubled,
        if outcome.balances() { "the account balances" } else { "THE ACCOUNT DOES NOT BALANCE" },
        human_bytes(outcome.peak_rss_bytes),
    )
}

fn look_around(outcome: &Outcome, data_dir: &Path, mqtt: SocketAddr) -> String {
    let (dir, table, endpoint) =
        (data_dir.display(), &outcome.names.table, &outcome.names.endpoint);
    format!(
        "\nIt stays up (Ctrl-C ends it). In another terminal:\n\
         \x20 forebay --data-dir {dir} topic tail '{root}/+/readings'\n\
         \x20 forebay --data-dir {dir} lake sql 'SELECT device, count(*) FROM {table} GROUP BY device'\n\
         \x20 forebay --data-dir {dir} stream list\n\
         \x20 forebay --data-dir {dir} endpoint invoke {endpoint} --input request.json\n\
         \x20 mosquitto_sub -h 127.0.0.1 -p {port} -t '{root}/#'\n",
        root = outcome.names.topic_root,
        port = mqtt.port(),
    )
}
