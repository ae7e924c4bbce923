//! A job, and what its graph must look like before it may run.
//!
//! Whether columns exist is found when the graph runs: only then are the tables known.

use std::collections::{BTreeSet, HashMap};

use base::{Error, Result};
use metastore::Row;
use serde::{Deserialize, Serialize};

use super::check::check;
use super::node::Node;

/// Most nodes of a graph.
const NODES_MAX: usize = 100;
/// Longest id of a node.
const ID_BYTES_MAX: usize = 128;

/// A job: where rows come from, what is done to them, and where they go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// Whether each input object is taken once; otherwise every run reads everything and
    /// appends it.
    #[serde(default = "yes")]
    pub bookmark: bool,
    /// Where records that cannot be read go, in the target's bucket; `errors/<job>/` if absent.
    #[serde(default)]
    pub error_prefix: Option<String>,
    /// How often a run that failed is tried again.
    #[serde(default)]
    pub max_retries: u32,
    /// The graph, in any order.
    pub nodes: Vec<Node>,
}

fn yes() -> bool {
    true
}

impl Row for Job {
    const TABLE: &'static str = "jobs";
}

impl Job {
    /// The nodes, each after those it takes rows from. Refuses a graph that cannot run: no
    /// source, not exactly one target, unknown or doubled ids, cycles, nodes that lead nowhere.
    pub fn check(&self) -> Result<Vec<&Node>> {
        self.check_nodes().map_err(|error| error.context(format!("job {:?}", self.name)))
    }

    /// The target, if the graph is sound.
    pub fn target(&self) -> Result<&Node> {
        self.check()?;
        let target = self.nodes.iter().find(|node| node.is_target());
        target.ok_or_else(|| Error::internal("a checked graph has a target"))
    }

    fn check_nodes(&self) -> Result<Vec<&Node>> {
        if self.nodes.len() > NODES_MAX {
            let count = self.nodes.len();
            return Err(Error::invalid(format!(
                "it has {count} nodes; at most {NODES_MAX} are allowed"
            )));
        }
        let mut by_id = HashMap::new();
        for node in &self.nodes {
            check(node)?;
            let id = node.id();
            let allowed = |c: char| c.is_ascii_alphanumeric() || " _.:-".contains(c);
            if id.is_empty() || id.len() > ID_BYTES_MAX || !id.chars().all(allowed) {
                return Err(Error::invalid(format!(
                    "{id:?} is not a node id; use 1 to {ID_BYTES_MAX} letters, digits, ' ', '_', \
                     '.', ':' and '-'"
                )));
            }
            if by_id.insert(id, node).is_some() {
                return Err(Error::invalid(format!("two nodes have the id {id:?}")));
            }
        }
        let mut used = BTreeSet::new();
        for node in &self.nodes {
            for input in node.inputs() {
                used.insert(input);
                match by_id.get(input) {
                    None => {
                        return Err(Error::invalid(format!(
                            "node {:?} takes rows from {input:?}, which is no node",
                            node.id()
                        )));
                    }
                    Some(from) if from.is_target() => {
                        return Err(Error::invalid(format!(
                            "node {:?} takes rows from {input:?}, but a target has none",
                            node.id()
                        )));
                    }
                    Some(from) => check_collection(from, node)?,
                }
            }
        }
        self.check_ends(&used)?;
        in_order(&self.nodes)
    }

    fn check_ends(&self, used: &BTreeSet<&str>) -> Result<()> {
        let targets = self.nodes.iter().filter(|node| node.is_target()).count();
        match targets {
            1 => {}
            0 => return Err(Error::invalid("it has no target")),
            more => {
                return Err(Error::unsupported(format!(
                    "it has {more} targets; one is supported, make a job for each"
                )));
            }
        }
        for node in &self.nodes {
            if !node.is_target() && !used.contains(node.id()) {
                let id = node.id();
                return Err(Error::invalid(format!("the rows of node {id:?} go nowhere")));
            }
        }
        Ok(())
    }
}

/// Collections are picked from and nothing else, and nothing else is picked from.
fn check_collection(from: &Node, node: &Node) -> Result<()> {
    let split = matches!(from, Node::SplitFields { .. });
    let picks = matches!(node, Node::SelectFromCollection { .. });
    let (id, input) = (node.id(), from.id());
    match (split, picks) {
        (true, false) => Err(Error::invalid(format!(
            "node {id:?} takes rows from {input:?}, which splits them; pick one by a \
             select_from_collection"
        ))),
        (false, true) => Err(Error::invalid(format!(
            "node {id:?} picks from {input:?}, which is no split_fields"
        ))),
        _ => Ok(()),
    }
}

/// Sorts the nodes so that each comes after its inputs; fails on a cycle.
fn in_order(nodes: &[Node]) -> Result<Vec<&Node>> {
    let mut placed = BTreeSet::new();
    let mut ordered: Vec<&Node> = Vec::with_capacity(nodes.len());
    while ordered.len() < nodes.len() {
        let before = ordered.len();
        for node in nodes {
            let ready = node.inputs().iter().all(|input| placed.contains(input));
            if ready && placed.insert(node.id()) {
                ordered.push(node);
            }
        }
        if ordered.len() == before {
            let stuck: Vec<&str> =
                nodes.iter().map(Node::id).filter(|id| !placed.contains(id)).collect();
            return Err(Error::invalid(format!("nodes {stuck:?} take rows in a circle")));
        }
    }
    Ok(ordered)
}
