//! `forebay doctor`: what this machine and data directory can do, and what to mend.

use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::Global;
use crate::control::{Control, data_dir, settings};
use crate::exit::{FAILED, OK};
use crate::output::Printer;

struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

/// Runs every check; exit code 1 when one of them failed.
pub(crate) async fn run(global: &Global, printer: Printer) -> Result<u8> {
    let dir = data_dir(global);
    let mut checks = vec![settings_check(global), processor(), descriptors(), stable_storage(&dir)];
    let server = Control::server(global).ok();
    match &server {
        Some(control) => checks.push(server_check(control).await),
        None => checks.extend(ports(global)),
    }
    let ok = checks.iter().all(|check| check.ok);
    let shown: Vec<Value> = checks
        .iter()
        .map(|check| json!({"check": check.name, "ok": check.ok, "detail": check.detail}))
        .collect();
    printer.answer(&json!({"ok": ok, "checks": shown}), || {
        let line = |c: &Check| {
            format!("{} {:<14} {}", if c.ok { "ok  " } else { "FAIL" }, c.name, c.detail)
        };
        checks.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(if ok { OK } else { FAILED })
}

fn settings_check(global: &Global) -> Check {
    let result = settings(global, &[]);
    let detail = match &result {
        Ok(_) => "readable and consistent".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    Check { name: "settings", ok: result.is_ok(), detail }
}

fn processor() -> Check {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernels = deepar::Isa::detect();
    Check {
        name: "processor",
        ok: true,
        detail: format!("{cores} cores, forecaster kernels: {kernels:?}"),
    }
}

fn descriptors() -> Check {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let soft = line.split_whitespace().nth(3).and_then(|n| n.parse::<u64>().ok());
    let detail = match soft {
        Some(soft) => format!("{soft} open files, about {} connections", soft.saturating_sub(100)),
        None => "the limit on open files is unknown here".to_owned(),
    };
    Check { name: "descriptors", ok: soft.is_none_or(|soft| soft >= 512), detail }
}

/// Times real syncs where the data will lie: a receipt cannot be quicker than this.
fn stable_storage(dir: &Path) -> Check {
    let existing = dir.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let path = existing.join(format!(".forebay-doctor-{}", std::process::id()));
    let measure = || -> std::io::Result<f64> {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::create(&path)?;
        file.write_all_at(&vec![0; 1 << 20], 0)?;
        file.sync_all()?;
        let (rounds, started) = (50, Instant::now());
        for round in 0..rounds {
            file.write_all_at(&[1; 4096], round * 4096)?;
            file.sync_data()?;
        }
        Ok(started.elapsed().as_secs_f64() * 1000.0 / rounds as f64)
    };
    let measured = measure();
    drop(std::fs::remove_file(&path));
    let detail = match &measured {
        Ok(millis) => format!("{millis:.2} ms a sync in {}", existing.display()),
        Err(cause) => format!("cannot write and sync in {}: {cause}", existing.display()),
    };
    Check { name: "stable storage", ok: measured.is_ok(), detail }
}

fn ports(global: &Global) -> Vec<Check> {
    let Ok(settings) = settings(global, &[]) else { return Vec::new() };
    let named = [
        ("API port", settings.http.addr),
        ("MQTT port", settings.mqtt.addr),
        ("MQTT TLS port", settings.mqtt.tls_addr),
        ("MQTT WebSocket port", settings.mqtt.websocket_addr),
    ];
    let check = |(name, addr)| match TcpListener::bind(addr) {
        Ok(_free) => Check { name, ok: true, detail: format!("{addr} is free") },
        Err(cause) => Check { name, ok: false, detail: format!("{addr}: {cause}") },
    };
    named.into_iter().map(check).collect()
}

async fn server_check(control: &Control) -> Check {
    match control.call("status", json!({})).await {
        Err(error) => Check { name: "server", ok: false, detail: format!("{error:#}") },
        Ok(status) => {
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            let ok = status["ok"].as_bool().unwrap_or(false);
            let detail = match problems.first() {
                None => format!("running, {} sessions", status["sessions"]),
                Some(problem) => problem.as_str().unwrap_or_default().to_owned(),
            };
            Check { name: "server", ok, detail }
        }
    }
}
