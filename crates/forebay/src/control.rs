//! The way from a command to the node: the running server of the data directory over its
//! API, or, when there is none, the directory opened right here.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base::{Error, ErrorKind};
use node::{ADDRESS_FILE, Addresses, Node, Settings, TOKEN_FILE, admin};
use serde_json::Value;

use crate::args::Global;
use crate::exit::Exit;

/// Where everything is kept unless told otherwise.
pub(crate) const DATA_DIR: &str = "forebay-data";

/// A node to talk to.
pub(crate) enum Control {
    /// A running server.
    Server { addresses: Addresses, token: String, agent: ureq::Agent },
    /// The data directory, opened by this process.
    Here(Arc<Node>),
}

/// The data directory of this run.
pub(crate) fn data_dir(global: &Global) -> PathBuf {
    global.data_dir.clone().unwrap_or_else(|| PathBuf::from(DATA_DIR))
}

/// The settings of this run, `changes` being what the command's own flags say.
pub(crate) fn settings(global: &Global, changes: &[String]) -> Result<Settings> {
    let file = global.config.clone().unwrap_or_else(|| data_dir(global).join("forebay.toml"));
    let overrides: Vec<String> = global.set.iter().chain(changes).cloned().collect();
    Ok(Settings::load(&file, &overrides)?)
}

impl Control {
    /// Finds the server of the data directory, or opens the directory. One that is not there
    /// is most likely a wrong path, and is not made.
    pub(crate) async fn connect(global: &Global) -> Result<Control> {
        let dir = data_dir(global);
        if !dir.is_dir() {
            return Err(Error::not_found(format!(
                "there is no data directory {}; name it with --data-dir, or start one with \
                 `forebay serve` or `forebay demo`",
                dir.display()
            ))
            .into());
        }
        Control::connect_or_make(global).await
    }

    /// As [`connect`](Self::connect), making the directory when absent.
    pub(crate) async fn connect_or_make(global: &Global) -> Result<Control> {
        if let Some(server) = Control::find_server(&data_dir(global)) {
            return Ok(server);
        }
        Ok(Control::Here(open_here(global).await?))
    }

    /// Finds the server of the data directory; commands about live traffic need one.
    pub(crate) fn server(global: &Global) -> Result<Control> {
        let dir = data_dir(global);
        Control::find_server(&dir).ok_or_else(|| {
            Exit::unreachable(format!(
                "no server runs on {}; start one with `forebay serve --data-dir {}`",
                dir.display(),
                dir.display()
            ))
            .into()
        })
    }

    fn find_server(dir: &Path) -> Option<Control> {
        let text = std::fs::read_to_string(dir.join(ADDRESS_FILE)).ok()?;
        let addresses: Addresses = serde_json::from_str(&text).ok()?;
        let token = std::fs::read_to_string(dir.join(TOKEN_FILE)).ok()?;
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(2)))
            .http_status_as_error(false)
            .build()
            .into();
        // A server that was killed leaves its address behind; nobody answers there.
        agent.get(format!("http://{}/healthz", addresses.http)).call().ok()?;
        Some(Control::Server { addresses, token: token.trim().to_owned(), agent })
    }

    /// Where the server listens, if there is one.
    pub(crate) fn addresses(&self) -> Option<Addresses> {
        match self {
            Control::Server { addresses, .. } => Some(*addresses),
            Control::Here(_) => None,
        }
    }

    /// Carries out one operation of [`admin`].
    pub(crate) async fn call(&self, operation: &str, input: Value) -> Result<Value> {
        match self {
            Control::Here(node) => Ok(admin::call(node, operation, input).await?),
            Control::Server { addresses, token, agent } => {
                let url = format!("http://{}/forebay/call/{operation}", addresses.http);
                let response = agent
                    .post(url)
                    .header("authorization", format!("Bearer {token}"))
                    .send_json(&input)
                    .map_err(|e| Exit::unreachable(format!("the server does not answer: {e}")))?;
                answer_of(response)
            }
        }
    }

    /// Sends one invocation to an endpoint, and the variant that answered.
    pub(crate) async fn invoke(
        &self,
        name: &str,
        target_variant: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Value> {
        match self {
            Control::Here(node) => {
                let target = target_variant.map(str::to_owned);
                let answer = node.invoke(name, target, None, None, body.into()).await?;
                Ok(serde_json::from_slice(&answer.body)?)
            }
            Control::Server { addresses, token, agent } => {
                let url = format!("http://{}/endpoints/{name}/invocations", addresses.http);
                let mut request = agent
                    .post(url)
                    .header("authorization", format!("Bearer {token}"))
                    .header("content-type", "application/json");
                if let Some(variant) = target_variant {
                    request = request.header("x-amzn-sagemaker-target-variant", variant);
                }
                let response = request
                    .send(&body[..])
                    .map_err(|e| Exit::unreachable(format!("the server does not answer: {e}")))?;
                answer_of(response)
            }
        }
    }

    /// Messages as they arrive, until `line` says stop.
    pub(crate) fn tail(&self, filter: &str, mut line: impl FnMut(Value) -> bool) -> Result<()> {
        let Control::Server { addresses, token, agent } = self else {
            return Err(Exit::unreachable("a running server is needed to watch messages").into());
        };
        let response = agent
            .get(format!("http://{}/forebay/tail", addresses.http))
            .query("filter", filter)
            .header("authorization", format!("Bearer {token}"))
            .call()
            .map_err(|e| Exit::unreachable(format!("the server does not answer: {e}")))?;
        if !response.status().is_success() {
            return answer_of(response).map(drop);
        }
        for text in BufReader::new(response.into_body().into_reader()).lines() {
            let text = text.map_err(|e| Exit::unreachable(format!("the server went away: {e}")))?;
            if !line(serde_json::from_str(&text).context("a line of the server's answer")?) {
                break;
            }
        }
        Ok(())
    }

    /// Lets go of a directory opened here: everything under way is on disk afterwards.
    pub(crate) async fn close(self) {
        if let Control::Here(node) = self {
            node.stop().await;
        }
    }
}

/// Opens the data directory in this process.
pub(crate) async fn open_here(global: &Global) -> Result<Arc<Node>> {
    let settings = settings(global, &[])?;
    Ok(Node::open(&data_dir(global), settings, program()?, Arc::new(base::SystemClock)).await?)
}

/// This program, for worker processes.
pub(crate) fn program() -> Result<PathBuf> {
    std::env::current_exe().context("finding this program's own file")
}

/// The JSON of an answer, or the error it carries with its kind.
fn answer_of(mut response: ureq::http::Response<ureq::Body>) -> Result<Value> {
    let status = response.status();
    let limit = 1 << 30;
    let value: Value = response
        .body_mut()
        .with_config()
        .limit(limit)
        .read_json()
        .with_context(|| format!("the server answered {status} without JSON"))?;
    if status.is_success() {
        return Ok(value);
    }
    let error = &value["error"];
    let message = error["message"].as_str().unwrap_or("the server gave no reason").to_owned();
    Err(Error::new(kind_of(error["kind"].as_str().unwrap_or_default()), message).into())
}

fn kind_of(word: &str) -> ErrorKind {
    use ErrorKind::*;
    [
        Invalid,
        NotFound,
        AlreadyExists,
        Conflict,
        Denied,
        Exhausted,
        Unavailable,
        Unsupported,
        Corrupt,
    ]
    .into_iter()
    .find(|kind| kind.as_str() == word)
    .unwrap_or(Internal)
}
