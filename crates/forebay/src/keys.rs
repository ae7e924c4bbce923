//! `forebay key`: API keys for forecasts in plain JSON.

use anyhow::Result;
use charts::Table;
use serde_json::{Value, json};

use crate::args::{Global, Key};
use crate::commands::call;
use crate::output::Printer;

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: Key, printer: Printer) -> Result<()> {
    match command {
        Key::Create { name, endpoints, expires_days } => {
            let input = json!({"name": name, "endpoints": endpoints, "expires_days": expires_days});
            call(global, "key_create", input, printer, |answer| {
                let key = answer["key"].as_str().unwrap_or_default();
                let (opens, ends) = (opens(answer), ends(answer));
                format!(
                    "{key}\n\nAPI key {name} opens {opens} and ends: {ends}. It is not shown again."
                )
            })
            .await
        }
        Key::List => call(global, "key_list", json!({}), printer, listed).await,
        Key::Delete { name } => {
            call(global, "key_delete", json!({"name": name}), printer, |_| {
                format!("API key {name} is deleted")
            })
            .await
        }
    }
}

fn listed(answer: &Value) -> String {
    let keys = answer["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    if keys.is_empty() {
        return "none".to_owned();
    }
    let mut table = Table::new(["name", "opens", "ends"]);
    for key in keys {
        let name = key["name"].as_str().unwrap_or_default();
        table.row([name, &opens(key), &ends(key)]);
    }
    table.render()
}

fn opens(key: &Value) -> String {
    let endpoints = key["endpoints"].as_array().into_iter().flatten();
    let names: Vec<&str> = endpoints.filter_map(Value::as_str).collect();
    if names.is_empty() { "every endpoint".to_owned() } else { names.join(", ") }
}

fn ends(key: &Value) -> String {
    let end = key["expires_at"].as_i64().and_then(chrono::DateTime::from_timestamp_millis);
    let Some(end) = end else { return "never".to_owned() };
    let ended = if key["expired"] == true { ", has ended" } else { "" };
    format!("{}{ended}", end.format("%Y-%m-%d %H:%M UTC"))
}
