//! What tables there are: databases, tables with their versions, partitions, written files.
//!
//! Invariants
//! * A table's version grows by one with each change, and every earlier version is kept (the
//!   newest [`VERSIONS_KEPT`] of them).
//! * A table that is [`FileSource::Committed`] has exactly the files in its rows here; one that
//!   is [`FileSource::Listed`] has what lies beneath its prefix.
//! * Dropping a table forgets it; no object is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{Clock, Error, ErrorKind, Result, Timestamp};
use formats::csv::Dialect;
use metastore::{Metastore, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::Retention;
use crate::commits::{TableCommit, TableHead};
use crate::job::refuse_while_written;

/// Earlier versions of a table that are kept.
const VERSIONS_KEPT: usize = 100;
/// Longest name of a database or table, Glue's bound.
const NAME_BYTES_MAX: usize = 255;

/// The parameter of a table that says where its records lie within a document of JSON, as
/// [`formats::json::Path`] has it.
pub const RECORDS_PATH: &str = "jsonPath";

/// A namespace of tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Row for Database {
    const TABLE: &'static str = "databases";
}

/// A column as the catalog names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// Its name, as the devices spell it.
    pub name: String,
    /// Its type in Hive's language.
    #[serde(rename = "type")]
    pub hive_type: String,
    /// What it means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl Column {
    /// A column without a comment.
    pub fn new(name: impl Into<String>, hive_type: impl Into<String>) -> Self {
        Column { name: name.into(), hive_type: hive_type.into(), comment: None }
    }
}

/// What the objects of a table hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON objects, newline-delimited or one after another, plain or packed.
    Json,
    /// Parquet files.
    Parquet,
    /// Delimited text, one record a line, plain or packed.
    Csv,
}

impl Format {
    /// The word for it, as Glue's `classification`.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Parquet => "parquet",
            Format::Csv => "csv",
        }
    }
}

/// How a table knows its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSource {
    /// By listing its prefix.
    Listed,
    /// By the runs that were committed to it.
    Committed,
}

/// A table: a schema, and where its objects lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The database it belongs to.
    pub database: String,
    /// Its name.
    pub name: String,
    /// The bucket of its objects.
    pub bucket: String,
    /// The prefix of its objects; ends with `/`.
    pub prefix: String,
    /// What its objects hold.
    pub format: Format,
    /// How the fields of [`Format::Csv`] are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<Dialect>,
    /// How its files are known.
    pub source: FileSource,
    /// Columns within the objects.
    pub columns: Vec<Column>,
    /// Columns given by folders, in the folders' order.
    pub partition_keys: Vec<Column>,
    /// Globs on keys beneath the prefix that are no part of the table.
    pub exclusions: Vec<String>,
    /// Free words, Glue's among them.
    pub parameters: BTreeMap<String, String>,
    /// Grows by one with each change, from 1; set by the catalog.
    pub version: u64,
    /// When it was made; set by the catalog.
    pub created_at: Timestamp,
    /// When this version was made; set by the catalog.
    pub updated_at: Timestamp,
}

impl Row for Table {
    const TABLE: &'static str = "tables";
}

impl Table {
    /// A new table without columns; the rest is for the caller to fill.
    pub fn new(
        (database, name): (impl Into<String>, impl Into<String>),
        (bucket, prefix): (impl Into<String>, impl Into<String>),
        format: Format,
    ) -> Self {
        Table {
            database: database.into(),
            name: name.into(),
            bucket: bucket.into(),
            prefix: prefix.into(),
            format,
            csv: (format == Format::Csv).then(|| Dialect::new(b',')),
            source: FileSource::Listed,
            columns: Vec::new(),
            partition_keys: Vec::new(),
            exclusions: Vec::new(),
            parameters: BTreeMap::new(),
            version: 0,
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
        }
    }

    /// Data columns, then partition keys: what `SELECT *` shows.
    pub fn all_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().chain(&self.partition_keys)
    }

    /// Where records lie within the objects of JSON, if those are not the records themselves: the
    /// parameter [`RECORDS_PATH`].
    pub fn records_path(&self) -> Option<&str> {
        self.parameters.get(RECORDS_PATH).map(String::as_str)
    }

    /// Whether the two say the same, whatever their version and age.
    pub(crate) fn means_the_same(&self, other: &Table) -> bool {
        let ageless = |table: &Table| Table {
            version: 0,
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            parameters: BTreeMap::new(),
            ..table.clone()
        };
        ageless(self) == ageless(other)
    }

    fn check(&self) -> Result<()> {
        let bad = |why: String| {
            Error::invalid(format!("table {:?} of {:?}: {why}", self.name, self.database))
        };
        check_name("table", &self.name)?;
        match (&self.csv, self.format) {
            (Some(dialect), Format::Csv) => {
                dialect.check().map_err(|error| bad(error.to_string()))?;
            }
            (None, Format::Json | Format::Parquet) => {}
            (_, format) => {
                return Err(bad(format!(
                    "a dialect of CSV belongs to the format csv and to no other, not to {}",
                    format.as_str()
                )));
            }
        }
        if let Some(path) = self.records_path() {
            let path = path.parse::<formats::json::Path>();
            path.map_err(|error| error.context(format_args!("table {:?}", self.name)))?;
            if self.format != Format::Json {
                return Err(bad(format!(
                    "{RECORDS_PATH} is for JSON and not {}",
                    self.format.as_str()
                )));
            }
        }
        let is_nested = |column: &&Column| {
            formats::hive::to_arrow(&column.hive_type).is_ok_and(|known| known.is_nested())
        };
        if self.format == Format::Csv
            && let Some(column) = self.columns.iter().find(is_nested)
        {
            return Err(Error::unsupported(format!(
                "column {:?} of table {:?}: {} is not read from CSV; declare it as string",
                column.name, self.name, column.hive_type
            )));
        }
        let prefix = &self.prefix;
        if !(prefix.is_empty() || prefix.ends_with('/')) || prefix.starts_with('/') {
            return Err(bad(format!("prefix {prefix:?} must end and not begin with '/'")));
        }
        check_columns(self.all_columns()).map_err(|error| bad(error.to_string()))
    }
}

/// Refuses columns of which two have the same name, or one has no name or no type we know.
pub fn check_columns<'a>(columns: impl IntoIterator<Item = &'a Column>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for column in columns {
        if column.name.is_empty() {
            return Err(Error::invalid("a column has no name"));
        }
        if !seen.insert(column.name.as_str()) {
            return Err(Error::invalid(format!("two columns are called {:?}", column.name)));
        }
        formats::hive::to_arrow(&column.hive_type)
            .map_err(|error| error.context(format_args!("column {:?}", column.name)))?;
    }
    Ok(())
}

/// An earlier version of a table.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct TableVersion(Table);

impl Row for TableVersion {
    const TABLE: &'static str = "table_versions";
}

/// One folder combination of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Values of the table's partition keys.
    pub values: Vec<String>,
    /// The bucket of its objects.
    pub bucket: String,
    /// The prefix of its objects.
    pub prefix: String,
    /// When it was made; set by the catalog.
    pub created_at: Timestamp,
}

impl Row for Partition {
    const TABLE: &'static str = "partitions";
}

/// A file of a [`FileSource::Committed`] table, live or of an earlier commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// The object's key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// Values of the table's partition keys.
    pub partition_values: Vec<String>,
    /// The run that wrote it, or the swap.
    pub run_id: String,
    /// The commit that added it; 0 if that was before commits were numbered.
    #[serde(default)]
    pub commit_added: u64,
    /// The commit that removed it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_removed: Option<u64>,
}

impl Row for WrittenFile {
    const TABLE: &'static str = "table_files";
}

/// Databases, tables and partitions.
#[derive(Clone, Debug)]
pub struct Catalog {
    store: Metastore,
    clock: Arc<dyn Clock>,
}

impl Catalog {
    /// The catalog kept in `store`.
    pub fn new(store: Metastore, clock: Arc<dyn Clock>) -> Self {
        Catalog { store, clock }
    }

    /// Makes a database.
    pub fn create_database(&self, name: &str, description: &str) -> Result<Database> {
        check_name("database", name)?;
        let database = Database {
            name: name.to_owned(),
            description: description.to_owned(),
            created_at: self.clock.now(),
        };
        self.store.create(name, &database)?;
        Ok(database)
    }

    /// Says anew what a database is for.
    pub fn describe_database(&self, name: &str, description: &str) -> Result<()> {
        self.store.transact(|transaction| {
            let Some(found) = transaction.get::<Database>(name)? else {
                return Err(no_database(name));
            };
            let database = Database { description: description.to_owned(), ..found.row };
            transaction.put(name, &database).map(drop)
        })
    }

    /// A database.
    pub fn get_database(&self, name: &str) -> Result<Database> {
        match self.store.get::<Database>(name)? {
            Some(found) => Ok(found.row),
            None => Err(no_database(name)),
        }
    }

    /// All databases by name.
    pub fn list_databases(&self) -> Result<Vec<Database>> {
        Ok(self.store.list::<Database>()?.into_iter().map(|(_, found)| found.row).collect())
    }

    /// Removes a database that has no tables.
    pub fn drop_database(&self, name: &str) -> Result<()> {
        self.store.transact(|transaction| {
            refuse_while_written(transaction, name, None)?;
            if let Some((_, table)) =
                transaction.list_prefix::<Table>(&format!("{name}/"))?.into_iter().next()
            {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("database {name:?} still has table {:?}; drop it first", table.name),
                ));
            }
            match transaction.delete::<Database>(name)? {
                true => Ok(()),
                false => Err(no_database(name)),
            }
        })
    }

    /// Makes a table; its version, created_at and updated_at are set here.
    pub fn create_table(&self, table: Table) -> Result<Table> {
        let now = self.clock.now();
        self.store.transact(|transaction| {
            refuse_while_written(transaction, &table.database, Some(&table.name))?;
            create_table(transaction, table, now)
        })
    }

    /// A table.
    pub fn get_table(&self, database: &str, name: &str) -> Result<Table> {
        self.find_table(database, name)?.ok_or_else(|| no_table(database, name))
    }

    /// A table, if there is one.
    pub fn find_table(&self, database: &str, name: &str) -> Result<Option<Table>> {
        Ok(self.store.get::<Table>(&table_key(database, name))?.map(|found| found.row))
    }

    /// The tables of a database by name; an unknown database is an error.
    pub fn list_tables(&self, database: &str) -> Result<Vec<Table>> {
        self.get_database(database)?;
        let found = self.store.list_prefix::<Table>(&format!("{database}/"))?;
        Ok(found.into_iter().map(|(_, found)| found.row).collect())
    }

    /// Changes a table that still has `table.version`; [`ErrorKind::Conflict`] otherwise.
    /// Answers the new version. The old one is kept.
    pub fn update_table(&self, table: Table) -> Result<Table> {
        let now = self.clock.now();
        self.store.transact(|transaction| {
            refuse_while_written(transaction, &table.database, Some(&table.name))?;
            update_table(transaction, table, now)
        })
    }

    /// All versions of a table that are kept, newest first; the first is the one in force.
    pub fn table_versions(&self, database: &str, name: &str) -> Result<Vec<Table>> {
        let newest = self.get_table(database, name)?;
        let earlier =
            self.store.list_prefix::<TableVersion>(&rows_of(database, name))?.into_iter().rev();
        let earlier = earlier.map(|(_, found)| found.row.0);
        Ok(std::iter::once(newest).chain(earlier).collect())
    }

    /// Forgets a table with its versions, partitions and file list. No object is touched.
    pub fn drop_table(&self, database: &str, name: &str) -> Result<()> {
        self.store.transact(|transaction| {
            if !transaction.delete::<Table>(&table_key(database, name))? {
                return Err(no_table(database, name));
            }
            let rows = rows_of(database, name);
            delete_all::<TableVersion>(transaction, &rows)?;
            delete_all::<Partition>(transaction, &rows)?;
            delete_all::<WrittenFile>(transaction, &rows)?;
            delete_all::<TableCommit>(transaction, &rows)?;
            transaction.delete::<Retention>(&table_key(database, name))?;
            transaction.delete::<TableHead>(&table_key(database, name)).map(drop)
        })
    }

    /// Adds partitions that are not there yet; answers how many were new.
    pub fn add_partitions(
        &self,
        database: &str,
        name: &str,
        partitions: Vec<Partition>,
    ) -> Result<u64> {
        let now = self.clock.now();
        self.store.transact(|transaction| {
            let Some(table) = transaction.get::<Table>(&table_key(database, name))? else {
                return Err(no_table(database, name));
            };
            add_partitions(transaction, &table.row, partitions, now)
        })
    }

    /// A partition by its values.
    pub fn get_partition(
        &self,
        database: &str,
        name: &str,
        values: &[String],
    ) -> Result<Partition> {
        match self.store.get::<Partition>(&partition_key(database, name, values))? {
            Some(found) => Ok(found.row),
            None => Err(Error::not_found(format!(
                "table {name:?} of {database:?} has no partition {values:?}"
            ))),
        }
    }

    /// The partitions of a table, by their values.
    pub fn list_partitions(&self, database: &str, name: &str) -> Result<Vec<Partition>> {
        self.get_table(database, name)?;
        let found = self.store.list_prefix::<Partition>(&rows_of(database, name))?;
        Ok(found.into_iter().map(|(_, found)| found.row).collect())
    }

    /// Removes a partition from the catalog; whether there was one.
    pub fn drop_partition(&self, database: &str, name: &str, values: &[String]) -> Result<bool> {
        self.store.delete::<Partition>(&partition_key(database, name, values))
    }

    /// Puts `partition` in the place of the one with the values `old`, in one step.
    pub fn replace_partition(
        &self,
        database: &str,
        name: &str,
        old: &[String],
        partition: Partition,
    ) -> Result<()> {
        let now = self.clock.now();
        self.store.transact(|transaction| {
            let Some(table) = transaction.get::<Table>(&table_key(database, name))? else {
                return Err(no_table(database, name));
            };
            if !transaction.delete::<Partition>(&partition_key(database, name, old))? {
                return Err(Error::not_found(format!(
                    "table {name:?} of {database:?} has no partition {old:?}"
                )));
            }
            let values = partition.values.clone();
            match add_partitions(transaction, &table.row, vec![partition], now)? {
                0 => Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("table {name:?} of {database:?} already has partition {values:?}"),
                )),
                _ => Ok(()),
            }
        })
    }

    /// Forgets an earlier version of a table; whether it was kept.
    pub fn drop_table_version(&self, database: &str, name: &str, version: u64) -> Result<bool> {
        self.store.delete::<TableVersion>(&format!("{}{version:020}", rows_of(database, name)))
    }

    /// The live files of a table that jobs write, by key.
    pub fn written_files(&self, database: &str, name: &str) -> Result<Vec<WrittenFile>> {
        let found = self.store.list_prefix::<WrittenFile>(&rows_of(database, name))?;
        let files = found.into_iter().map(|(_, found)| found.row);
        Ok(files.filter(|file| file.commit_removed.is_none()).collect())
    }

    pub(crate) fn store(&self) -> &Metastore {
        &self.store
    }
}

pub(crate) fn create_table(
    transaction: &mut Transaction<'_>,
    mut table: Table,
    now: Timestamp,
) -> Result<Table> {
    table.check()?;
    if transaction.get::<Database>(&table.database)?.is_none() {
        return Err(no_database(&table.database));
    }
    table.version = 1;
    table.created_at = now;
    table.updated_at = now;
    transaction.create(&table_key(&table.database, &table.name), &table)?;
    Ok(table)
}

pub(crate) fn update_table(
    transaction: &mut Transaction<'_>,
    mut table: Table,
    now: Timestamp,
) -> Result<Table> {
    table.check()?;
    let key = table_key(&table.database, &table.name);
    let Some(found) = transaction.get::<Table>(&key)? else {
        return Err(no_table(&table.database, &table.name));
    };
    if found.row.version != table.version {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "table {:?} of {:?} changed meanwhile (version {}, expected {}); read it again",
                table.name, table.database, found.row.version, table.version
            ),
        ));
    }
    let rows = rows_of(&table.database, &table.name);
    // Fixed width, so that keys sort as numbers do.
    transaction.put(&format!("{rows}{:020}", table.version), &TableVersion(found.row.clone()))?;
    let kept = transaction.list_prefix::<TableVersion>(&rows)?;
    for (key, _) in kept.iter().take(kept.len().saturating_sub(VERSIONS_KEPT)) {
        transaction.delete::<TableVersion>(key)?;
    }
    table.version += 1;
    table.created_at = found.row.created_at;
    table.updated_at = now;
    transaction.put(&key, &table)?;
    Ok(table)
}

pub(crate) fn add_partitions(
    transaction: &mut Transaction<'_>,
    table: &Table,
    partitions: Vec<Partition>,
    now: Timestamp,
) -> Result<u64> {
    let mut added = 0;
    for mut partition in partitions {
        if partition.values.len() != table.partition_keys.len() {
            return Err(Error::invalid(format!(
                "partition {:?} has {} values, table {:?} has {} partition keys",
                partition.values,
                partition.values.len(),
                table.name,
                table.partition_keys.len()
            )));
        }
        let key = partition_key(&table.database, &table.name, &partition.values);
        if transaction.get::<Partition>(&key)?.is_none() {
            partition.created_at = now;
            transaction.create(&key, &partition)?;
            added += 1;
        }
    }
    Ok(added)
}

pub(crate) fn delete_all<R: Row>(transaction: &mut Transaction<'_>, prefix: &str) -> Result<()> {
    for (key, _) in transaction.list_prefix::<R>(prefix)? {
        transaction.delete::<R>(&key)?;
    }
    Ok(())
}

pub(crate) fn table_key(database: &str, name: &str) -> String {
    format!("{database}/{name}")
}

/// The keys of rows that belong to a table start with this; names hold no `/`.
pub(crate) fn rows_of(database: &str, name: &str) -> String {
    format!("{database}/{name}/")
}

pub(crate) fn partition_key(database: &str, name: &str, values: &[String]) -> String {
    let values: Vec<String> = values.iter().map(|value| crate::escape(value)).collect();
    format!("{}{}", rows_of(database, name), values.join("/"))
}

fn check_name(what: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        return Err(Error::invalid(format!(
            "{name:?} is not a {what} name; use 1 to {NAME_BYTES_MAX} lower-case letters, digits, \
             '_' and '-'"
        )));
    }
    Ok(())
}

pub(crate) fn no_database(name: &str) -> Error {
    Error::not_found(format!("there is no database {name:?}"))
}

fn no_table(database: &str, name: &str) -> Error {
    Error::not_found(format!("there is no table {name:?} in database {database:?}"))
}
