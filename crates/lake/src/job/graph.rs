//! A job's graph as data, and what a graph must look like before it may run.
//!
//! Whether columns exist is found when the graph runs: only then are the tables known.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base::{Error, Result};
use metastore::Row;
use serde::{Deserialize, Serialize};

/// Most nodes of a graph.
const NODES_MAX: usize = 100;
/// Longest id of a node.
const ID_BYTES_MAX: usize = 128;

/// A job: where rows come from, what is done to them, and where they go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// The graph, in any order.
    pub nodes: Vec<Node>,
    /// Whether each input object is taken once; otherwise every run reads everything and
    /// appends it.
    pub bookmark: bool,
    /// Where records that cannot be read go, in the target's bucket; `errors/<job>/` if absent.
    #[serde(default)]
    pub error_prefix: Option<String>,
}

impl Row for Job {
    const TABLE: &'static str = "jobs";
}

/// One step of a graph. `id`s are the author's; `input`s name them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "node", rename_all = "snake_case", deny_unknown_fields)]
pub enum Node {
    /// Rows of a catalog table, with its partition keys as the last columns.
    Source {
        /// Its id.
        id: String,
        /// The table's database.
        database: String,
        /// The table.
        table: String,
    },
    /// Renames, casts, reorders and drops columns; those not mentioned are dropped.
    ApplyMapping {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The columns, in the order they shall have.
        mappings: Vec<Mapping>,
    },
    /// Keeps the columns named, in this order.
    SelectFields {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// Which columns.
        fields: Vec<String>,
    },
    /// Leaves the columns named out.
    DropFields {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// Which columns.
        fields: Vec<String>,
    },
    /// Gives a column another name, in its place.
    RenameField {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The column.
        from: String,
        /// Its new name.
        to: String,
    },
    /// Keeps one row of those that agree in `columns`, or in all columns if there are none.
    DropDuplicates {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What makes rows the same.
        columns: Vec<String>,
    },
    /// Leaves out columns that have no value in any row. The input is read twice.
    DropNullFields {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What counts as no value, beside null.
        #[serde(default)]
        also: Vec<NoValue>,
    },
    /// A SELECT over its inputs.
    Sql {
        /// Its id.
        id: String,
        /// Table names in the query, and the nodes they mean.
        inputs: BTreeMap<String, String>,
        /// The query.
        query: String,
    },
    /// Parquet files beneath a prefix, and the catalog table that has them.
    Target {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The bucket.
        bucket: String,
        /// The table's prefix; ends with `/`.
        prefix: String,
        /// How pages are packed.
        compression: TargetCompression,
        /// Columns that become folders, and leave the files.
        #[serde(default)]
        partition_keys: Vec<String>,
        /// The table's database.
        database: String,
        /// The table.
        table: String,
    },
}

/// What a column may hold in place of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NoValue {
    /// This text, in columns of text.
    Text(String),
    /// This number, in columns of numbers. Kept as written, since 64 bits of it may matter.
    Number(String),
}

/// How a target's pages are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetCompression {
    /// Zstandard, level 3.
    Zstd,
    /// Snappy.
    Snappy,
}

/// What becomes of one column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Column, or a path into structs, with dots between.
    pub from: String,
    /// Hive type it is expected to have; what differs is cast from what is found.
    pub from_type: String,
    /// Name it gets.
    pub to: String,
    /// Hive type it gets; what cannot be cast is null.
    pub to_type: String,
    /// Whether it is left out.
    #[serde(default)]
    pub drop: bool,
}

impl Node {
    /// The node's id.
    pub fn id(&self) -> &str {
        match self {
            Node::Source { id, .. }
            | Node::ApplyMapping { id, .. }
            | Node::SelectFields { id, .. }
            | Node::DropFields { id, .. }
            | Node::RenameField { id, .. }
            | Node::DropDuplicates { id, .. }
            | Node::DropNullFields { id, .. }
            | Node::Sql { id, .. }
            | Node::Target { id, .. } => id,
        }
    }

    /// The ids of the nodes whose rows it takes.
    pub fn inputs(&self) -> Vec<&str> {
        match self {
            Node::Source { .. } => Vec::new(),
            Node::Sql { inputs, .. } => inputs.values().map(String::as_str).collect(),
            Node::ApplyMapping { input, .. }
            | Node::SelectFields { input, .. }
            | Node::DropFields { input, .. }
            | Node::RenameField { input, .. }
            | Node::DropDuplicates { input, .. }
            | Node::DropNullFields { input, .. }
            | Node::Target { input, .. } => vec![input],
        }
    }

    /// What is wrong with the node by itself.
    fn check(&self) -> Result<()> {
        let bad = |why: String| Err(Error::invalid(format!("node {:?}: {why}", self.id())));
        match self {
            Node::ApplyMapping { mappings, .. } => {
                if mappings.iter().all(|mapping| mapping.drop) {
                    return bad("it keeps no column".into());
                }
                unique(mappings.iter().filter(|mapping| !mapping.drop).map(|m| m.to.as_str()))
                    .or_else(|twice| bad(format!("two columns are called {twice:?}")))?;
                for mapping in mappings.iter().filter(|mapping| !mapping.drop) {
                    for hive_type in [&mapping.from_type, &mapping.to_type] {
                        formats::hive::to_arrow(hive_type)
                            .map_err(|error| error.context(format!("node {:?}", self.id())))?;
                    }
                }
                Ok(())
            }
            Node::SelectFields { fields, .. } | Node::DropFields { fields, .. } => {
                if fields.is_empty() {
                    return bad("it names no column".into());
                }
                unique(fields.iter().map(String::as_str))
                    .or_else(|twice| bad(format!("column {twice:?} is named twice")))
            }
            Node::RenameField { from, to, .. } => match from.is_empty() || to.is_empty() {
                true => bad("a column has no name".into()),
                false => Ok(()),
            },
            Node::DropDuplicates { columns, .. } => unique(columns.iter().map(String::as_str))
                .or_else(|twice| bad(format!("column {twice:?} is named twice"))),
            Node::Sql { inputs, query, .. } => {
                if query.trim().is_empty() {
                    return bad("the query is empty".into());
                }
                match inputs.is_empty() {
                    true => bad("it has no input".into()),
                    false => Ok(()),
                }
            }
            Node::Target { prefix, partition_keys, .. } => {
                if prefix.len() < 2 || !prefix.ends_with('/') || prefix.starts_with('/') {
                    return bad(format!(
                        "prefix {prefix:?} must name a folder, as in \"curated/\""
                    ));
                }
                if let Some(hidden) =
                    prefix.split('/').find(|folder| folder.starts_with(['_', '.']))
                {
                    return bad(format!(
                        "folder {hidden:?} of the prefix would be hidden from readers"
                    ));
                }
                unique(partition_keys.iter().map(String::as_str))
                    .or_else(|twice| bad(format!("partition key {twice:?} is named twice")))
            }
            Node::DropNullFields { also, .. } => {
                let odd = also.iter().find_map(|one| match one {
                    NoValue::Number(number) if number.parse::<f64>().is_err() => Some(number),
                    NoValue::Number(_) | NoValue::Text(_) => None,
                });
                odd.map_or(Ok(()), |odd| bad(format!("{odd:?} is not a number")))
            }
            Node::Source { .. } => Ok(()),
        }
    }
}

/// The first name that appears twice is the error.
fn unique<'a>(names: impl Iterator<Item = &'a str>) -> std::result::Result<(), &'a str> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(name);
        }
    }
    Ok(())
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
        let target = self.nodes.iter().find(|node| matches!(node, Node::Target { .. }));
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
            node.check()?;
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
                    Some(Node::Target { .. }) => {
                        return Err(Error::invalid(format!(
                            "node {:?} takes rows from {input:?}, but a target has none",
                            node.id()
                        )));
                    }
                    Some(_) => {}
                }
            }
        }
        self.check_ends(&used)?;
        in_order(&self.nodes)
    }

    fn check_ends(&self, used: &BTreeSet<&str>) -> Result<()> {
        let targets = self.nodes.iter().filter(|node| matches!(node, Node::Target { .. })).count();
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
            if !matches!(node, Node::Target { .. }) && !used.contains(node.id()) {
                let id = node.id();
                return Err(Error::invalid(format!("the rows of node {id:?} go nowhere")));
            }
        }
        Ok(())
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
