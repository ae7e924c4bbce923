//! Crawlers as clients describe them, and their crawls.
//!
//! What the lake does not know of a crawler (its role, its target as written) is a row of ours
//! beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;

use base::{Clock, ErrorKind, Timestamp};
use lake::{
    Crawl, CrawlOutcome, CrawlPolicy, CrawlReport, CrawlSchedule, CrawlState, CrawlTarget, Crawler,
    DeleteBehavior, Lake, RecrawlBehavior, Schedule, TableGrouping, UpdateBehavior,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Named, Page, listed, tags};
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::logs::LogStore;
use crate::page::page;
use crate::rooms::{Rooms, epoch_secs};

/// Where Glue's users look for what a crawl said; the stream is the crawler's name.
const LOG_GROUP: &str = "/aws-glue/crawlers";
/// Most crawlers of one BatchGetCrawlers.
const BATCH_MAX: usize = 100;

/// What a crawler is beyond what the lake acts on.
#[derive(Serialize, Deserialize)]
struct Extra {
    role: String,
    description: String,
    path: String,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    configuration: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
    version: u64,
}

impl metastore::Row for Extra {
    const TABLE: &'static str = "aws-glue-crawlers";
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct CreateCrawler {
    name: String,
    role: String,
    database_name: String,
    #[serde(default)]
    description: String,
    targets: Targets,
    #[serde(default)]
    table_prefix: String,
    schedule: Option<String>,
    classifiers: Option<Vec<String>>,
    schema_change_policy: Option<ChangePolicy>,
    recrawl_policy: Option<Recrawl>,
    configuration: Option<String>,
    lineage_configuration: Option<Lineage>,
    crawler_security_configuration: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct UpdateCrawler {
    name: String,
    role: Option<String>,
    database_name: Option<String>,
    description: Option<String>,
    targets: Option<Targets>,
    table_prefix: Option<String>,
    schedule: Option<String>,
    classifiers: Option<Vec<String>>,
    schema_change_policy: Option<ChangePolicy>,
    recrawl_policy: Option<Recrawl>,
    configuration: Option<String>,
    lineage_configuration: Option<Lineage>,
    crawler_security_configuration: Option<String>,
}

/// How a crawler crawls: the members that a new one and a changed one have in common.
struct Manner {
    schedule: Option<String>,
    classifiers: Option<Vec<String>>,
    change: Option<ChangePolicy>,
    recrawl: Option<Recrawl>,
    configuration: Option<String>,
    lineage: Option<Lineage>,
    security: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Targets {
    s3_targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Target {
    path: String,
    #[serde(default)]
    exclusions: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ChangePolicy {
    update_behavior: Option<UpdateBehavior>,
    delete_behavior: Option<DeleteBehavior>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Recrawl {
    recrawl_behavior: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Lineage {
    crawler_lineage_settings: Option<String>,
}

/// The text of Configuration, which is JSON.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Configuration {
    version: Option<f64>,
    #[serde(default)]
    crawler_output: CrawlerOutput,
    #[serde(default)]
    grouping: Grouping,
    #[serde(default)]
    create_partition_index: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct CrawlerOutput {
    #[serde(default)]
    tables: OutputOf,
    #[serde(default)]
    partitions: OutputOf,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OutputOf {
    add_or_update_behavior: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Grouping {
    table_grouping_policy: Option<String>,
    table_level_configuration: Option<u32>,
}

fn only(member: &str, given: Option<&str>, supported: &str) -> Result<(), Fault> {
    match given {
        Some(given) if given != supported => {
            Err(Fault::unsupported(member, &format!("{given:?}; only {supported}")))
        }
        _ => Ok(()),
    }
}

/// Reads a schedule; an empty text is none.
fn schedule(text: &str, now: Timestamp) -> Result<Option<CrawlSchedule>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(CrawlSchedule { expression: text.parse::<Schedule>()?, on: true, seen: now }))
}

impl Manner {
    /// Has the crawler crawl so; the text of Configuration as written, if there is one.
    fn apply(
        self,
        lake: &Lake,
        crawler: &mut Crawler,
        now: Timestamp,
    ) -> Result<Option<String>, Fault> {
        if let Some(names) = self.classifiers {
            names.iter().try_for_each(|name| lake.get_classifier(name).map(drop))?;
            crawler.classifiers = names;
        }
        let lineage = self.lineage.and_then(|lineage| lineage.crawler_lineage_settings);
        only("CrawlerLineageSettings", lineage.as_deref(), "DISABLE")?;
        if let Some(name) = self.security.filter(|name| !name.is_empty()) {
            return Err(Fault::unsupported("CrawlerSecurityConfiguration", &format!("{name:?}")));
        }
        let policy = &mut crawler.policy;
        if let Some(change) = self.change {
            policy.update = change.update_behavior.unwrap_or(policy.update);
            policy.delete = change.delete_behavior.unwrap_or(policy.delete);
        }
        match self.recrawl.and_then(|policy| policy.recrawl_behavior).as_deref() {
            None => {}
            Some("CRAWL_EVERYTHING") => policy.recrawl = RecrawlBehavior::CrawlEverything,
            Some("CRAWL_NEW_FOLDERS_ONLY") => {
                policy.recrawl = RecrawlBehavior::CrawlNewFoldersOnly;
            }
            Some(other) => {
                let only = "only CRAWL_EVERYTHING and CRAWL_NEW_FOLDERS_ONLY";
                return Err(Fault::unsupported("RecrawlBehavior", &format!("{other:?}; {only}")));
            }
        }
        if let Some(text) = &self.configuration {
            configure(policy, text)?;
        }
        if let Some(text) = &self.schedule {
            crawler.schedule = schedule(text, now)?;
        }
        Ok(self.configuration)
    }
}

/// Acts on the text of Configuration; what it does not say is as it is without it.
fn configure(policy: &mut CrawlPolicy, text: &str) -> Result<(), Fault> {
    let given = match text.trim() {
        "" => Configuration::default(),
        text => serde_json::from_str::<Configuration>(text).map_err(|cause| {
            Fault::invalid(format!("Configuration is not one that Forebay acts on: {cause}"))
        })?,
    };
    if let Some(version) = given.version
        && version != 1.0
    {
        return Err(Fault::unsupported("Configuration.Version", &format!("{version}; only 1.0")));
    }
    if given.create_partition_index {
        return Err(Fault::unsupported(
            "Configuration.CreatePartitionIndex",
            "partitions are found quickly without an index",
        ));
    }
    let of_tables = given.crawler_output.tables.add_or_update_behavior;
    only("Tables.AddOrUpdateBehavior", of_tables.as_deref(), "MergeNewColumns")?;
    policy.merge_new_columns = of_tables.is_some();
    // A partition has no schema but its table's, so this is how it always is.
    let of_partitions = given.crawler_output.partitions.add_or_update_behavior;
    only("Partitions.AddOrUpdateBehavior", of_partitions.as_deref(), "InheritFromTable")?;
    let combine = given.grouping.table_grouping_policy;
    only("TableGroupingPolicy", combine.as_deref(), "CombineCompatibleSchemas")?;
    policy.grouping = match (combine, given.grouping.table_level_configuration) {
        // The level is the more exact of the two.
        (_, Some(level)) => TableGrouping::Level(level),
        (Some(_), None) => TableGrouping::CombineCompatibleSchemas,
        (None, None) => TableGrouping::BySimilarity,
    };
    Ok(())
}

impl Targets {
    /// The places, and their paths as written.
    fn read(self) -> Result<(Vec<CrawlTarget>, Vec<String>), Fault> {
        if self.s3_targets.is_empty() {
            return Err(Fault::invalid("S3Targets is empty; give one or more"));
        }
        let (mut places, mut paths) = (Vec::new(), Vec::new());
        for target in self.s3_targets {
            let place = target.path.strip_prefix("s3://").unwrap_or_default();
            let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
            if bucket.is_empty() {
                return Err(Fault::invalid(format!(
                    "Path {:?} is not s3://BUCKET/PREFIX",
                    target.path
                )));
            }
            places.push(CrawlTarget {
                bucket: bucket.to_owned(),
                prefix: prefix.to_owned(),
                exclusions: target.exclusions,
            });
            paths.push(target.path);
        }
        Ok((places, paths))
    }
}

/// Has the crawler look at these places.
fn place(crawler: &mut Crawler, places: Vec<CrawlTarget>) {
    let mut places = places.into_iter();
    if let Some(first) = places.next() {
        crawler.bucket = first.bucket;
        crawler.prefix = first.prefix;
        crawler.exclusions = first.exclusions;
    }
    crawler.also = places.collect();
}

pub(super) async fn create_crawler(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateCrawler = call.input()?;
    let now = rooms.clock.now();
    let (places, paths) = input.targets.read()?;
    let mut crawler = Crawler {
        table_prefix: input.table_prefix,
        ..Crawler::new(&input.name, ("", ""), input.database_name.to_lowercase())
    };
    place(&mut crawler, places);
    let manner = Manner {
        schedule: input.schedule,
        classifiers: input.classifiers,
        change: input.schema_change_policy,
        recrawl: input.recrawl_policy,
        configuration: input.configuration,
        lineage: input.lineage_configuration,
        security: input.crawler_security_configuration,
    };
    let configuration = manner.apply(&rooms.lake, &mut crawler, now)?;
    rooms.lake.create_crawler(&crawler)?;
    let extra = Extra {
        role: input.role,
        description: input.description,
        path: String::new(),
        paths,
        configuration,
        created_at: now,
        updated_at: now,
        version: 1,
    };
    rooms.metastore.put(&input.name, &extra)?;
    tags::add(rooms, "crawler", &input.name, input.tags)?;
    Ok(json!({}).into())
}

pub(super) async fn update_crawler(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UpdateCrawler = call.input()?;
    let mut crawler = rooms.lake.get_crawler(&input.name)?;
    let now = rooms.clock.now();
    let kept = rooms.metastore.get::<Extra>(&input.name)?.map(|seen| seen.row);
    // One that `forebay crawl` made has none.
    let mut extra = kept.unwrap_or_else(|| Extra {
        role: String::new(),
        description: String::new(),
        path: String::new(),
        paths: Vec::new(),
        configuration: None,
        created_at: now,
        updated_at: now,
        version: 1,
    });
    if let Some(targets) = input.targets {
        let (places, paths) = targets.read()?;
        place(&mut crawler, places);
        (extra.path, extra.paths) = (String::new(), paths);
    }
    if let Some(database) = input.database_name {
        crawler.database = database.to_lowercase();
    }
    if let Some(prefix) = input.table_prefix {
        crawler.table_prefix = prefix;
    }
    let manner = Manner {
        schedule: input.schedule,
        classifiers: input.classifiers,
        change: input.schema_change_policy,
        recrawl: input.recrawl_policy,
        configuration: input.configuration,
        lineage: input.lineage_configuration,
        security: input.crawler_security_configuration,
    };
    let configuration = manner.apply(&rooms.lake, &mut crawler, now)?;
    extra.configuration = configuration.or(extra.configuration);
    extra.role = input.role.unwrap_or(extra.role);
    extra.description = input.description.unwrap_or(extra.description);
    extra.updated_at = now;
    extra.version += 1;
    rooms.lake.update_crawler(&crawler).map_err(running)?;
    rooms.metastore.put(&input.name, &extra)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OfCrawler {
    crawler_name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct NewSchedule {
    crawler_name: String,
    #[serde(default)]
    schedule: String,
}

fn no_schedule(name: &str) -> Fault {
    let message = format!("Crawler with name {name} has no schedule");
    Fault::named("NoScheduleException", 400, message)
}

/// Puts a crawler's schedule in force or out of it.
fn switch(rooms: &Rooms, name: &str, on: bool) -> Outcome {
    let crawler = rooms.lake.get_crawler(name)?;
    let schedule = crawler.schedule.ok_or_else(|| no_schedule(name))?;
    if schedule.on == on {
        let (code, is) = match on {
            true => ("SchedulerRunningException", "in force already"),
            false => ("SchedulerNotRunningException", "not in force"),
        };
        return Err(Fault::named(code, 400, format!("The schedule of crawler {name} is {is}")));
    }
    let now = rooms.clock.now();
    let change = |schedule: Option<CrawlSchedule>| {
        // What came due meanwhile is not made up for.
        Ok(schedule.map(|schedule| CrawlSchedule { on, seen: now, ..schedule }))
    };
    rooms.lake.set_crawler_schedule(name, change)?;
    Ok(json!({}).into())
}

pub(super) async fn start_crawler_schedule(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    switch(rooms, &call.input::<OfCrawler>()?.crawler_name, true)
}

pub(super) async fn stop_crawler_schedule(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    switch(rooms, &call.input::<OfCrawler>()?.crawler_name, false)
}

pub(super) async fn update_crawler_schedule(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: NewSchedule = call.input()?;
    let new = schedule(&input.schedule, rooms.clock.now())?;
    rooms.lake.set_crawler_schedule(&input.crawler_name, |_old| Ok(new))?;
    Ok(json!({}).into())
}

fn crawler(rooms: &Rooms, found: &Crawler) -> Result<Value, Fault> {
    let extra = rooms.metastore.get::<Extra>(&found.name)?;
    let written = |at: usize| {
        let extra = extra.as_ref()?;
        // What was kept before there could be several.
        let one = (at == 0 && !extra.row.path.is_empty()).then_some(&extra.row.path);
        extra.row.paths.get(at).or(one).cloned()
    };
    let targets: Vec<Value> = found
        .targets()
        .into_iter()
        .enumerate()
        .map(|(at, target)| {
            let path = written(at);
            let path = path.unwrap_or_else(|| format!("s3://{}/{}", target.bucket, target.prefix));
            json!({"Path": path, "Exclusions": target.exclusions})
        })
        .collect();
    let mut shown = json!({
        "Name": found.name,
        "DatabaseName": found.database,
        "TablePrefix": found.table_prefix,
        "Targets": {"S3Targets": targets},
        "Classifiers": found.classifiers,
        "SchemaChangePolicy": {
            "UpdateBehavior": found.policy.update,
            "DeleteBehavior": found.policy.delete,
        },
        "RecrawlPolicy": {"RecrawlBehavior": found.policy.recrawl},
        "LineageConfiguration": {"CrawlerLineageSettings": "DISABLE"},
        "State": match found.state {
            CrawlState::Ready => "READY",
            CrawlState::Running => "RUNNING",
            CrawlState::Stopping => "STOPPING",
        },
        "Version": extra.as_ref().map_or(1, |extra| extra.row.version),
    });
    if let Some(extra) = extra {
        if let Some(configuration) = &extra.configuration {
            shown["Configuration"] = json!(configuration);
        }
        shown["Role"] = json!(extra.role);
        shown["Description"] = json!(extra.description);
        shown["CreationTime"] = json!(epoch_secs(extra.created_at));
        shown["LastUpdated"] = json!(epoch_secs(extra.updated_at));
    }
    if let Some(schedule) = &found.schedule {
        shown["Schedule"] = json!({
            "ScheduleExpression": schedule.expression.as_str(),
            "State": if schedule.on { "SCHEDULED" } else { "NOT_SCHEDULED" },
        });
    }
    let since = |at: Timestamp| rooms.clock.now().millis().saturating_sub(at.millis());
    if found.state != CrawlState::Ready {
        let running = rooms.lake.list_crawls(&found.name)?.into_iter().next();
        shown["CrawlElapsedTime"] = json!(running.map_or(0, |crawl| since(crawl.started_at)));
    }
    if let Some(last) = &found.last {
        let status = match (&last.error, last.stopped) {
            (_, true) => "CANCELLED",
            (None, false) => "SUCCEEDED",
            (Some(_), false) => "FAILED",
        };
        shown["LastCrawl"] = json!({
            "Status": status,
            "StartTime": epoch_secs(last.started_at),
            "LogGroup": LOG_GROUP,
            "LogStream": found.name,
        });
        if let Some(error) = &last.error {
            shown["LastCrawl"]["ErrorMessage"] = json!(error);
        }
    }
    Ok(shown)
}

pub(super) async fn get_crawler(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<Named>()?.name;
    Ok(json!({"Crawler": crawler(rooms, &rooms.lake.get_crawler(&name)?)?}).into())
}

pub(super) async fn get_crawlers(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Page = call.input()?;
    let all = rooms.lake.list_crawlers()?;
    let key = |found: &Crawler| found.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 1000)?;
    let shown = some.iter().map(|found| crawler(rooms, found)).collect::<Result<_, Fault>>()?;
    listed("Crawlers", shown, next)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ListCrawlers {
    next_token: Option<String>,
    max_results: Option<usize>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

pub(super) async fn list_crawlers(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListCrawlers = call.input()?;
    let mut all: Vec<String> =
        rooms.lake.list_crawlers()?.into_iter().map(|found| found.name).collect();
    tags::keep_tagged(rooms, "crawler", &input.tags, &mut all)?;
    let token = input.next_token.as_deref();
    let (some, next) = page(all, Clone::clone, token, input.max_results, 1000)?;
    listed("CrawlerNames", some.into_iter().map(Value::from).collect(), next)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct BatchGetCrawlers {
    crawler_names: Vec<String>,
}

pub(super) async fn batch_get_crawlers(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let names = call.input::<BatchGetCrawlers>()?.crawler_names;
    if names.is_empty() || names.len() > BATCH_MAX {
        let count = names.len();
        return Err(Fault::invalid(format!("CrawlerNames has {count} names; 1 to {BATCH_MAX}")));
    }
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match rooms.lake.get_crawler(&name) {
            Ok(one) => found.push(crawler(rooms, &one)?),
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({"Crawlers": found, "CrawlersNotFound": missing}).into())
}

fn running(error: base::Error) -> Fault {
    match error.kind() {
        ErrorKind::Conflict => Fault::named("CrawlerRunningException", 400, error.to_string()),
        _ => Fault::from(error),
    }
}

pub(super) async fn start_crawler(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<Named>()?.name;
    if rooms.lake.get_crawler(&name)?.state != CrawlState::Ready {
        let message = format!("Crawler with name {name} has already started");
        return Err(Fault::named("CrawlerRunningException", 400, message));
    }
    let rooms = rooms.clone();
    let (lake, crawled) = (rooms.lake.clone(), name.clone());
    let mut crawl = Box::pin(async move { lake.run_crawler(&crawled).await });
    // The first step takes the crawler, so that whoever asks after this answer finds it running;
    // how the crawl itself goes is told by LastCrawl.
    match futures::poll!(&mut crawl) {
        Poll::Ready(Err(error)) if error.kind() == ErrorKind::Conflict => Err(running(error)),
        Poll::Ready(ended) => {
            say(&rooms.logs, &*rooms.clock, &name, &ended);
            Ok(json!({}).into())
        }
        Poll::Pending => {
            tokio::spawn(async move { say(&rooms.logs, &*rooms.clock, &name, &crawl.await) });
            Ok(json!({}).into())
        }
    }
}

/// Runs a crawler whose schedule is due, and writes to the log what the crawl came to.
pub async fn crawl_as_scheduled(lake: &Lake, logs: &LogStore, clock: &dyn Clock, name: &str) {
    match lake.run_crawler(name).await {
        // It runs already, which is what was wanted; or it was deleted since.
        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
            tracing::info!(crawler = name, %error, "a scheduled crawl was not begun");
        }
        ended => say(logs, clock, name, &ended),
    }
}

/// Writes to the log what a crawl came to.
fn say(logs: &LogStore, clock: &dyn Clock, name: &str, ended: &base::Result<CrawlReport>) {
    let mut lines = Vec::new();
    match ended {
        Ok(report) => {
            for table in &report.tables {
                lines.push(format!(
                    "INFO : table {}: {:?}, {} objects, {} partitions added, {} removed: {}",
                    table.table,
                    table.change,
                    table.objects,
                    table.partitions_added,
                    table.partitions_removed,
                    table.why
                ));
            }
            let altered = |object: &&lake::ObjectReport| object.decision == lake::Decision::Altered;
            for object in report.objects.iter().filter(altered) {
                lines.push(format!("ERROR : {}", object.why));
            }
            lines.push(format!(
                "BENCHMARK : {} objects, {} read with {} bytes, {} known, {} left out",
                report.found, report.read, report.bytes_read, report.known, report.left_out
            ));
        }
        Err(error) => lines.push(format!("ERROR : {error}")),
    }
    for line in lines {
        if let Err(error) = logs.append(LOG_GROUP, name, clock.now(), &line) {
            tracing::warn!(%error, crawler = name, "failed to write a crawl's log");
        }
    }
}

pub(super) async fn stop_crawler(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<Named>()?.name;
    let not_running = |error: base::Error| match error.kind() {
        ErrorKind::Conflict => match rooms.lake.get_crawler(&name).map(|found| found.state) {
            Ok(CrawlState::Stopping) => Fault::named(
                "CrawlerStoppingException",
                400,
                format!("Crawler with name {name} is stopping"),
            ),
            _ => Fault::named("CrawlerNotRunningException", 400, error.to_string()),
        },
        _ => Fault::from(error),
    };
    rooms.lake.stop_crawler(&name).map_err(not_running)?;
    Ok(json!({}).into())
}

pub(super) async fn delete_crawler(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<Named>()?.name;
    rooms.lake.delete_crawler(&name).map_err(running)?;
    rooms.metastore.delete::<Extra>(&name)?;
    tags::forget(rooms, "crawler", &name)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ListCrawls {
    crawler_name: String,
    next_token: Option<String>,
    max_results: Option<usize>,
    #[serde(default)]
    filters: Vec<Filter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Filter {
    field_name: Field,
    filter_operator: Operator,
    field_value: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Field {
    CrawlId,
    State,
    StartTime,
    EndTime,
    DpuHour,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Operator {
    Gt,
    Ge,
    Lt,
    Le,
    Eq,
    Ne,
}

impl Operator {
    fn holds<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        match self {
            Operator::Gt => left > right,
            Operator::Ge => left >= right,
            Operator::Lt => left < right,
            Operator::Le => left <= right,
            Operator::Eq => left == right,
            Operator::Ne => left != right,
        }
    }
}

impl Filter {
    fn keeps(&self, crawl: &Crawl) -> Result<bool, Fault> {
        let moment = |at: Option<Timestamp>| {
            let wanted: i64 = self.field_value.parse().map_err(|_not_a_number| {
                let given = &self.field_value;
                Fault::invalid(format!("FieldValue {given:?} is not milliseconds since 1970"))
            })?;
            Ok(at.is_some_and(|at| self.filter_operator.holds(&at.millis(), &wanted)))
        };
        let text = |has: &str| match self.filter_operator {
            Operator::Eq => Ok(has == self.field_value),
            Operator::Ne => Ok(has != self.field_value),
            _ => Err(Fault::invalid("FilterOperator: CRAWL_ID and STATE have EQ and NE only")),
        };
        match self.field_name {
            Field::CrawlId => text(&crawl.id),
            Field::State => text(state(crawl)),
            Field::StartTime => moment(Some(crawl.started_at)),
            Field::EndTime => moment(crawl.finished_at),
            Field::DpuHour => Err(Fault::unsupported("DPU_HOUR", "nothing is billed here")),
        }
    }
}

fn state(crawl: &Crawl) -> &'static str {
    match crawl.outcome {
        CrawlOutcome::Running => "RUNNING",
        CrawlOutcome::Completed => "COMPLETED",
        CrawlOutcome::Failed => "FAILED",
        CrawlOutcome::Stopped => "STOPPED",
    }
}

fn crawl_shown(crawl: &Crawl) -> Value {
    let mut shown = json!({
        "CrawlId": crawl.id,
        "State": state(crawl),
        "StartTime": epoch_secs(crawl.started_at),
        "LogGroup": LOG_GROUP,
        "LogStream": crawl.crawler,
    });
    if let Some(at) = crawl.finished_at {
        shown["EndTime"] = json!(epoch_secs(at));
    }
    if let Some(error) = &crawl.error {
        shown["ErrorMessage"] = json!(error);
    }
    if crawl.outcome == CrawlOutcome::Completed {
        let summary = json!({
            "TABLE": {
                "ADD": {"Count": crawl.tables_created},
                "UPDATE": {"Count": crawl.tables_updated},
                "DELETE": {"Count": crawl.tables_deprecated},
            },
            "PARTITION": {
                "ADD": {"Count": crawl.partitions_added},
                "DELETE": {"Count": crawl.partitions_removed},
            },
        });
        shown["Summary"] = json!(summary.to_string());
    }
    shown
}

pub(super) async fn list_crawls(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListCrawls = call.input()?;
    let mut fitting = Vec::new();
    for crawl in rooms.lake.list_crawls(&input.crawler_name)? {
        let kept: Result<Vec<bool>, Fault> =
            input.filters.iter().map(|filter| filter.keeps(&crawl)).collect();
        if kept?.into_iter().all(|keeps| keeps) {
            fitting.push(crawl);
        }
    }
    // Newest first, so the keys of the pages count downwards.
    let key = |crawl: &Crawl| {
        let age = i64::MAX - crawl.started_at.millis();
        format!("{age:020}-{}", crawl.id)
    };
    fitting.sort_by_key(key);
    let token = input.next_token.as_deref();
    let (some, next) = page(fitting, key, token, input.max_results, 1000)?;
    listed("Crawls", some.iter().map(crawl_shown).collect(), next)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct GetCrawlerMetrics {
    #[serde(default)]
    crawler_name_list: Vec<String>,
    next_token: Option<String>,
    max_results: Option<usize>,
}

pub(super) async fn get_crawler_metrics(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetCrawlerMetrics = call.input()?;
    let mut all = rooms.lake.list_crawlers()?;
    if !input.crawler_name_list.is_empty() {
        all.retain(|found| input.crawler_name_list.contains(&found.name));
    }
    let key = |found: &Crawler| found.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 1000)?;
    let metrics = some.iter().map(|found| metrics(rooms, found)).collect::<Result<_, Fault>>()?;
    listed("CrawlerMetricsList", metrics, next)
}

fn metrics(rooms: &Rooms, crawler: &Crawler) -> Result<Value, Fault> {
    let crawls = rooms.lake.list_crawls(&crawler.name)?;
    let seconds =
        |crawl: &Crawl| crawl.finished_at.map(|end| epoch_secs(end) - epoch_secs(crawl.started_at));
    let mut runtimes: Vec<f64> = crawls.iter().filter_map(seconds).collect();
    let last = runtimes.first().copied().unwrap_or_default();
    runtimes.sort_by(f64::total_cmp);
    let median = runtimes.get(runtimes.len() / 2).copied().unwrap_or_default();
    let now = epoch_secs(rooms.clock.now());
    let left = match crawls.first() {
        Some(crawl) if crawl.outcome == CrawlOutcome::Running => {
            (median - (now - epoch_secs(crawl.started_at))).max(0.0)
        }
        _ => 0.0,
    };
    let sum = |of: fn(&Crawl) -> u64| crawls.iter().map(of).sum::<u64>();
    Ok(json!({
        "CrawlerName": crawler.name,
        "TimeLeftSeconds": left,
        // Nothing is known of how long it takes before the first crawl has ended.
        "StillEstimating": crawler.state != CrawlState::Ready && runtimes.is_empty(),
        "LastRuntimeSeconds": last,
        "MedianRuntimeSeconds": median,
        "TablesCreated": sum(|crawl| crawl.tables_created),
        "TablesUpdated": sum(|crawl| crawl.tables_updated),
        "TablesDeleted": sum(|crawl| crawl.tables_deprecated),
    }))
}

#[cfg(test)]
mod tests;
