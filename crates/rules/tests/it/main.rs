//! IoT SQL and the rule book, at the room's border.

mod book;
mod functions;
mod hostile;
mod statements;

use base::{MessageRef, Offset, QoS, Timestamp};
use rules::{Context, Evaluated, Sql};

/// A message of one device, 2016-12-09T22:19:00.123Z.
fn message<'m>(topic: &'m str, payload: &'m [u8]) -> MessageRef<'m> {
    MessageRef {
        topic,
        payload,
        client_id: "dev-1",
        principal: "ab12",
        received_at: Timestamp(1_481_321_940_123),
        qos: QoS::AtLeastOnce,
        retain: false,
    }
}

fn context() -> Context<'static> {
    Context {
        offset: Offset(7),
        log_id: "0f",
        rule_name: "all",
        rule_version: 3,
        account_id: "123456789012",
        properties: &[],
        source: Some(std::net::IpAddr::from([192, 0, 2, 7])),
    }
}

/// Evaluates `sql` over `payload` on `plant/7/ozone`.
fn evaluate(sql: &str, payload: &[u8]) -> Evaluated {
    let sql = Sql::parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    sql.evaluate(&message("plant/7/ozone", payload), &context())
}

/// The output as text, `no match`, or `failed: ` and the reason.
fn outcome(sql: &str, payload: &str) -> String {
    match evaluate(sql, payload.as_bytes()) {
        Evaluated::Pass(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Evaluated::NoMatch => "no match".to_owned(),
        Evaluated::Failed { reason } => format!("failed: {reason}"),
    }
}
