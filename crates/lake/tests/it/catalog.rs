//! Databases, tables, versions, partitions.

use base::ErrorKind;
use lake::{Catalog, Column, Format, Partition, Table};

use crate::world::World;

fn table(name: &str) -> Table {
    let mut table = Table::new(("air", name), ("bkt", "raw/"), Format::Json);
    table.columns = vec![Column::new("ts", "string"), Column::new("ozone", "int")];
    table.partition_keys = vec![Column::new("hour", "string")];
    table
}

fn catalog(world: &World) -> &Catalog {
    world.lake.catalog()
}

#[test]
fn a_change_makes_a_version_and_keeps_the_one_before() {
    let world = World::new();
    let first = catalog(&world).create_table(table("t")).unwrap();
    assert_eq!(first.version, 1);
    let mut changed = first.clone();
    changed.columns.push(Column::new("no2", "double"));
    let second = catalog(&world).update_table(changed.clone()).unwrap();
    assert_eq!(second.version, 2);
    assert_eq!(second.created_at, first.created_at);
    let stale = catalog(&world).update_table(changed).unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict);
    assert_eq!(catalog(&world).table_versions("air", "t").unwrap(), [second, first]);
}

#[test]
fn old_versions_are_kept_up_to_a_bound() {
    let world = World::new();
    let mut table = catalog(&world).create_table(table("t")).unwrap();
    for n in 0..120 {
        table.columns[0].comment = Some(n.to_string());
        table = catalog(&world).update_table(table).unwrap();
    }
    let versions = catalog(&world).table_versions("air", "t").unwrap();
    assert_eq!(versions.len(), 101);
    assert_eq!((versions[0].version, versions[100].version), (121, 21));
}

#[test]
fn what_is_no_table_is_refused() {
    let world = World::new();
    let refused = |change: fn(&mut Table)| {
        let mut table = table("t");
        change(&mut table);
        catalog(&world).create_table(table).unwrap_err().kind()
    };
    assert_eq!(refused(|t| t.name = "Upper".into()), ErrorKind::Invalid);
    assert_eq!(refused(|t| t.name = "a/b".into()), ErrorKind::Invalid);
    assert_eq!(refused(|t| t.prefix = "raw".into()), ErrorKind::Invalid);
    assert_eq!(refused(|t| t.prefix = "/raw/".into()), ErrorKind::Invalid);
    assert_eq!(refused(|t| t.columns[0].hive_type = "text".into()), ErrorKind::Invalid);
    assert_eq!(refused(|t| t.columns[1].name = "ts".into()), ErrorKind::Invalid);
    assert_eq!(refused(|t| t.partition_keys[0].name = "ts".into()), ErrorKind::Invalid);
    assert_eq!(refused(|t| t.format = Format::Csv), ErrorKind::Invalid);
    let nested = |t: &mut Table| {
        *t = Table::new(("air", "t"), ("bkt", "t/"), Format::Csv);
        t.columns = vec![Column::new("a", "array<int>")];
    };
    assert_eq!(refused(nested), ErrorKind::Unsupported);
    assert_eq!(refused(|t| t.database = "nowhere".into()), ErrorKind::NotFound);
    catalog(&world).create_table(table("t")).unwrap();
    let twice = catalog(&world).create_table(table("t")).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn partitions_are_found_by_their_values() {
    let world = World::new();
    catalog(&world).create_table(table("t")).unwrap();
    catalog(&world).create_table(table("t2")).unwrap();
    let partition = |value: &str| Partition {
        values: vec![value.to_owned()],
        bucket: "bkt".into(),
        prefix: format!("raw/{value}/"),
        created_at: base::Timestamp(0),
    };
    let add = |values: &[&str]| {
        let partitions = values.iter().map(|value| partition(value)).collect();
        catalog(&world).add_partitions("air", "t", partitions).unwrap()
    };
    assert_eq!(add(&["05", "a/b", ""]), 3);
    assert_eq!(add(&["05", "06"]), 1);
    let found = catalog(&world).get_partition("air", "t", &["a/b".into()]).unwrap();
    assert_eq!(found.prefix, "raw/a/b/");
    assert_eq!(catalog(&world).list_partitions("air", "t").unwrap().len(), 4);
    assert!(catalog(&world).list_partitions("air", "t2").unwrap().is_empty());
    let wrong = Partition { values: vec![], ..partition("x") };
    let refused = catalog(&world).add_partitions("air", "t", vec![wrong]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(catalog(&world).drop_partition("air", "t", &["05".into()]).unwrap());
    assert!(!catalog(&world).drop_partition("air", "t", &["05".into()]).unwrap());
}

#[test]
fn dropping_forgets_what_belongs_to_a_table_and_nothing_else() {
    let world = World::new();
    let first = catalog(&world).create_table(table("t")).unwrap();
    catalog(&world).update_table(first).unwrap();
    catalog(&world).create_table(table("t_b")).unwrap();
    let full = catalog(&world).drop_database("air").unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Conflict);
    catalog(&world).drop_table("air", "t").unwrap();
    assert_eq!(catalog(&world).drop_table("air", "t").unwrap_err().kind(), ErrorKind::NotFound);
    let names: Vec<String> =
        catalog(&world).list_tables("air").unwrap().into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["t_b"]);
    catalog(&world).create_table(table("t")).unwrap();
    assert_eq!(catalog(&world).table_versions("air", "t").unwrap().len(), 1, "a new life");
    catalog(&world).drop_table("air", "t").unwrap();
    catalog(&world).drop_table("air", "t_b").unwrap();
    catalog(&world).drop_database("air").unwrap();
    assert_eq!(catalog(&world).list_tables("air").unwrap_err().kind(), ErrorKind::NotFound);
}
