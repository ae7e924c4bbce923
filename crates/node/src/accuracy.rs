//! How good an endpoint's forecasts turned out to be, by variant: captured answers against the
//! readings that came in since.
//!
//! `endpoint actuals` keeps a query with an endpoint, which gives the readings as they arrive;
//! `endpoint ab` asks it and goes through the captured requests twice: once for the time that they
//! are about, once to score them. Nothing is kept of it, so readings that are late, or said anew,
//! count the next time.
//!
//! A variant is a name and a model: the same name with another model is another one, and so is each
//! model of a multi-model endpoint. Those are compared where they forecast the same series. Each step
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

/// The variant as its endpoint has it, and which of its many models it is. The name of a model has
/// no slash.
fn parts((variant, model): &Name) -> (Name, Option<&str>) {
    match model.split_once('/') {
        Some((model, archive)) => ((variant.clone(), model.to_owned()), Some(archive)),
        None => ((variant.clone(), model.clone()), None),
    }
}

impl Gathered {
    /// Who is compared with whom: all variants with each other, but the models of a multi-model
    /// endpoint only with those that forecast a series of theirs. Which series is the easiest to
    /// forecast is not the question.
    fn contests(&self) -> Vec<Vec<Name>> {
        struct Contest {
            names: Vec<Name>,
            series: BTreeSet<u32>,
            is_plain: bool,
        }
        let mut contests: Vec<Contest> = Vec::new();
        for (name, group) in self.groups.iter().filter(|(_, group)| group.tally.points > 0) {
            let (names, series) = (vec![name.clone()], group.series.clone());
            let mut own = Contest { names, series, is_plain: parts(name).1.is_none() };
            let meets = |one: &Contest, own: &Contest| {
                (one.is_plain && own.is_plain) || !one.series.is_disjoint(&own.series)
            };
            let (met, others) = contests.into_iter().partition(|one| meets(one, &own));
            contests = others;
            for mut one in <Vec<Contest>>::into_iter(met) {
                own.names.append(&mut one.names);
                own.series.append(&mut one.series);
                own.is_plain |= one.is_plain;
            }
            contests.push(own);
        }
        contests.into_iter().map(|contest| contest.names).collect()
    }

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

    /// The one of these variants that nobody is seen to be better than, with its comparisons.
    fn leader(&mut self, contest: Vec<Name>) -> Option<Led> {
        let loss = |name: &Name| {
            self.groups.get(name).map_or(f64::NAN, |group| group.tally.mean_w_quantile_loss())
        };
        let mut names: Vec<(Name, f64)> =
            contest.into_iter().map(|name| (name.clone(), loss(&name))).collect();
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
        let contests = self.contests();
        let pairs_of = |contest: &Vec<Name>| contest.len() * (contest.len() - 1) / 2;
        let pairs: usize = contests.iter().map(pairs_of).sum();
        let led: Vec<Led> =
            contests.into_iter().filter_map(|contest| self.leader(contest)).collect();
        let variants: Vec<Value> =
            self.groups.iter().map(|(name, group)| group.shown(name)).collect();
        let told = led.iter().flat_map(|(first, told)| told.iter().map(move |told| (first, told)));
        let comparisons: Vec<Value> = told
            .clone()
            .map(|(first, (other, told))| self.shown(first, other, told.as_ref(), pairs))
            .collect();
        let sure = |told: &Option<Comparison>| {
            told.as_ref().is_some_and(|told| told.difference < 0.0 && told.is_decided(pairs))
        };
        let decided = !comparisons.is_empty() && told.clone().all(|(_, (_, told))| sure(told));
        let verdict = self.verdict(&led, pairs);
        // Models that have no series in common have no leader.
        let name = match &led[..] {
            [((variant, model), _)] => json!({"variant": variant, "model": model}),
            _none_or_many => Value::Null,
        };
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

    fn verdict(&self, led: &[Led], pairs: usize) -> String {
        match led {
            [] => "nothing is scored yet: no captured forecast has met a reading".to_owned(),
            [(only, told)] if told.is_empty() => {
                format!("{} is the only variant that is scored", label(only, &self.groups))
            }
            _several => {
                let compared = led.iter().filter(|(_, told)| !told.is_empty());
                let mut lines: Vec<String> =
                    compared.map(|led| self.verdict_of(led, pairs)).collect();
                let alone = led.iter().filter(|(_, told)| told.is_empty()).count();
                if alone > 0 {
                    lines.push(format!(
                        "no other model forecasts the series of {alone} of them, so nothing is said of those"
                    ));
                }
                lines.join("\n")
            }
        }
    }

    fn verdict_of(&self, (leader, told): &Led, pairs: usize) -> String {
        let first = label(leader, &self.groups);
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
    let wanted = move |variant: &str, model: &str| {
        either.contains(&parts(&(variant.to_owned(), model.to_owned())).0)
    };
    let gathered = gather(node, endpoint, Some(compared.since), wanted).await?;
    let [mut old, mut new] = sides(gathered.groups, &only_new);
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

/// The steps of the old variants and of the new ones, by what they were scored by. Of many models
/// one is compared with the one of its own name, so a series that two of them forecast is two.
fn sides(
    groups: BTreeMap<Name, Group>,
    only_new: &BTreeSet<Name>,
) -> [BTreeMap<String, Vec<StepLoss>>; 2] {
    let mut sides = [BTreeMap::new(), BTreeMap::new()];
    let mut items: BTreeMap<(Option<String>, u32), u32> = BTreeMap::new();
    for (name, group) in groups {
        let (deployed, archive) = parts(&name);
        let side: &mut BTreeMap<String, Vec<StepLoss>> =
            &mut sides[usize::from(only_new.contains(&deployed))];
        let mut own = BTreeMap::new();
        for item in group.series {
            // There are fewer of them than steps, which have a bound.
            let next = u32::try_from(items.len()).unwrap_or(u32::MAX);
            own.insert(item, *items.entry((archive.map(str::to_owned), item)).or_insert(next));
        }
        for (by, mut steps) in group.steps {
            for step in &mut steps {
                step.item = own.get(&step.item).copied().unwrap_or(step.item);
            }
            side.entry(by).or_default().append(&mut steps);
        }
    }
    sides
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A variant's forecasts of a series, one an hour, each with the same loss.
    fn group(item: u32, loss: f32) -> Group {
        let mut group = Group { series: [item].into(), ..Group::default() };
        group.tally.points = 48;
        let steps = (0..48).map(|hour| {
            let at = DateTime(hour * 60);
            // A difference that is the same everywhere has no variance to judge it by.
            let loss = loss + (hour as f32 * loss).sin() * 0.01;
            StepLoss { item, start: at, at, loss, size: 10.0 }
        });
        group.steps.insert("0.5".to_owned(), steps.collect());
        group
    }

    fn name(variant: &str, model: &str) -> Name {
        (variant.to_owned(), model.to_owned())
    }

    fn gathered(groups: Vec<(Name, Group)>) -> Gathered {
        Gathered {
            groups: groups.into_iter().collect(),
            captured: captured::Counts::default(),
            readings: readings::Counts::default(),
            horizon_minutes: 60,
            left_out: 0,
        }
    }

    #[test]
    fn models_of_one_endpoint_are_compared_where_they_forecast_the_same() {
        let told = gathered(vec![
            (name("v", "m/a-old.tar.gz"), group(1, 3.0)),
            (name("v", "m/a.tar.gz"), group(1, 1.0)),
            (name("v", "m/b.tar.gz"), group(2, 0.5)),
        ])
        .report("e");
        // The one with the least loss has the easiest series, and leads nobody.
        assert_eq!(told["leader"], Value::Null);
        let compared = told["comparisons"].as_array().unwrap();
        assert_eq!(compared.len(), 1, "{told}");
        assert_eq!(compared[0]["leader_model"], "m/a.tar.gz");
        assert_eq!(compared[0]["other_model"], "m/a-old.tar.gz");
        assert_eq!((&compared[0]["pairs"], &told["decided"]), (&json!(48), &json!(true)), "{told}");
        let verdict = told["verdict"].as_str().unwrap();
        assert!(verdict.contains("v (m/a.tar.gz) leads v (m/a-old.tar.gz)"), "{verdict}");
        assert!(
            verdict.ends_with("the series of 1 of them, so nothing is said of those"),
            "{verdict}"
        );
        // Variants of one model each are compared whatever their series.
        let told = gathered(vec![(name("v", "m"), group(1, 1.0)), (name("w", "n"), group(2, 3.0))]);
        let told = told.report("e");
        assert_eq!(told["leader"], json!({"variant": "v", "model": "m"}));
        assert_eq!(told["comparisons"][0]["paired"], false, "{told}");
    }

    #[test]
    fn an_updates_models_are_compared_each_with_the_one_of_its_name() {
        let groups = [
            (name("v", "m1/a"), group(1, 1.0)),
            (name("v", "m1/b"), group(1, 5.0)),
            (name("v", "m2/a"), group(1, 2.0)),
            (name("v", "m2/b"), group(1, 6.0)),
        ];
        let [mut old, mut new] = sides(groups.into(), &[name("v", "m2")].into());
        let (old, new) = (old.get_mut("0.5").unwrap(), new.get_mut("0.5").unwrap());
        let told = is_worse(new, old, 60).unwrap();
        // Each by 1 of 10.
        assert!((told.difference - 0.1).abs() < 0.01, "{told:?}");
        assert!(is_worse(&mut old.clone(), &mut new.clone(), 60).is_none());
    }

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
