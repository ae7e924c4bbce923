//! What each command does: one call of the node, and how its answer is shown.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use base::Error;
use charts::Table;
use node::Node;
use serde_json::{Map, Value, json};

use crate::args::{
    Cli, Command, Device, Endpoint, Global, Job, Lake, Rule, Serve, Stream, Topic, Why,
};
use crate::control::{self, Control, data_dir};
use crate::exit::{Exit, OK};
use crate::output::{Printer, human_bytes, human_count};
use crate::{bench, demo, doctor, keys, models, sdk, worker};

/// Columns of what is shown side by side, and of a topic above it.
const WIDTH: usize = 100;
const TOPIC_CHARS_MAX: usize = 70;

/// Runs one command; its exit code.
pub(crate) async fn run(cli: Cli, printer: Printer) -> Result<u8> {
    let Cli { global, command } = cli;
    match command {
        Command::Demo(args) => return demo::run(&global, args, printer).await,
        Command::Serve(args) => serve(&global, args, printer).await?,
        Command::Env => sdk::env(&global, printer).await?,
        Command::Notebook { folder } => sdk::notebook(&global, &folder, printer).await?,
        Command::Device(command) => device(&global, command, printer).await?,
        Command::Topic(command) => topic(&global, command, printer).await?,
        Command::Rule(command) => rule(&global, command, printer).await?,
        Command::Stream(command) => stream(&global, command, printer).await?,
        Command::Lake(command) => lake(&global, command, printer).await?,
        Command::Job(command) => job(&global, command, printer).await?,
        Command::Train(args) => return models::train(args, printer),
        Command::Forecast(args) => models::forecast(&args, printer)?,
        Command::Backtest(args) => models::backtest(&args, printer)?,
        Command::Endpoint(command) => endpoint(&global, command, printer).await?,
        Command::Key(command) => keys::run(&global, command, printer).await?,
        Command::Why(Why::Message { id }) => why_message(&global, id, printer).await?,
        Command::Why(Why::Client { id }) => why_client(&global, id, printer).await?,
        Command::Bench(command) => bench::run(command, global.data_dir.as_deref(), printer).await?,
        Command::Doctor => return doctor::run(&global, printer).await,
        Command::Worker(command) => worker::run(command).await?,
    }
    Ok(OK)
}

/// Runs one operation and prints its answer.
pub(crate) async fn call(
    global: &Global,
    operation: &str,
    input: Value,
    printer: Printer,
    text: impl FnOnce(&Value) -> String,
) -> Result<()> {
    let control = Control::connect(global).await?;
    let answer = control.call(operation, input).await;
    control.close().await;
    let answer = answer?;
    printer.answer(&answer, || text(&answer));
    Ok(())
}

async fn serve(global: &Global, args: Serve, printer: Printer) -> Result<()> {
    if args.console.is_some() {
        return Err(Error::unsupported("not supported yet: --console").into());
    }
    let mut changes = Vec::new();
    let mut change = |setting: &str, value: Option<String>| {
        changes.extend(value.map(|value| format!("{setting}={value}")));
    };
    change("http.addr", args.http.map(|addr| addr.to_string()));
    change("mqtt.addr", args.mqtt.map(|addr| addr.to_string()));
    change("mqtt.tls_addr", args.mqtts.map(|addr| addr.to_string()));
    change("mqtt.websocket_addr", args.mqtt_ws.map(|addr| addr.to_string()));
    change("journal.bytes_max", args.journal_max_bytes.map(|bytes| bytes.to_string()));
    match args.mqtt_anonymous_policy.as_deref() {
        None => {}
        Some("none") => changes.push("mqtt.anonymous=false".to_owned()),
        Some(file) => changes.push(format!("mqtt.anonymous_policy={file:?}")),
    }
    let settings = control::settings(global, &changes)?;
    let clock = Arc::new(base::SystemClock);
    let node = Node::open(&data_dir(global), settings, control::program()?, clock).await?;
    let addresses = node.serve().await?;
    let shown = serde_json::to_value(addresses)?;
    printer.answer(&shown, || {
        format!(
            "API http://{}   MQTT {}   over mutual TLS {}   over WebSocket {}\nCtrl-C ends it; data in {}",
            addresses.http,
            addresses.mqtt,
            addresses.mqtts,
            addresses.mqtt_ws,
            data_dir(global).display()
        )
    });
    until_told_to_stop().await?;
    printer.note("stopping");
    node.stop().await;
    Ok(())
}

/// What a client was refused, and by which statement.
async fn why_client(global: &Global, id: String, printer: Printer) -> Result<()> {
    let control = Control::server(global)?;
    let answer = control.call("why_client", json!({"name": id})).await?;
    printer.answer(&answer, || {
        let refused = answer["refusals"]["refused"].as_array().cloned().unwrap_or_default();
        if refused.is_empty() {
            return format!("{id} was refused nothing since the server started");
        }
        let line = |one: &Value| {
            let why = one["why"]["text"].as_str().filter(|text| !text.is_empty());
            let why = why.or(one["reason"].as_str()).unwrap_or_default();
            let action = one["action"].as_str().unwrap_or("connect");
            let name = one["name"].as_str().unwrap_or_default();
            format!("{action} {name} ({} times): {why}", one["times"])
        };
        refused.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

/// What became of a message, stage by stage.
async fn why_message(global: &Global, id: String, printer: Printer) -> Result<()> {
    let control = Control::connect_or_make(global).await?;
    let answer = control.call("why_message", json!({"name": id})).await;
    control.close().await;
    let answer = answer?;
    printer.answer(&answer, || told(&answer));
    Ok(())
}

/// The stages as lines.
fn told(answer: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut lines = Vec::new();
    if answer["in_log"] == json!(false) {
        lines.push(format!(
            "message {} has left the log, which begins at {}: every stream had passed it",
            answer["offset"], answer["log_begins_at"]
        ));
    } else {
        let message = &answer["message"];
        lines.push(format!(
            "message {} on {} from {} (QoS {}, {} bytes) is in the log",
            answer["offset"],
            text_of(&message["topic"]),
            text_of(&message["client_id"]),
            message["qos"],
            message["payload_bytes"]
        ));
    }
    for rule in list(&answer["rules"]) {
        let why = rule["why"].as_str().unwrap_or_default();
        let decision = match rule["decision"].as_str().unwrap_or_default() {
            "matched" => format!("matched, and gave {}", text_of(&rule["output"])),
            "where_not_true" => "WHERE was not true:".to_owned(),
            "failed" => format!("failed: {why}"),
            "disabled" => "was disabled".to_owned(),
            _ => format!("did not look at it: {why}"),
        };
        lines.push(format!(
            "rule {} (version {}) {decision}",
            text_of(&rule["rule"]),
            rule["version"]
        ));
        lines.extend(list(&rule["terms"]).iter().map(|one| format!("  {}", term(one))));
    }
    for stream in list(&answer["streams"]) {
        let state = text_of(&stream["state"]);
        lines.push(format!("stream {}: {state}", text_of(&stream["stream"])));
        lines.extend(
            list(&stream["set_aside"]).iter().map(|why| format!("  set aside, {}", text_of(why))),
        );
        lines.extend(list(&stream["objects"]).iter().map(|place| format!("  {}", text_of(place))));
        if let Some(why) = stream["retrying"].as_str() {
            lines.push(format!("  it tries again: {why}"));
        }
    }
    if list(&answer["streams"]).is_empty() {
        lines.push("no stream took it".to_owned());
    }
    lines.join("\n")
}

/// Each message before and after, and what it came to.
fn tried(answer: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut out = String::new();
    for row in list(&answer["results"]) {
        let (outcome, after) = match row["outcome"].as_str() {
            Some("pass") => ("passed", text_of(&row["output"])),
            Some("failed") => ("failed", text_of(&row["reason"])),
            _ => ("no match", list(&row["terms"]).iter().map(term).collect::<Vec<_>>().join("\n")),
        };
        let before = row.get("payload").unwrap_or(&row["payload_base64"]);
        let topic = charts::plain(&text_of(&row["topic"]), TOPIC_CHARS_MAX);
        out += &format!("{} {topic}: {outcome}\n", row["offset"]);
        out += &charts::beside(&text_of(before), &after, WIDTH);
    }
    let count = |key: &str| answer[key].as_u64().unwrap_or(0);
    if count("left_out") > 0 {
        out += &format!("{} older ones are counted and not shown\n", count("left_out"));
    }
    out += &format!(
        "{} tried: {} passed, {} did not match ({} of them by their topic), {} failed",
        human_count(count("tried")),
        human_count(count("passed")),
        human_count(count("no_match")),
        human_count(count("not_selected")),
        human_count(count("failed"))
    );
    if count("unreadable") > 0 {
        out += &format!("; {} could not be read", human_count(count("unreadable")));
    }
    out
}

/// A term of WHERE that decided, with what it saw.
fn term(term: &Value) -> String {
    let saw = term["saw"].as_array().map(Vec::as_slice).unwrap_or_default();
    let saw: Vec<String> =
        saw.iter().map(|pair| format!("{} was {}", text_of(&pair[0]), text_of(&pair[1]))).collect();
    let saw = if saw.is_empty() { String::new() } else { format!("; {}", saw.join(", ")) };
    format!("{} was {}{saw}", text_of(&term["term"]), text_of(&term["value"]))
}

/// Ctrl-C or SIGTERM.
pub(crate) async fn until_told_to_stop() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn device(global: &Global, command: Device, printer: Printer) -> Result<()> {
    let (operation, name, kit, host, port) = match command {
        Device::Add { name, kit, host, port } => ("device_add", name, kit, host, port),
        Device::Kit { name, kit, host, port } => ("device_kit", name, kit, host, port),
        Device::List => {
            return call(global, "device_list", json!({}), printer, |answer| {
                rows_text(&answer["devices"], &["name", "certificate_id", "status"])
            })
            .await;
        }
        Device::Revoke { name } => {
            return call(global, "device_revoke", json!({"name": name}), printer, |answer| {
                format!(
                    "revoked {} certificates of {}",
                    answer["certificates"].as_array().map_or(0, Vec::len),
                    name
                )
            })
            .await;
        }
    };
    let control = Control::connect_or_make(global).await?;
    // A running server knows the port devices reach it at, unless told another.
    let port = control.addresses().filter(|_| port == 8883).map_or(port, |a| a.mqtts.port());
    let answer = control.call(operation, json!({"name": name, "host": host, "port": port})).await;
    control.close().await;
    let answer = answer?;
    write_kit(&kit, &answer)?;
    let shown = json!({
        "name": name,
        "certificate_id": answer["certificate_id"],
        "kit": kit,
        "endpoint": format!("{host}:{port}"),
    });
    printer.answer(&shown, || {
        format!(
            "{name}: certificate {}\nkit in {}, for {host}:{port}",
            text_of(&answer["certificate_id"]),
            kit.display()
        )
    });
    Ok(())
}

/// Writes the files of a kit. They come as data, so that a server and its user may be two.
fn write_kit(folder: &Path, answer: &Value) -> Result<()> {
    let files = answer["files"].as_array().context("the answer holds no kit")?;
    let files = files.iter().map(|file| {
        let text = |key: &str| file[key].as_str().map(str::to_owned).context("a file of the kit");
        Ok(identity::KitFile {
            name: text("name")?,
            text: identity::Secret::new(text("text")?),
            kind: match file["kind"].as_str() {
                Some("private_key") => identity::KitFileKind::PrivateKey,
                Some("program") => identity::KitFileKind::Program,
                _ => identity::KitFileKind::Public,
            },
        })
    });
    let files = files.collect::<Result<Vec<_>>>()?;
    Ok(identity::write_files(folder, &files)?)
}

async fn topic(global: &Global, command: Topic, printer: Printer) -> Result<()> {
    let control = Control::server(global)?;
    match command {
        Topic::Publish { topic, payload } => {
            let answer =
                control.call("topic_publish", json!({"topic": topic, "payload": payload})).await?;
            printer.answer(&answer, || format!("offset {}", answer["offset"]));
            Ok(())
        }
        Topic::Tail { filter, count } => {
            let mut seen = 0u64;
            tokio::task::block_in_place(|| {
                control.tail(&filter, |message| {
                    seen += 1;
                    if printer.is_json() {
                        printer.line(&message.to_string());
                    } else {
                        let payload = message.get("payload").unwrap_or(&message["payload_base64"]);
                        printer.line(&format!(
                            "{} {}",
                            text_of(&message["topic"]),
                            text_of(payload)
                        ));
                    }
                    count.is_none_or(|count| seen < count)
                })
            })
        }
    }
}

async fn rule(global: &Global, command: Rule, printer: Printer) -> Result<()> {
    let done = |what: &'static str, name: String| move |_: &Value| format!("rule {name} {what}");
    match command {
        Rule::Try { sql, last } => {
            let input = json!({"sql": sql, "last": last});
            call(global, "rule_try", input, printer, tried).await
        }
        Rule::Create { name, sql, stream, separator } => {
            let separator = match separator.as_str() {
                "newline" => json!("\n"),
                "tab" => json!("\t"),
                "crlf" => json!("\r\n"),
                "comma" => json!(","),
                "none" => Value::Null,
                other => {
                    return Err(Exit::usage(format!(
                        "--separator {other:?}: use newline, none, tab, crlf or comma"
                    ))
                    .into());
                }
            };
            let input = json!({"name": name, "sql": sql, "stream": stream, "separator": separator});
            call(global, "rule_put", input, printer, done("is in force", name)).await
        }
        Rule::List => {
            call(global, "rule_list", json!({}), printer, |answer| {
                rows_text(&answer["rules"], &["name", "state", "stream", "sql"])
            })
            .await
        }
        Rule::Enable { name } => {
            call(
                global,
                "rule_enable",
                json!({"name": name, "enabled": true}),
                printer,
                done("is enabled", name),
            )
            .await
        }
        Rule::Disable { name } => {
            call(
                global,
                "rule_enable",
                json!({"name": name, "enabled": false}),
                printer,
                done("is disabled", name),
            )
            .await
        }
        Rule::Delete { name } => {
            call(global, "rule_delete", json!({"name": name}), printer, done("is deleted", name))
                .await
        }
    }
}

async fn stream(global: &Global, command: Stream, printer: Printer) -> Result<()> {
    match command {
        Stream::Create {
            name,
            bucket,
            prefix,
            error_prefix,
            size_mb,
            interval_secs,
            gzip,
            lineage,
        } => {
            let input = json!({
                "name": name, "bucket": bucket, "prefix": prefix, "error_prefix": error_prefix,
                "size_bytes": u64::from(size_mb) << 20, "interval_secs": interval_secs, "gzip": gzip,
                "lineage": lineage,
            });
            call(global, "stream_create", input, printer, |_| {
                format!("stream {name} delivers to {bucket}/{prefix}")
            })
            .await
        }
        Stream::List => {
            call(global, "stream_list", json!({}), printer, |answer| {
                rows_text(
                    &answer["streams"],
                    &["name", "bucket", "prefix", "delivered", "set_aside", "lag", "retrying"],
                )
            })
            .await
        }
        Stream::Flush { name } => {
            call(global, "stream_flush", json!({"name": name}), printer, |answer| {
                format!("delivered up to offset {}", answer["next"])
            })
            .await
        }
        Stream::Delete { name } => {
            call(global, "stream_delete", json!({"name": name}), printer, |_| {
                format!("stream {name} is deleted")
            })
            .await
        }
    }
}

/// A comparison of formats as a small table; how much less than JSON stands in brackets.
fn comparison(answer: &Value) -> String {
    let header = ["format", "size", "load", "query reads", "query"].map(str::to_owned);
    let mut shown = Table::new(&header);
    let formats: Vec<&Value> = answer["formats"].as_array().into_iter().flatten().collect();
    let of_json = |member: &str| formats.first().and_then(|json| json[member].as_f64());
    for format in &formats {
        let less = |member: &str| match (of_json(member), format[member].as_f64()) {
            (Some(json), Some(own)) if own > 0.0 && json != own => format!(" ({:.1}x)", json / own),
            _ => String::new(),
        };
        let bytes = |member: &str| {
            format!("{}{}", human_bytes(format[member].as_u64().unwrap_or(0)), less(member))
        };
        let seconds = |member: &str| {
            format!("{:.3} s{}", format[member].as_f64().unwrap_or(0.0), less(member))
        };
        shown.row(vec![
            text_of(&format["format"]),
            bytes("bytes"),
            seconds("load_cpu_seconds"),
            bytes("query_bytes"),
            seconds("query_cpu_seconds"),
        ]);
    }
    let all = if answer["whole"] == true { "all" } else { "the first" };
    format!(
        "{}\n{all} {} rows of {}; load and query are seconds of processor; the query reads {}",
        shown.render(),
        answer["rows"],
        text_of(&answer["table"]),
        text_of(&answer["column"])
    )
}

async fn lake(global: &Global, command: Lake, printer: Printer) -> Result<()> {
    match command {
        Lake::Sql { sql, database } => {
            let input = json!({"sql": sql, "database": database});
            call(global, "lake_sql", input, printer, table_text).await
        }
        Lake::Compare { table, database, max_mb } => {
            let bytes_max = max_mb * 1024 * 1024;
            let input = json!({"table": table, "database": database, "bytes_max": bytes_max});
            call(global, "lake_compare", input, printer, comparison).await
        }
        Lake::Ls { path: _, tables: true } => {
            call(global, "lake_tables", json!({}), printer, |answer| {
                rows_text(&answer["tables"], &["database", "name", "format", "location", "columns"])
            })
            .await
        }
        Lake::Ls { path, tables: false } => {
            let columns: &[&str] = if path.is_some() { &["key", "bytes"] } else { &["name"] };
            call(global, "lake_ls", json!({"path": path}), printer, |answer| {
                rows_text(
                    if path.is_some() { &answer["objects"] } else { &answer["buckets"] },
                    columns,
                )
            })
            .await
        }
        Lake::Report { crawler: None, crawl: _ } => {
            call(global, "lake_report", json!({}), printer, |answer| {
                rows_text(
                    &answer["crawlers"],
                    &["crawler", "state", "places", "schedule", "last", "error"],
                )
            })
            .await
        }
        Lake::Report { crawler, crawl } => {
            let input = json!({"crawler": crawler, "crawl": crawl});
            call(global, "lake_report", input, printer, |answer| {
                format!(
                    "{}\n\n{}",
                    rows_text(
                        &answer["tables"],
                        &["table", "change", "objects", "partitions_added", "why"],
                    ),
                    rows_text(&answer["objects"], &["key", "decision", "why"]),
                )
            })
            .await
        }
        Lake::Crawl { path, database, table_prefix } => {
            let input = json!({"path": path, "database": database, "table_prefix": table_prefix});
            call(global, "lake_crawl", input, printer, |answer| {
                rows_text(
                    &answer["tables"],
                    &["table", "change", "objects", "partitions_added", "why"],
                )
            })
            .await
        }
        Lake::Compact { table, files_min, min_age_secs, small_file_bytes, target_file_bytes } => {
            let input = json!({
                "table": table, "files_min": files_min, "min_age_secs": min_age_secs,
                "small_file_bytes": small_file_bytes, "target_file_bytes": target_file_bytes,
            });
            call(global, "lake_compact", input, printer, |answer| {
                let columns = [
                    "folder",
                    "files_before",
                    "files_after",
                    "rows",
                    "bytes_before",
                    "bytes_after",
                ];
                let done = rows_text(&answer["folders"], &columns);
                match answer["left"].as_array().is_none_or(Vec::is_empty) {
                    true => done,
                    false => format!("{done}\n{}", rows_text(&answer["left"], &["name", "why"])),
                }
            })
            .await
        }
        Lake::Retain { table, days, bytes, off } => {
            let input = json!({"table": table, "days": days, "bytes": bytes, "off": off});
            call(global, "lake_retain", input, printer, |answer| {
                rows_text(&answer["folders"], &["folder", "files", "bytes", "why"])
            })
            .await
        }
        Lake::DropRetired { keep_secs } => {
            call(global, "lake_drop_retired", json!({"keep_secs": keep_secs}), printer, |answer| {
                format!("{} objects deleted", answer["objects"])
            })
            .await
        }
    }
}

async fn job(global: &Global, command: Job, printer: Printer) -> Result<()> {
    match command {
        Job::Create { file: Some(file), replace, .. } => {
            let input = json!({"toml": text_of_file(&file)?, "replace": replace});
            call(global, "job_put", input, printer, |answer| {
                format!("job {}: {} nodes", text_of(&answer["name"]), answer["nodes"])
            })
            .await
        }
        Job::Show { name, toml: _ } => {
            call(global, "job_show", json!({"name": name}), printer, |answer| {
                text_of(&answer["toml"]).trim_end().to_owned()
            })
            .await
        }
        Job::Preview { name, file, node } => {
            let text = file.as_deref().map(text_of_file).transpose()?;
            let input = json!({"name": name, "toml": text, "node": node});
            call(global, "job_preview", input, printer, table_text).await
        }
        Job::Trigger { name, cron, on_new_data, off } => {
            let input =
                json!({"name": name, "cron": cron, "new_data_secs": on_new_data, "off": off});
            call(global, "job_trigger", input, printer, |answer| match answer["active"].as_bool() {
                Some(true) => format!("job {name} runs {}", answer["when"]),
                _ => format!("job {name} runs when it is asked to"),
            })
            .await
        }
        Job::Create { name, source, target, table, sql, compression, partition_by, .. } => {
            let shown = |part: &Option<String>| part.clone().unwrap_or_default();
            let (name, source, table) = (shown(&name), shown(&source), shown(&table));
            let input = json!({
                "name": name, "source": source, "target": target, "table": table, "sql": sql,
                "compression": compression, "partition_by": partition_by,
            });
            call(global, "job_create", input, printer, |_| {
                format!("job {name}: {source} -> {table}")
            })
            .await
        }
        Job::Run { name } => {
            call(global, "job_run", json!({"name": name}), printer, |answer| {
                format!(
                    "{}: {} inputs, {} rows in, {} rows out, {} set aside",
                    text_of(&answer["state"]),
                    answer["inputs"],
                    answer["rows_in"],
                    answer["rows_out"],
                    answer["set_aside"]
                )
            })
            .await
        }
        Job::Status { name } => {
            call(global, "job_status", json!({"name": name}), printer, |answer| {
                rows_text(
                    &answer["runs"],
                    &["job", "run_id", "state", "rows_in", "rows_out", "set_aside", "error"],
                )
            })
            .await
        }
    }
}

async fn endpoint(global: &Global, command: Endpoint, printer: Printer) -> Result<()> {
    match command {
        Endpoint::List => {
            call(global, "endpoint_list", json!({}), printer, |answer| {
                endpoints_text(&answer["endpoints"])
            })
            .await
        }
        Endpoint::Create { name, model } => {
            let model = std::path::absolute(&model).context("the model's path")?;
            let input = json!({"name": name, "model": model});
            call(global, "endpoint_create", input, printer, |answer| {
                format!("endpoint {name}: {}", text_of(&answer["status"]))
            })
            .await
        }
        Endpoint::Delete { name } => {
            call(global, "endpoint_delete", json!({"name": name}), printer, |_| {
                format!("endpoint {name} is deleted")
            })
            .await
        }
        Endpoint::Invoke { name, input, target_variant } => {
            let mut body = Vec::new();
            if input == "-" {
                std::io::stdin().read_to_end(&mut body).context("reading standard input")?;
            } else {
                body = std::fs::read(&input).map_err(|e| Error::io(format!("read {input}"), e))?;
            }
            let control = Control::connect(global).await?;
            let answer = control.invoke(&name, target_variant.as_deref(), body).await;
            control.close().await;
            let answer = answer?;
            printer.answer(&answer, || answer.to_string());
            Ok(())
        }
        Endpoint::Actuals { name, sql, database, clear } => {
            let input = json!({"name": name, "sql": sql, "database": database, "clear": clear});
            call(global, "endpoint_actuals", input, printer, |answer| match &answer["sql"] {
                Value::Null => format!("endpoint {name} has no query of actuals"),
                sql => text_of(sql),
            })
            .await
        }
        Endpoint::Ab { name, since } => {
            let input = json!({"name": name, "since": since});
            call(global, "endpoint_ab", input, printer, scored).await
        }
        Endpoint::Traffic { name, weights } => {
            let weights = weights.iter().map(|word| weight(word)).collect::<Result<Map<_, _>>>()?;
            let input = json!({"name": name, "weights": weights});
            call(global, "endpoint_traffic", input, printer, |answer| {
                format!("endpoint {name}: {}", shares_text(&answer["variants"]))
            })
            .await
        }
        Endpoint::Rollback { name, why } => {
            let input = json!({"name": name, "why": why});
            call(global, "endpoint_rollback", input, printer, |answer| {
                format!("endpoint {name} serves {} again", text_of(&answer["config"]))
            })
            .await
        }
    }
}

/// How the variants of an endpoint did, and which leads.
fn scored(answer: &Value) -> String {
    let rounded = |value: &Value| match value.as_f64() {
        Some(number) => format!("{number:.4}"),
        None => "-".to_owned(),
    };
    let header =
        ["variant", "model", "forecasts", "series", "points", "loss", "within 80 %", "MASE"];
    let mut table = Table::new(&header[..]);
    let mut open = 0;
    for one in answer["variants"].as_array().into_iter().flatten() {
        table.row([
            text_of(&one["variant"]),
            text_of(&one["model"]),
            text_of(&one["forecasts"]),
            text_of(&one["series"]),
            text_of(&one["points"]),
            rounded(&one["mean_weighted_quantile_loss"]),
            rounded(&one["coverage_80"]),
            rounded(&one["mase"]),
        ]);
        open += one["waiting"].as_u64().unwrap_or(0);
    }
    let mut text = format!("{}\n{}", table.render(), text_of(&answer["verdict"]));
    if open > 0 {
        text += &format!("\n{} forecasts wait for their readings", human_count(open));
    }
    let captured = &answer["captured"]["not_scorable"];
    for (why, count) in captured.as_object().into_iter().flatten() {
        text += &format!("\n{count} requests are not scored: {why}");
    }
    text
}

/// The rows of an answer as a table.
fn table_text(answer: &Value) -> String {
    let header: Vec<String> =
        answer["columns"].as_array().into_iter().flatten().map(text_of).collect();
    let rows: Vec<Vec<String>> = answer["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| row.as_array().into_iter().flatten().map(text_of).collect())
        .collect();
    let scanned = human_bytes(answer["bytes_scanned"].as_u64().unwrap_or(0));
    let mut shown = Table::new(&header);
    let count = rows.len();
    for row in rows {
        shown.row(row);
    }
    format!("{}\n{count} rows, {scanned} scanned", shown.render())
}

fn text_of_file(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|cause| Error::io(format!("read {}", path.display()), cause).into())
}

/// `VARIANT=N`.
fn weight(word: &str) -> Result<(String, Value)> {
    let number = |text: &str| text.parse::<f64>().ok().filter(|weight| weight.is_finite());
    let found = word.split_once('=').and_then(|(name, text)| Some((name, number(text)?)));
    let (name, weight) =
        found.ok_or_else(|| Exit::usage(format!("{word:?} is not VARIANT=WEIGHT, as in a=90")))?;
    Ok((name.to_owned(), json!(weight)))
}

/// What each variant answers of the requests.
fn shares_text(variants: &Value) -> String {
    let share = |one: &Value| {
        let copies = if one["shadow"] == json!(true) { " in copies" } else { "" };
        let percent = one["share"].as_f64().unwrap_or(0.0) * 100.0;
        format!("{} {percent:.1} %{copies}", text_of(&one["name"]))
    };
    let all: Vec<String> = variants.as_array().into_iter().flatten().map(share).collect();
    all.join(", ")
}

/// Endpoints, with what is asked of each and what it serves apart.
fn endpoints_text(endpoints: &Value) -> String {
    let mut table = Table::new(["name", "status", "serves", "wanted", "variants", "note"]);
    let endpoints = endpoints.as_array().map(Vec::as_slice).unwrap_or_default();
    if endpoints.is_empty() {
        return "none".to_owned();
    }
    for one in endpoints {
        let wanted = Some(&one["wanted"]).filter(|wanted| **wanted != one["config"]);
        let trial = one["on_trial"]["share"].as_f64().filter(|_| one["pending"].is_object());
        let note = match trial {
            Some(share) => format!("{:.0} % of the requests are on trial", share * 100.0),
            None => text_of(&one["failure_reason"]),
        };
        table.row([
            text_of(&one["name"]),
            text_of(&one["status"]),
            text_of(&one["config"]),
            wanted.map(text_of).unwrap_or_default(),
            shares_text(&one["variants"]),
            note,
        ]);
    }
    table.render()
}

/// Objects of a list as a table of the named fields.
fn rows_text(rows: &Value, fields: &[&str]) -> String {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "none".to_owned();
    }
    let mut table = Table::new(fields);
    for row in rows {
        table.row(fields.iter().map(|field| text_of(&row[*field])));
    }
    table.render()
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
