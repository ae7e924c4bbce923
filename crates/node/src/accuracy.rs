//! How good an endpoint's forecasts turned out to be, by variant: captured answers against the
//! readings that came in since.
//!
//! `endpoint actuals` keeps a query with an endpoint, which gives the readings as they arrive;
//! `endpoint ab` asks it and goes through the captured requests twice: once for the time that they
//! are about, once to score them. Nothing is kept of it, so readings that are late, or said anew,
//! count the next time.
//!
//! A variant is a name and a model: the same name with another model is another one. Each step
//! whose reading is there is scored by the levels that the answer holds ([`forecast::compare`]
//! compares, and says how sure that is). Every captured forecast is met by one series of readings
//! and counts once.
//!
//! Whose history an instance has: its `item_id`'s if the readings have such an item; else the item's
//! whose readings equal its last eight or more observed values, so that a request as the notebooks
//! send it is known as well.

mod captured;
mod readings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{Error, ErrorKind, Result, Timestamp};
use forecast::DateTime;
use forecast::compare::{Comparison, Pairing, StepLoss, Tally, compare, is_worse};
use lake::{QueryEngine, SqlOptions};
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::admin::blocking;
use crate::{DATABASE, Node};
use captured::{Answered, Captured};
use readings::{HISTORY_STEPS, Readings, Unknown};

/// Steps that are kept for comparing: 28 bytes each, and as much again while they are sorted.
const STEPS_MAX: usize = 3_000_000;
/// What `since` is, in words.
const SINCE: &str = "write a time as 2021-02-05T10:00:00Z, or how long ago: 90m, 36h, 7d";

/// The query that gives the readings of an endpoint's series.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Actuals {
    sql: String,
    database: String,
}

impl Row for Actuals {
    const TABLE: &'static str = "endpoint_actuals";
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    name: String,
    sql: Option<String>,
    database: Option<String>,
    #[serde(default)]
    clear: bool,
}

/// Keeps, shows or forgets the query of an endpoint's readings.
pub(crate) async fn actuals(node: &Node, ask: Ask) -> Result<Value> {
    let Ask { name, sql, database, clear } = ask;
    if clear {
        let was = node.metastore.delete::<Actuals>(&name)?;
        return Ok(json!({"endpoint": name, "sql": Value::Null, "was": was}));
    }
    let Some(sql) = sql else {
        let row = node.metastore.get::<Actuals>(&name)?.map(|seen| seen.row);
        let row = row.ok_or_else(|| no_actuals(&name))?;
        return Ok(json!({"endpoint": name, "sql": row.sql, "database": row.database}));
    };
    node.models.host.endpoint(&name)?;
    let database = database.unwrap_or_else(|| DATABASE.to_owned());
    let statement = sql.trim().trim_end_matches(';');
    // What it gives is known without reading anything.
    let shape = format!("SELECT * FROM ({statement}) LIMIT 0");
    let shape = node.lake.engine.sql(&shape, &SqlOptions::in_database(&*database)).await?;
    readings::columns(&shape.schema)?;
    let row = Actuals { sql: statement.to_owned(), database };
    node.metastore.put(&name, &row)?;
    Ok(json!({"endpoint": name, "sql": row.sql, "database": row.database}))
}

fn no_actuals(name: &str) -> Error {
    Error::not_found(format!(
        "endpoint {name:?} has no query of actuals; keep one with `forebay endpoint actuals {name} \
         --sql \"SELECT ... AS timestamp, ... AS value, ... AS item_id FROM ...\"`"
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ab {
    name: String,
    since: Option<String>,
}

/// Scores the captured forecasts of an endpoint and compares its variants.
pub(crate) async fn ab(node: &Arc<Node>, ask: Ab) -> Result<Value> {
    let Ab { name, since } = ask;
    let since = since.map(|text| moment(&text, node.clock.now())).transpose()?;
    // What was answered up to now counts.
    node.flush_captures().await;
    let gathered = gather(node, &name, since, |_variant, _model| true).await?;
    Ok(gathered.report(&name))
}

/// `7d` or `2021-02-05T10:00:00Z`.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    let text = text.trim();
    let ago = || {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        digits.parse::<u32>().ok().map(|count| i64::from(count) * unit)
    };
    if let Some(seconds) = ago() {
        return Ok(Timestamp(now.millis().saturating_sub(seconds * 1000)));
    }
    let second = captured::seconds(text);
    let second = second.ok_or_else(|| Error::invalid(format!("{text:?} is no time: {SINCE}")))?;
    Ok(Timestamp(second * 1000))
}

/// One variant's forecasts.
#[derive(Default)]
struct Group {
    tally: Tally,
    series: BTreeSet<u32>,
    /// Forecasts without any reading yet, and those with some to come.
    waiting: u64,
    partial: u64,
    /// What they were scored by, and how many.
    scored_by: BTreeMap<String, u64>,
    /// Steps by what they were scored by: others cannot be compared.
    steps: BTreeMap<String, Vec<StepLoss>>,
    unknown: BTreeMap<Unknown, u64>,
}

struct Gathered {
    groups: BTreeMap<(String, String), Group>,
    captured: captured::Counts,
    readings: readings::Counts,
    /// The longest horizon.
    horizon_minutes: i64,
    /// Steps that were too many to compare.
    left_out: u64,
}

/// What the captured requests are about.
struct Range {
    from: DateTime,
    to: DateTime,
    horizon_minutes: i64,
}

async fn gather(
    node: &Arc<Node>,
    endpoint: &str,
    since: Option<Timestamp>,
    wanted: impl Fn(&str, &str) -> bool + Clone + Send + 'static,
) -> Result<Gathered> {
    let row = node.metastore.get::<Actuals>(endpoint)?.map(|seen| seen.row);
    let row = row.ok_or_else(|| no_actuals(endpoint))?;
    let range = {
        let (node, endpoint, wanted) = (node.clone(), endpoint.to_owned(), wanted.clone());
        blocking(move || range(&node, &endpoint, since, &wanted)).await?
    };
    let engine: &dyn QueryEngine = &*node.lake.engine;
    let readings = match range.from < range.to {
        true => Readings::ask(engine, &row.sql, &row.database, (range.from, range.to)).await?,
        false => Readings::default(),
    };
    let (node, endpoint) = (node.clone(), endpoint.to_owned());
    blocking(move || score(&node, &endpoint, since, readings, range.horizon_minutes, &wanted)).await
}

fn range(
    node: &Node,
    endpoint: &str,
    since: Option<Timestamp>,
    wanted: &dyn Fn(&str, &str) -> bool,
) -> Result<Range> {
    let mut range = Range { from: DateTime(i64::MAX), to: DateTime(i64::MIN), horizon_minutes: 1 };
    Captured::find(node, endpoint, since)?.each(&mut |answered: Answered<'_>| {
        if !wanted(answered.variant, answered.model) {
            return;
        }
        let Answered { instance, made, .. } = answered;
        let history = instance.target.len().min(HISTORY_STEPS);
        let back = i64::try_from(history).unwrap_or(i64::MAX);
        let ahead = i64::try_from(made.prediction_length()).unwrap_or(i64::MAX);
        let end = made.freq.advance(made.start, ahead);
        range.from = range.from.min(made.freq.advance(made.start, -back));
        range.to = range.to.max(end);
        range.horizon_minutes = range.horizon_minutes.max(end.0 - made.start.0);
    })?;
    Ok(range)
}

fn score(
    node: &Node,
    endpoint: &str,
    since: Option<Timestamp>,
    mut readings: Readings,
    horizon_minutes: i64,
    wanted: &dyn Fn(&str, &str) -> bool,
) -> Result<Gathered> {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    let (mut kept, mut left_out) = (0, 0);
    let mut lines = Captured::find(node, endpoint, since)?;
    lines.each(&mut |answered: Answered<'_>| {
        let Answered { variant, model, instance, made, levels } = answered;
        if !wanted(variant, model) {
            return;
        }
        let group = groups.entry((variant.to_owned(), model.to_owned())).or_default();
        let item = match readings.series_of(instance, made.freq) {
            Ok(item) => item,
            Err(why) => {
                *group.unknown.entry(why).or_default() += 1;
                return;
            }
        };
        let truth = readings.truth(item, made.start, made.freq, made.prediction_length());
        let met = truth.iter().filter(|value| !value.is_nan()).count();
        if met == 0 {
            group.waiting += 1;
            return;
        }
        group.partial += u64::from(met < truth.len());
        group.series.insert(item);
        let losses = group.tally.add(&made, &levels, &instance.target, &truth);
        let by = match levels.is_empty() {
            true => "mean".to_owned(),
            false => {
                let names: Vec<String> =
                    levels.iter().map(|(level, _)| level.to_string()).collect();
                names.join(", ")
            }
        };
        *group.scored_by.entry(by.clone()).or_default() += 1;
        let steps = group.steps.entry(by).or_default();
        for (at, loss) in losses.iter().enumerate().filter(|(_, loss)| !loss.is_nan()) {
            if kept >= STEPS_MAX {
                left_out += 1;
                continue;
            }
            kept += 1;
            let ahead = i64::try_from(at).unwrap_or(i64::MAX);
            let (start, at_moment) = (made.start, made.freq.advance(made.start, ahead));
            steps.push(StepLoss { item, start, at: at_moment, loss: *loss, size: truth[at].abs() });
        }
    })?;
    let captured = lines.counts;
    Ok(Gathered { groups, captured, readings: readings.counts, horizon_minutes, left_out })
}

/// A variant and its model.
type Name = (String, String);
/// The variant that leads, and how it compares with each of the others.
type Led = (Name, Vec<(Name, Option<Comparison>)>);

impl Gathered {
    /// Compares two variants by what most of their steps were both scored by.
    fn compared(&mut self, one: &Name, other: &Name) -> Option<Comparison> {
        let count = |name: &Name, by: &String| {
            self.groups.get(name).and_then(|group| group.steps.get(by)).map_or(0, Vec::len)
        };
        let ways = self.groups.get(one)?.steps.keys();
        let by = ways.max_by_key(|by| count(one, by).min(count(other, by)))?.clone();
        let mut take = |name: &Name| -> Option<Vec<StepLoss>> {
            Some(std::mem::take(self.groups.get_mut(name)?.steps.get_mut(&by)?))
        };
        let mut of_one = take(one)?;
        let of_other = take(other);
        let told = of_other.as_ref().and_then(|steps| {
            let mut steps = steps.clone();
            compare(&mut of_one, &mut steps, self.horizon_minutes)
        });
        for (name, steps) in [(one, Some(of_one)), (other, of_other)] {
            if let (Some(group), Some(steps)) = (self.groups.get_mut(name), steps) {
                group.steps.insert(by.clone(), steps);
            }
        }
        told
    }

    /// The variant that nobody is seen to be better than, with its comparisons.
    fn leader(&mut self) -> Option<Led> {
        let scored = self.groups.iter().filter(|(_, group)| group.tally.points > 0);
        let mut names: Vec<(Name, f64)> = scored
            .map(|(name, group)| (name.clone(), group.tally.mean_w_quantile_loss()))
            .collect();
        names.sort_by(|a, b| a.1.total_cmp(&b.1));
        let names: Vec<Name> = names.into_iter().map(|(name, _)| name).collect();
        let mut leader = names.first()?.clone();
        // On the same requests another may be better than the one with the least loss over all.
        for _turn in 0..names.len() {
            let others: Vec<Name> = names.iter().filter(|name| **name != leader).cloned().collect();
            let told: Vec<(Name, Option<Comparison>)> = others
                .into_iter()
                .map(|other| {
                    let told = self.compared(&leader, &other);
                    (other, told)
                })
                .collect();
            let behind = |told: &(Name, Option<Comparison>)| {
                told.1.as_ref().map_or(0.0, |told| told.difference)
            };
            let best = told.iter().max_by(|a, b| behind(a).total_cmp(&behind(b)));
            match best.filter(|best| behind(best) > 0.0) {
                Some((better, _)) => leader = better.clone(),
                None => return Some((leader, told)),
            }
        }
        // They go round in a circle; the least loss over all decides.
        let leader = names.first()?.clone();
        let others: Vec<Name> = names.into_iter().skip(1).collect();
        let told = others.into_iter().map(|other| {
            let told = self.compared(&leader, &other);
            (other, told)
        });
        let told = told.collect();
        Some((leader, told))
    }

    fn report(mut self, endpoint: &str) -> Value {
        let leader = self.leader();
        let count = self.groups.values().filter(|group| group.tally.points > 0).count();
        let pairs = count * count.saturating_sub(1) / 2;
        let (variants, comparisons, verdict) = (
            self.groups.iter().map(|(name, group)| group.shown(name)).collect::<Vec<_>>(),
            leader.as_ref().map_or(Vec::new(), |(first, told)| {
                told.iter()
                    .map(|(other, told)| self.shown(first, other, told.as_ref(), pairs))
                    .collect()
            }),
            self.verdict(leader.as_ref(), pairs),
        );
        let decided = leader.as_ref().is_some_and(|(_, told)| {
            let sure = |told: &Option<Comparison>| {
                told.as_ref().is_some_and(|told| told.difference < 0.0 && told.is_decided(pairs))
            };
            !told.is_empty() && told.iter().all(|(_, told)| sure(told))
        });
        let name = leader
            .as_ref()
            .map(|((variant, model), _)| json!({"variant": variant, "model": model}));
        json!({
            "endpoint": endpoint,
            "leader": name,
            "decided": decided,
            "verdict": verdict,
            "variants": variants,
            "comparisons": comparisons,
            "captured": self.captured,
            "actuals": self.readings,
            "steps_left_out": self.left_out,
        })
    }

    fn shown(&self, leader: &Name, other: &Name, told: Option<&Comparison>, pairs: usize) -> Value {
        let Some(told) = told else {
            return json!({"leader": leader.0, "leader_model": leader.1, "other": other.0,
                "other_model": other.1, "decided": false, "paired_by": Value::Null});
        };
        json!({
            "leader": leader.0,
            "leader_model": leader.1,
            "other": other.0,
            "other_model": other.1,
            "paired_by": match told.pairing {
                Pairing::SameForecast => "the same series and beginning",
                Pairing::SameMoment => "the same series and moment",
                Pairing::Unpaired => "nothing: compared as two samples",
            },
            "paired": told.pairing != Pairing::Unpaired,
            "pairs": told.pairs,
            "blocks": told.blocks,
            "block_hours": self.horizon_minutes as f64 / 60.0,
            "difference": told.difference,
            "interval": told.interval.map(|(low, high)| [low, high]),
            "p_value": told.p_value.map(|p| (p * pairs as f64).min(1.0)),
            "decided": told.is_decided(pairs),
            "blocks_more": told.blocks_more,
        })
    }

    fn verdict(&self, leader: Option<&Led>, pairs: usize) -> String {
        let Some((leader, told)) = leader else {
            return "nothing is scored yet: no captured forecast has met a reading".to_owned();
        };
        let first = label(leader, &self.groups);
        if told.is_empty() {
            return format!("{first} is the only variant that is scored");
        }
        let hours = self.horizon_minutes as f64 / 60.0;
        let line = |(other, told): &(Name, Option<Comparison>)| {
            let other_label = label(other, &self.groups);
            let Some(told) = told else {
                return format!(
                    "{first} and {other_label} were scored by different levels and are not compared"
                );
            };
            let loss =
                self.groups.get(other).map_or(f64::NAN, |group| group.tally.mean_w_quantile_loss());
            let percent = (told.difference / loss).abs() * 100.0;
            let how = match told.pairing {
                Pairing::SameForecast => "pairs of the same forecast",
                Pairing::SameMoment => "pairs of the same series and moment",
                Pairing::Unpaired => "steps that do not pair, as two samples",
            };
            let size = format!("{} {how} in {} blocks of {hours} h", told.pairs, told.blocks);
            let more = match told.blocks_more {
                Some(more) => format!("about {more} more blocks are needed"),
                None => "they are as good as equal".to_owned(),
            };
            match told.p_value.map(|p| (p * pairs as f64).min(1.0)) {
                Some(p) if told.is_decided(pairs) => {
                    format!(
                        "{first} leads {other_label} by {percent:.1} % of its loss, p = {p:.2e}, {size}"
                    )
                }
                Some(p) => format!(
                    "not decided between {first} and {other_label}: {percent:.1} % apart, p = {p:.2}, {size}; {more}"
                ),
                None => format!("not decided between {first} and {other_label}: {size}; {more}"),
            }
        };
        told.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// A variant's name, with its model where another variant has the same name.
fn label(name: &Name, groups: &BTreeMap<Name, Group>) -> String {
    match groups.keys().filter(|(variant, _)| *variant == name.0).count() {
        0 | 1 => name.0.clone(),
        _ => format!("{} ({})", name.0, name.1),
    }
}

impl Group {
    fn shown(&self, (variant, model): &Name) -> Value {
        let unknown = |why: Unknown| self.unknown.get(&why).copied().unwrap_or(0);
        json!({
            "variant": variant,
            "model": model,
            "forecasts": self.tally.forecasts,
            "series": self.series.len(),
            "points": self.tally.points,
            "mean_weighted_quantile_loss": self.tally.mean_w_quantile_loss(),
            "coverage_80": self.tally.coverage(),
            "mase": self.tally.mase(),
            "scored_by": self.scored_by,
            "partial": self.partial,
            "waiting": self.waiting,
            "no_series": {
                "history_too_short": unknown(Unknown::TooShort),
                "no_such_readings": unknown(Unknown::NoSeries),
                "several_such_readings": unknown(Unknown::SeveralSeries),
            },
        })
    }
}

/// Why the variants that an update brought should give way to those before: what they answered since
/// it began turned out worse, with 95 % confidence, however often this is asked. `None` while that
/// is not seen, and where there is nothing to see it by (no capture, no query of actuals, no
/// readings yet, the same variants with the same models).
///
/// Reads what was captured since then each time: to be asked now and then, not in a loop.
pub(crate) async fn loss_verdict(
    node: &Arc<Node>,
    compared: &serving::Comparison,
) -> Option<String> {
    match worse(node, compared).await {
        Ok(verdict) => verdict,
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            let endpoint = &compared.endpoint;
            tracing::warn!(endpoint, %error, "an update's forecasts cannot be compared");
            None
        }
    }
}

async fn worse(node: &Arc<Node>, compared: &serving::Comparison) -> Result<Option<String>> {
    let endpoint = &compared.endpoint;
    if node.metastore.get::<Actuals>(endpoint)?.is_none() {
        return Ok(None);
    }
    let set = |all: &[Name]| -> BTreeSet<Name> { all.iter().cloned().collect() };
    let (old, new) = (set(&compared.old), set(&compared.new));
    // A variant that stays as it is says nothing about the change.
    let (only_old, only_new): (BTreeSet<Name>, BTreeSet<Name>) =
        (old.difference(&new).cloned().collect(), new.difference(&old).cloned().collect());
    if only_old.is_empty() || only_new.is_empty() {
        return Ok(None);
    }
    node.flush_captures().await;
    let either: BTreeSet<Name> = only_old.union(&only_new).cloned().collect();
    let wanted =
        move |variant: &str, model: &str| either.contains(&(variant.to_owned(), model.to_owned()));
    let gathered = gather(node, endpoint, Some(compared.since), wanted).await?;
    let mut sides: [BTreeMap<String, Vec<StepLoss>>; 2] = [BTreeMap::new(), BTreeMap::new()];
    for (name, group) in gathered.groups {
        let side = &mut sides[usize::from(only_new.contains(&name))];
        for (by, mut steps) in group.steps {
            side.entry(by).or_default().append(&mut steps);
        }
    }
    let [mut old, mut new] = sides;
    let common = |by: &String| new.get(by).map_or(0, Vec::len);
    let Some(by) = old.keys().max_by_key(|by| old[*by].len().min(common(by))).cloned() else {
        return Ok(None);
    };
    let (Some(old), Some(new)) = (old.get_mut(&by), new.get_mut(&by)) else { return Ok(None) };
    let told = is_worse(new, old, gathered.horizon_minutes);
    Ok(told.map(|told| {
        let Comparison { difference, pairs, blocks, .. } = told;
        format!(
            "the new variants' forecasts turned out worse than the old ones': a weighted quantile loss higher by {difference:.4}, seen in {pairs} \
             pairs over {blocks} blocks of {} h",
            gathered.horizon_minutes as f64 / 60.0
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        let now = Timestamp(1_612_522_800_000);
        for (text, expect) in [
            ("90s", 1_612_522_710_000),
            ("2h", 1_612_515_600_000),
            ("7d", 1_611_918_000_000),
            ("2021-02-05T10:00:00Z", 1_612_519_200_000),
            ("2021-02-05", 1_612_483_200_000),
        ] {
            assert_eq!(moment(text, now).unwrap(), Timestamp(expect), "{text}");
        }
        for text in ["", "soon", "7w", "d", "é"] {
            let error = moment(text, now).unwrap_err().to_string();
            assert!(error.contains("36h"), "{text}: {error}");
        }
    }
}
