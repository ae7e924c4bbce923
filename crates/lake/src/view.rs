//! Views: statements with a name, beside the tables of a database.

use base::{Error, ErrorKind, Result};
use metastore::Row;
use serde::{Deserialize, Serialize};

use crate::Lake;

/// A statement that is asked for by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The database it belongs to, where its statement's unqualified tables are.
    pub database: String,
    /// Its name.
    pub name: String,
    /// The SELECT.
    pub sql: String,
}

impl Row for View {
    const TABLE: &'static str = "views";
}

impl View {
    fn key(database: &str, name: &str) -> String {
        format!("{database}/{name}")
    }
}

impl Lake {
    /// Keeps a view. Whether its statement can be answered is for the caller to ask before.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where there is a table of this name, or a view and not
    /// `replace`; [`ErrorKind::NotFound`] without the database.
    pub fn put_view(&self, view: &View, replace: bool) -> Result<()> {
        let View { database, name, .. } = view;
        self.catalog().get_database(database)?;
        if name.is_empty() || name.contains('/') {
            return Err(Error::invalid(format!("{name:?} is no name for a view")));
        }
        let exists = |what: &str| {
            Error::new(
                ErrorKind::AlreadyExists,
                format!("{what} {name:?} exists in database {database:?} already"),
            )
        };
        if self.catalog().find_table(database, name)?.is_some() {
            return Err(exists("table"));
        }
        self.store().transact(|rows| {
            let key = View::key(database, name);
            if !replace && rows.get::<View>(&key)?.is_some() {
                return Err(exists("view"));
            }
            rows.put(&key, view).map(drop)
        })
    }

    /// The view of a name, if there is one.
    pub fn find_view(&self, database: &str, name: &str) -> Result<Option<View>> {
        Ok(self.store().get::<View>(&View::key(database, name))?.map(|stored| stored.row))
    }

    /// The views of a database by name; of one that was dropped, none.
    pub fn list_views(&self, database: &str) -> Result<Vec<View>> {
        let rows = self.store().list_prefix::<View>(&format!("{database}/"))?;
        Ok(rows.into_iter().map(|(_, stored)| stored.row).collect())
    }

    /// Forgets a view.
    pub fn drop_view(&self, database: &str, name: &str) -> Result<()> {
        let gone = self.store().transact(|rows| {
            let key = View::key(database, name);
            let there = rows.get::<View>(&key)?.is_some();
            if there {
                rows.delete::<View>(&key)?;
            }
            Ok(there)
        })?;
        match gone {
            true => Ok(()),
            false => {
                Err(Error::not_found(format!("there is no view {name:?} in database {database:?}")))
            }
        }
    }
}
