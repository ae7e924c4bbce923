//! The form of policies: what AWS would refuse is refused here too, with the place.

use serde_json::{Map, Value};

use super::limit_exceeded;
use crate::fault::Fault;

/// Whose policy it is: that decides what its statements must and must not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Who may assume a role.
    Trust,
    /// What somebody may do.
    Rights,
}

/// Checks a policy of at most `most` characters, spaces between words not counted.
pub(super) fn check(text: &str, to: Use, most: usize) -> Result<(), Fault> {
    let size = text.chars().filter(|character| !character.is_whitespace()).count();
    if size > most {
        return Err(limit_exceeded(match to {
            Use::Trust => format!("Cannot exceed quota for ACLSizePerRole: {most}"),
            Use::Rights => format!("Cannot exceed quota for PolicySize: {most}"),
        }));
    }
    let policy: Value = serde_json::from_str(text)
        .map_err(|cause| malformed(format!("This policy contains invalid Json: {cause}")))?;
    let Value::Object(policy) = policy else {
        return Err(malformed("Syntax errors in policy. It is not a JSON object."));
    };
    known(&policy, &["Version", "Id", "Statement"], "the policy")?;
    match policy.get("Version") {
        None => {}
        Some(Value::String(version)) if ["2012-10-17", "2008-10-17"].contains(&&**version) => {}
        Some(other) => {
            return Err(malformed(format!(
                "Syntax errors in policy. Version {other} is not \"2012-10-17\" or \"2008-10-17\"."
            )));
        }
    }
    let statements = match policy.get("Statement") {
        Some(Value::Array(statements)) if !statements.is_empty() => statements.iter().collect(),
        Some(statement @ Value::Object(_)) => vec![statement],
        _ => return Err(malformed("Syntax errors in policy. It has no Statement.")),
    };
    let mut names = Vec::new();
    for (position, statement) in statements.into_iter().enumerate() {
        let place = format!("Statement[{position}]");
        let Value::Object(statement) = statement else {
            return Err(malformed(format!("Syntax errors in policy. {place} is not an object.")));
        };
        check_statement(statement, to, &place)?;
        if let Some(Value::String(name)) = statement.get("Sid")
            && !name.is_empty()
        {
            if names.contains(&name) {
                return Err(malformed(format!(
                    "Statement IDs (SID) in a single policy must be unique; {name:?} is there twice."
                )));
            }
            names.push(name);
        }
    }
    Ok(())
}

fn check_statement(statement: &Map<String, Value>, to: Use, place: &str) -> Result<(), Fault> {
    const KNOWN: [&str; 9] = [
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    ];
    known(statement, &KNOWN, place)?;
    match statement.get("Sid") {
        None => {}
        // A trust policy's may have spaces, others not.
        Some(Value::String(name))
            if name.chars().all(|character| {
                character.is_ascii_alphanumeric() || (to == Use::Trust && character == ' ')
            }) => {}
        Some(other) => {
            return Err(malformed(format!(
                "Statement IDs (SID) must be alpha-numeric; {place} has {other}."
            )));
        }
    }
    if !matches!(statement.get("Effect").and_then(Value::as_str), Some("Allow" | "Deny")) {
        return Err(malformed(format!(
            "Syntax errors in policy. Effect of {place} must be \"Allow\" or \"Deny\"."
        )));
    }
    let action = one_of(statement, "Action", "NotAction", place)?
        .ok_or_else(|| malformed(format!("Policy statement must contain actions; {place}.")))?;
    let is_action = |text: &str| {
        text == "*" || text.split_once(':').is_some_and(|(v, a)| !v.is_empty() && !a.is_empty())
    };
    texts(action, is_action, &format!("{place}: Actions must be vendor:action or *, not"))?;
    let resource = one_of(statement, "Resource", "NotResource", place)?;
    let principal = one_of(statement, "Principal", "NotPrincipal", place)?;
    match (to, principal, resource) {
        (Use::Trust, _, Some(_)) => {
            Err(malformed(format!("Has prohibited field Resource; {place}.")))
        }
        (Use::Trust, None, _) => {
            Err(malformed(format!("Missing required field Principal; {place}.")))
        }
        (Use::Trust, Some(principal), None) => check_principal(principal, place),
        (Use::Rights, Some(_), _) => {
            Err(malformed(format!("Policy document should not specify a principal; {place}.")))
        }
        (Use::Rights, None, None) => {
            Err(malformed(format!("Policy statement must contain resources; {place}.")))
        }
        (Use::Rights, None, Some(resource)) => {
            let is_resource = |text: &str| text == "*" || text.starts_with("arn:");
            texts(
                resource,
                is_resource,
                &format!("{place}: Resource must be in ARN format or \"*\", not"),
            )
        }
    }?;
    match statement.get("Condition") {
        None => Ok(()),
        Some(Value::Object(operators)) if operators.values().all(Value::is_object) => Ok(()),
        Some(_) => Err(malformed(format!(
            "Syntax errors in policy. Condition of {place} must be an object of objects."
        ))),
    }
}

fn check_principal(principal: &Value, place: &str) -> Result<(), Fault> {
    match principal {
        Value::String(all) if all == "*" => Ok(()),
        Value::Object(kinds) if !kinds.is_empty() => {
            known(kinds, &["AWS", "Service", "Federated", "CanonicalUser"], place)?;
            kinds.iter().try_for_each(|(kind, who)| {
                texts(
                    who,
                    |text| !text.is_empty(),
                    &format!("Invalid principal in policy: {kind:?}:"),
                )
            })
        }
        other => Err(malformed(format!("Invalid principal in policy: {other}; {place}."))),
    }
}

/// The member of this name or the one that means the opposite; not both.
fn one_of<'a>(
    statement: &'a Map<String, Value>,
    name: &str,
    opposite: &str,
    place: &str,
) -> Result<Option<&'a Value>, Fault> {
    match (statement.get(name), statement.get(opposite)) {
        (Some(_), Some(_)) => Err(malformed(format!(
            "Syntax errors in policy. {place} has both {name} and {opposite}."
        ))),
        (given, other) => Ok(given.or(other)),
    }
}

/// One text or several, each of which must be right.
fn texts(value: &Value, right: impl Fn(&str) -> bool, wrong: &str) -> Result<(), Fault> {
    let entries = match value {
        Value::Array(entries) if !entries.is_empty() => entries.iter().collect(),
        other => vec![other],
    };
    for entry in entries {
        if !entry.as_str().is_some_and(&right) {
            return Err(malformed(format!("{wrong} {entry}")));
        }
    }
    Ok(())
}

fn known(members: &Map<String, Value>, names: &[&str], place: &str) -> Result<(), Fault> {
    match members.keys().find(|given| !names.contains(&given.as_str())) {
        Some(unknown) => Err(malformed(format!(
            "Syntax errors in policy. {place} has {unknown:?}, which is not one of {}.",
            names.join(", ")
        ))),
        None => Ok(()),
    }
}

fn malformed(message: impl Into<String>) -> Fault {
    Fault::named("MalformedPolicyDocument", 400, message)
}
