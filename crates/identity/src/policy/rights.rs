//! What one client may do: its documents with everything settled but the topic.

use std::sync::Arc;

use super::Action;
use super::document::{Document, Resource, Statement};
use super::explain::{Decision, NearMiss, StatementRef, Verdict};
use super::facts::Facts;
use super::pattern::Glob;

/// Near misses that a decision lists.
const NEAR_MAX: usize = 5;

/// A policy in force for a client.
#[derive(Clone, Debug)]
pub struct Source {
    /// The policy's name.
    pub policy: Arc<str>,
    /// The version in force.
    pub version: u32,
    /// What it says, or why it cannot be read.
    pub document: Arc<Result<Document, String>>,
}

impl Source {
    /// Whether the policy asks what the client's certificate says.
    pub fn reads_certificate(&self) -> bool {
        self.document.as_ref().as_ref().is_ok_and(Document::reads_certificate)
    }
}

/// What one client may do. Made when it connects and again when its policies change.
#[derive(Debug)]
pub struct Rights {
    statements: Vec<Settled>,
    /// Set when a policy cannot be read.
    broken: Option<String>,
    policies: usize,
    region: String,
    account: String,
}

/// A statement for one client.
#[derive(Debug)]
struct Settled {
    at: StatementRef,
    allow: bool,
    /// One bit for each of [`Action::ALL`].
    actions: u8,
    resources: Vec<Target>,
    not_resources: bool,
    /// Why the statement says nothing about this client.
    silent: Option<String>,
}

/// A resource for one client.
#[derive(Debug)]
struct Target {
    /// With its variables replaced, as far as they have values.
    shown: String,
    /// The last part of the ARN.
    rest: Option<Glob>,
    /// Why it matches nothing.
    never: Option<String>,
    /// Whether that is for want of a variable's value.
    unresolved: bool,
}

impl Rights {
    /// Settles the documents of a client.
    pub fn new(sources: &[Source], facts: &Facts<'_>) -> Rights {
        let mut statements = Vec::new();
        let mut broken = None;
        for source in sources {
            let Source { policy, version, document } = source;
            match document.as_ref() {
                Ok(document) => {
                    for (at, statement) in document.statements.iter().enumerate() {
                        let at = StatementRef {
                            policy: policy.to_string(),
                            version: *version,
                            statement: at + 1,
                            sid: statement.sid.clone(),
                        };
                        statements.push(settle(at, statement, facts));
                    }
                }
                Err(why) => {
                    broken =
                        Some(format!("policy {policy} version {version} cannot be read: {why}"));
                }
            }
        }
        Rights {
            statements,
            broken,
            policies: sources.len(),
            region: facts.region.to_owned(),
            account: facts.account.to_owned(),
        }
    }

    /// Whether the client may do `action` to what is called `name`: a client id, a topic, a
    /// topic filter. Allocates nothing.
    pub fn allows(&self, action: Action, name: &str) -> bool {
        self.broken.is_none() && self.verdict(action, name).0 == Verdict::Allowed
    }

    fn verdict(&self, action: Action, name: &str) -> (Verdict, Option<&Settled>) {
        let mut allowed = None;
        for statement in &self.statements {
            let undecided = !statement.allow || allowed.is_none();
            if undecided && statement.covers(action) && statement.selects(action, name) {
                if !statement.allow {
                    return (Verdict::Denied, Some(statement));
                }
                allowed = Some(statement);
            }
        }
        match allowed {
            Some(statement) => (Verdict::Allowed, Some(statement)),
            None => (Verdict::NotAllowed, None),
        }
    }

    /// The same with all reasons.
    pub fn decide(&self, action: Action, name: &str) -> Decision {
        let arn =
            |resource: &str| format!("arn:aws:iot:{}:{}:{resource}", self.region, self.account);
        let resource = match action {
            Action::ListRetainedMessages => "*".to_owned(),
            _ => arn(&format!("{}{name}", action.resource_type())),
        };
        let decision = |verdict, by| Decision {
            verdict,
            action: action.name(),
            resource: resource.clone(),
            by,
            near: Vec::new(),
            note: None,
        };
        if self.broken.is_some() {
            return Decision { note: self.broken.clone(), ..decision(Verdict::Denied, None) };
        }
        let (verdict, by) = self.verdict(action, name);
        let mut decision = decision(verdict, by.map(|statement| statement.at.clone()));
        if verdict == Verdict::NotAllowed {
            if self.policies == 0 {
                decision.note = Some("no policy is attached to the certificate".to_owned());
            }
            decision.near = self.near(action);
        }
        decision
    }

    fn near(&self, action: Action) -> Vec<NearMiss> {
        let near = self.statements.iter().filter(|statement| statement.allow);
        let near = near.filter(|statement| statement.names(action));
        near.take(NEAR_MAX)
            .map(|statement| NearMiss { statement: statement.at.clone(), why: statement.why_not() })
            .collect()
    }
}

impl Settled {
    fn names(&self, action: Action) -> bool {
        self.actions & (1 << action as u8) != 0
    }

    fn covers(&self, action: Action) -> bool {
        self.silent.is_none() && self.names(action)
    }

    fn selects(&self, action: Action, name: &str) -> bool {
        let kind = action.resource_type();
        let named = self.resources.iter().any(|target| match &target.rest {
            // A client called `+` may do what its name says with its topics, but not subscribe
            // to everybody's.
            Some(rest) if action == Action::Subscribe && self.allow && !self.not_resources => {
                !rest.is_widened() && rest.matches(kind, name)
            }
            // There is no ARN for all retained messages: only `*` names them.
            Some(rest) if action == Action::ListRetainedMessages => rest.is_everything(),
            Some(rest) => rest.matches(kind, name),
            None => false,
        });
        named != self.not_resources
    }

    fn why_not(&self) -> String {
        if let Some(why) = &self.silent {
            return why.clone();
        }
        let shown: Vec<String> = self
            .resources
            .iter()
            .map(|target| match &target.never {
                Some(why) => format!("{} ({why})", target.shown),
                None if target.rest.as_ref().is_some_and(Glob::is_widened) => {
                    format!("{} (no filter by a variable that holds + or #)", target.shown)
                }
                None => target.shown.clone(),
            })
            .collect();
        let not = if self.not_resources { "all but " } else { "" };
        format!("which allows {not}{}", shown.join(", "))
    }
}

fn settle(at: StatementRef, statement: &Statement, facts: &Facts<'_>) -> Settled {
    let mut actions = 0;
    for action in Action::ALL {
        let named = statement.actions.iter().any(|pattern| pattern.matches(action.name()));
        if named != statement.not_actions {
            actions |= 1 << action as u8;
        }
    }
    let resources: Vec<Target> =
        statement.resources.iter().map(|resource| target(resource, facts)).collect();
    let mut silent = statement
        .conditions
        .iter()
        .find_map(|condition| condition.fails(facts))
        .map(|why| format!("whose condition {why}"));
    // "All but X" with an unknown X must not become "all".
    if statement.not_resources && silent.is_none() {
        silent = resources
            .iter()
            .find(|target| target.unresolved)
            .map(|target| format!("whose NotResource {} cannot be resolved", target.shown));
    }
    Settled {
        at,
        allow: statement.allow,
        actions,
        resources,
        not_resources: statement.not_resources,
        silent,
    }
}

fn target(resource: &Resource, facts: &Facts<'_>) -> Target {
    let Some(parts) = &resource.parts else {
        let rest = Some(Glob::of("*"));
        return Target { shown: "*".to_owned(), rest, never: None, unresolved: false };
    };
    let never = |why: String, unresolved: bool| {
        let shown = resource.written.clone();
        Target { shown, rest: None, never: Some(why), unresolved }
    };
    let undefined =
        |variable: &str| never(format!("${{{variable}}} has no value for this client"), true);
    let wanted = [
        ("partition", "aws"),
        ("service", "iot"),
        ("region", facts.region),
        ("account", facts.account),
    ];
    // Variables first: an unknown one is the better reason.
    let mut globs = Vec::with_capacity(parts.len());
    let mut shown = Vec::with_capacity(parts.len());
    for part in parts {
        match part.fill(facts) {
            Ok(glob) => globs.push(glob),
            Err(variable) => return undefined(variable),
        }
        shown.push(part.shown(facts).unwrap_or_default());
    }
    for ((what, ours), (glob, part)) in wanted.iter().zip(globs[1..5].iter().zip(&shown[1..5])) {
        if !glob.matches("", ours) {
            return never(format!("its {what} is {part:?}, ours is {ours:?}"), false);
        }
    }
    Target { shown: shown.join(":"), rest: globs.pop(), never: None, unresolved: false }
}
