//! The command line: parses, gives meaning, prints, and ends with a documented exit code.

mod args;
mod bench;
mod commands;
mod control;
mod demo;
mod doctor;
mod exit;
mod keys;
mod models;
mod output;
mod readings;
mod sdk;
mod simulate;
mod worker;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as UsageKind;

use args::Cli;
use output::Printer;

fn main() -> ExitCode {
    let wants_json = std::env::args().any(|word| word == "--json");
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let printer = Printer::new(wants_json, color);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return refuse_usage(&usage, printer),
    };
    start_log();
    match run(cli, printer) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let (code, word) = exit::classify(&error);
            printer.error(&error, word, code);
            ExitCode::from(code)
        }
    }
}

/// Help and version are no failures; the rest is usage, as JSON where that was asked for.
fn refuse_usage(usage: &clap::Error, printer: Printer) -> ExitCode {
    let shown = matches!(usage.kind(), UsageKind::DisplayHelp | UsageKind::DisplayVersion);
    if !shown && printer.is_json() {
        let error = exit::Exit::usage(usage.to_string().trim().to_owned()).into();
        printer.error(&error, "usage", exit::USAGE);
        return ExitCode::from(exit::USAGE);
    }
    drop(usage.print());
    ExitCode::from(if shown { exit::OK } else { exit::USAGE })
}

fn run(cli: Cli, printer: Printer) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(Box::pin(commands::run(cli, printer)));
    // A blocked read of standard input or a socket must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    code
}

/// Warnings and errors to stderr; `FOREBAY_LOG` asks for more, as `journal=debug,info`.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::WARN.into())
        .with_env_var("FOREBAY_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
