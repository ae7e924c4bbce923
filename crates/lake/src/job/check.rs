//! What is wrong with a node by itself, before any table is known.

use std::collections::BTreeSet;

use base::{Error, Result};

use super::node::{
    Aggregate, Choice, ChoiceAction, Function, Mapping, NoValue, Node, TargetCompression,
    TargetFormat,
};
use super::quality;

/// Rows of a window at most: each row's window is sorted.
const WINDOW_ROWS_MAX: usize = 1_001;

/// Longest time that an as-of join reaches back: a hundred years.
const TOLERANCE_SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// Refuses a node that cannot mean anything.
pub(super) fn check(node: &Node) -> Result<()> {
    what_is_wrong(node).map_err(|error| error.context(format!("node {:?}", node.id())))
}

fn check_spigot(prefix: &str, rows: Option<u32>, fraction: Option<f64>) -> Result<()> {
    if prefix.len() < 2 || !prefix.ends_with('/') || prefix.starts_with('/') {
        return bad(format!("prefix: {prefix:?} must name a folder, as in \"samples/\""));
    }
    if rows.is_none() && fraction.is_none() {
        return bad("rows and fraction: give one of them or both");
    }
    if rows == Some(0) {
        return bad("rows: it is 0; give at least 1");
    }
    match fraction {
        Some(share) if !(share > 0.0 && share <= 1.0) => {
            bad(format!("fraction: {share} is not above 0 and at most 1"))
        }
        _ => Ok(()),
    }
}

fn bad<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::invalid(why.into()))
}

fn what_is_wrong(node: &Node) -> Result<()> {
    match node {
        Node::Source { .. } => Ok(()),
        Node::Objects { at, .. } => at.check(),
        Node::Spigot { prefix, rows, fraction, .. } => check_spigot(prefix, *rows, *fraction),
        Node::ApplyMapping { mappings, .. } => check_mappings(mappings),
        Node::SelectFields { fields, .. }
        | Node::DropFields { fields, .. }
        | Node::SplitFields { fields, .. } => some("fields", fields),
        Node::RenameField { from, to, .. } => named(&[from, to]),
        Node::Filter { condition, .. } => expression("condition", condition),
        Node::DeriveColumns { columns, .. } => {
            once("columns", columns.iter().map(|column| column.name.as_str()))?;
            if columns.is_empty() {
                return bad("columns: it derives none");
            }
            columns.iter().try_for_each(|column| {
                expression(&format!("expression of {:?}", column.name), &column.expression)
            })
        }
        Node::DropDuplicates { columns, .. } => once("columns", names(columns)),
        Node::DropNullFields { also, .. } => {
            let odd = also.iter().find_map(|one| match one {
                NoValue::Number(number) if number.parse::<f64>().is_err() => Some(number),
                NoValue::Number(_) | NoValue::Text(_) => None,
            });
            odd.map_or(Ok(()), |odd| bad(format!("{odd:?} is not a number")))
        }
        Node::ResolveChoice { choices, .. } => {
            if choices.is_empty() {
                return bad("choices: it names no column");
            }
            once("choices", choices.iter().map(|choice| choice.column.as_str()))?;
            choices.iter().try_for_each(check_choice)
        }
        Node::Flatten { columns, separator, .. } => {
            if separator.is_empty() {
                return bad("separator: it is empty; give \".\" or \"_\"");
            }
            once("columns", names(columns))
        }
        Node::Explode { column, .. } => named(&[column]),
        Node::Pivot { group_by, values, column, value, function, .. } => {
            once("group_by", names(group_by))?;
            some("values", values)?;
            named(&[column, value])?;
            if matches!(function, Function::First | Function::Last) {
                return bad("function: a pivot has no order; use min, max, avg, sum or count");
            }
            once("group_by and values", names(group_by).chain(names(values)))
        }
        Node::Unpivot { columns, name_to, value_to, .. } => {
            some("columns", columns)?;
            named(&[name_to, value_to])?;
            once("name_to and value_to", [name_to.as_str(), value_to].into_iter())
        }
        Node::Aggregate { group_by, aggregates, .. } => {
            once("group_by", names(group_by))?;
            check_aggregates(group_by, aggregates, |one| {
                format!("{}({})", one.function.as_str(), one.column)
            })
        }
        Node::Join { on, left, right, .. } => {
            if on.is_empty() {
                return bad("on: it names no columns that must be equal");
            }
            two(left, right)?;
            on.iter().try_for_each(|key| named(&[&key.left, &key.right]))
        }
        Node::AsOfJoin { left, right, by, time, tolerance_seconds, .. } => {
            two(left, right)?;
            by_and_time(by, time)?;
            match *tolerance_seconds {
                0 => bad("tolerance_seconds: it is 0; give at least 1"),
                long if long > TOLERANCE_SECONDS_MAX => {
                    bad(format!("tolerance_seconds: {long}; at most {TOLERANCE_SECONDS_MAX}"))
                }
                _ => Ok(()),
            }
        }
        Node::Union { inputs, .. } => match inputs.len() {
            0 | 1 => bad("inputs: give two or more nodes"),
            _ => once("inputs", names(inputs)),
        },
        Node::Intersect { left, right, .. } | Node::Except { left, right, .. } => two(left, right),
        Node::Merge { source, staging, keys, .. } => {
            two(source, staging)?;
            some("keys", keys)
        }
        Node::SelectFromCollection { index, .. } => match index {
            0 | 1 => Ok(()),
            more => bad(format!("index: {more}; a split has the collections 0 and 1")),
        },
        Node::Sample { fraction, .. } => match *fraction > 0.0 && *fraction <= 1.0 {
            true => Ok(()),
            false => bad(format!("fraction: {fraction} is not above 0 and at most 1")),
        },
        Node::Limit { rows, .. } => match rows {
            0 => bad("rows: it is 0; give at least 1"),
            _ => Ok(()),
        },
        Node::Sql { inputs, query, .. } => {
            expression("query", query)?;
            match inputs.is_empty() {
                true => bad("it has no input"),
                false => Ok(()),
            }
        }
        Node::Resample { by, time, aggregates, .. } => {
            by_and_time(by, time)?;
            let kept: Vec<String> = by.iter().chain([time]).cloned().collect();
            check_aggregates(&kept, aggregates, |one| one.column.clone())
        }
        Node::FillGaps { by, time, .. } | Node::DropDuplicatesByTime { by, time, .. } => {
            by_and_time(by, time)
        }
        Node::MarkRange { ranges, mark, reason, .. } => {
            if ranges.is_empty() {
                return bad("ranges: it names no column");
            }
            for range in ranges {
                let column = &range.column;
                match (range.min, range.max) {
                    (None, None) => return bad(format!("range of {column:?}: give min or max")),
                    (Some(min), Some(max)) if min > max => {
                        return bad(format!("range of {column:?}: min {min} is above max {max}"));
                    }
                    (min, max) if [min, max].iter().flatten().any(|end| !end.is_finite()) => {
                        return bad(format!("range of {column:?}: an end is not finite"));
                    }
                    _ => {}
                }
            }
            once("mark and reason", [mark.as_str(), reason].into_iter())
        }
        Node::MarkOutliers { by, time, column, window, threshold, mark, reason, .. } => {
            by_and_time(by, time)?;
            named(&[column])?;
            if *window < 3 || *window > WINDOW_ROWS_MAX || window % 2 == 0 {
                return bad(format!(
                    "window: {window}; give an odd number of rows from 3 to {WINDOW_ROWS_MAX}"
                ));
            }
            if threshold.is_some_and(|threshold| threshold <= 0.0 || !threshold.is_finite()) {
                return bad("threshold: give a number above 0");
            }
            once("mark and reason", [mark.as_str(), reason].into_iter())
        }
        Node::EvaluateDataQuality { ruleset, .. } => quality::parse(ruleset).map(drop),
        Node::Quarantine { rules, .. } => {
            if rules.is_empty() {
                return bad("rules: it has none");
            }
            rules.iter().try_for_each(|rule| expression("condition", &rule.condition))
        }
        Node::Target { prefix, partition_keys, format, compression, .. } => {
            check_prefix(prefix)?;
            check_packing(*format, *compression)?;
            once("partition_keys", names(partition_keys))
        }
        Node::ExportDeepAr {
            prefix,
            by,
            time,
            target,
            cat,
            dynamic_feat,
            prediction_length,
            ..
        } => {
            check_prefix(prefix)?;
            by_and_time(by, time)?;
            if by.is_empty() {
                return bad("by: it names no column; a series needs what makes it one");
            }
            named(&[target])?;
            once("cat", names(cat))?;
            once("dynamic_feat", names(dynamic_feat))?;
            match prediction_length {
                Some(0) => bad("prediction_length: it is 0; leave it out for no test channel"),
                _ => Ok(()),
            }
        }
        Node::ExportCsv { prefix, target, features, .. } => {
            check_prefix(prefix)?;
            named(&[target])?;
            once("target and features", names(features).chain([target.as_str()]))
        }
    }
}

fn names(columns: &[String]) -> impl Iterator<Item = &str> {
    columns.iter().map(String::as_str)
}

/// Names that are there, and none twice.
fn once<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() {
            return bad(format!("{what}: a column has no name"));
        }
        if !seen.insert(name) {
            return bad(format!("{what}: {name:?} is named twice"));
        }
    }
    Ok(())
}

fn some(what: &str, columns: &[String]) -> Result<()> {
    match columns.is_empty() {
        true => bad(format!("{what}: it names no column")),
        false => once(what, names(columns)),
    }
}

fn named(columns: &[&String]) -> Result<()> {
    match columns.iter().any(|column| column.is_empty()) {
        true => bad("a column has no name"),
        false => Ok(()),
    }
}

fn two(left: &str, right: &str) -> Result<()> {
    match left == right {
        true => bad(format!("it takes {left:?} on both sides")),
        false => Ok(()),
    }
}

fn by_and_time(by: &[String], time: &str) -> Result<()> {
    once("by and time", names(by).chain([time]))
}

fn expression(what: &str, text: &str) -> Result<()> {
    match text.trim().is_empty() {
        true => bad(format!("{what}: it is empty")),
        false => Ok(()),
    }
}

fn hive_type(text: &str) -> Result<()> {
    formats::hive::to_arrow(text).map(drop)
}

fn check_mappings(mappings: &[Mapping]) -> Result<()> {
    let kept = || mappings.iter().filter(|mapping| !mapping.drop);
    if kept().next().is_none() {
        return bad("it keeps no column");
    }
    once("mappings", kept().map(|mapping| mapping.to.as_str()))?;
    kept().try_for_each(|mapping| {
        hive_type(&mapping.from_type)?;
        hive_type(&mapping.to_type)
    })
}

fn check_choice(choice: &Choice) -> Result<()> {
    let Choice { column, action, types } = choice;
    let one = matches!(action, ChoiceAction::Cast | ChoiceAction::Project);
    match (one, types.len()) {
        (_, 0) => return bad(format!("choice of {column:?}: types names none")),
        (true, 2..) => return bad(format!("choice of {column:?}: give one type")),
        _ => {}
    }
    once("types", names(types))?;
    types.iter().try_for_each(|one| hive_type(one))
}

fn check_aggregates(
    kept: &[String],
    aggregates: &[Aggregate],
    name: impl Fn(&Aggregate) -> String,
) -> Result<()> {
    if aggregates.is_empty() {
        return bad("aggregates: it computes nothing");
    }
    let made: Vec<String> =
        aggregates.iter().map(|one| one.to.clone().unwrap_or_else(|| name(one))).collect();
    once("aggregates", names(kept).chain(names(&made)))
}

fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.len() < 2 || !prefix.ends_with('/') || prefix.starts_with('/') {
        return bad(format!("prefix {prefix:?} must name a folder, as in \"curated/\""));
    }
    match prefix.split('/').find(|folder| folder.starts_with(['_', '.'])) {
        Some(hidden) => {
            bad(format!("folder {hidden:?} of the prefix would be hidden from readers"))
        }
        None => Ok(()),
    }
}

fn check_packing(format: TargetFormat, compression: TargetCompression) -> Result<()> {
    use TargetCompression::{Gzip, None, Snappy};
    match (format, compression) {
        (TargetFormat::Parquet, Gzip | None) => Err(Error::unsupported(format!(
            "compression {compression:?} of Parquet; use zstd or snappy"
        ))),
        (TargetFormat::Json | TargetFormat::Csv, Snappy) => {
            Err(Error::unsupported("compression snappy of JSON or CSV; use zstd, gzip or none"))
        }
        _ => Ok(()),
    }
}
