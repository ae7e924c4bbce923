use super::*;

/// Lays out objects given as "key: columns" (JSON) or "key# columns" (Parquet) and answers one
/// line a table: root, format, columns, partition keys, objects, what is odd or excluded.
fn check(objects: &[&str], expected: &[&str]) {
    let shapes: Vec<(String, Format, Shape)> = objects.iter().map(|line| parse(line)).collect();
    let mut seen: Vec<Seen<'_>> = shapes
        .iter()
        .map(|(below, format, shape)| Seen {
            below,
            format: *format,
            csv: None,
            path: None,
            shape,
            records: 1,
            bytes: 9,
        })
        .collect();
    seen.sort_by_key(|object| object.below);
    let mut found: Vec<String> =
        layout(&seen, "raw", Grouping::BySimilarity).tables.iter().map(show).collect();
    found.sort();
    assert_eq!(found, expected);
}

fn parse(line: &str) -> (String, Format, Shape) {
    let at = line.find([':', '#']).unwrap();
    let format = if line.as_bytes()[at] == b'#' { Format::Parquet } else { Format::Json };
    let fields: Vec<String> = line[at + 1..]
        .split_whitespace()
        .map(|column| {
            let (name, value) = column.split_once('=').unwrap_or((column, "1"));
            format!("{name:?}:{value}")
        })
        .collect();
    let json = format!("{{{}}}", fields.join(","));
    let options = formats::json::InferOptions::default();
    let schema = formats::json::infer(json.as_bytes(), &options).unwrap().schema;
    (line[..at].to_owned(), format, Shape::of(&schema).unwrap())
}

fn show(found: &Found) -> String {
    let columns = |columns: &[Column]| {
        let named = |column: &Column| format!("{}:{}", column.name, column.hive_type);
        columns.iter().map(named).collect::<Vec<_>>().join(",")
    };
    let keys: Vec<&str> = found.partition_keys.iter().map(|key| key.name.as_str()).collect();
    let mut line = format!(
        "{}{} {} ({}) by [{}] {} objects",
        found.base_name,
        if found.root.is_empty() { String::new() } else { format!(" at {}", found.root) },
        found.format.as_str(),
        columns(&found.columns),
        keys.join(","),
        found.members.len(),
    );
    for (_, why) in &found.odd {
        line.push_str(&format!("; odd: {why}"));
    }
    for glob in &found.excluded {
        line.push_str(&format!("; without {glob}"));
    }
    line
}

#[test]
fn the_layout_of_a_delivery_stream_is_one_table_with_four_keys() {
    check(
        &["2026/11/23/05/a: t o", "2026/11/23/06/b: t o", "2026/12/01/00/c: t o"],
        &["raw json (t:int,o:int) by [partition_0,partition_1,partition_2,partition_3] 3 objects"],
    );
}

#[test]
fn a_new_year_may_bring_other_columns_and_is_the_same_table() {
    check(
        &["2026/a: t o", "2027/b: time ozone no2"],
        &["raw json (t:int,o:int,time:int,ozone:int,no2:int) by [partition_0] 2 objects"],
    );
}

#[test]
fn nothing_makes_no_table() {
    check(&[], &[]);
}

#[test]
fn folders_that_name_a_key_name_the_partition() {
    check(
        &["city=A/hour=1/x: t", "city=B/hour=2/y: t"],
        &["raw json (t:int) by [city,hour] 2 objects"],
    );
}

#[test]
fn a_level_that_is_named_only_in_part_gets_a_number() {
    check(
        &["a/hour=1/x: t", "a/hour=2/x: t", "b/5/y: t"],
        &["raw json (t:int) by [partition_0,partition_1] 3 objects"],
    );
}

#[test]
fn a_key_that_is_a_column_already_gets_a_number() {
    check(&["hour=1/x: hour"], &["raw json (hour:int) by [partition_0] 1 objects"]);
    check(
        &["hour=1/x: hour partition_0"],
        &["raw json (hour:int,partition_0:int) by [partition_0_] 1 objects"],
    );
}

#[test]
fn folders_with_different_things_are_tables_of_their_own() {
    check(
        &["orders/a: id price", "people/b: name street"],
        &[
            "orders at orders/ json (id:int,price:int) by [] 1 objects",
            "people at people/ json (name:int,street:int) by [] 1 objects",
        ],
    );
}

#[test]
fn most_similar_folders_are_one_table_and_the_other_stands_alone() {
    check(
        &["2024/a: t o", "2025/b: t o", "2025/c: t o", "x{y}/z: k"],
        &[
            "raw json (t:int,o:int) by [partition_0] 3 objects; without x\\{y\\}/**",
            "x{y} at x{y}/ json (k:int) by [] 1 objects",
        ],
    );
}

#[test]
fn a_folder_of_another_format_stands_alone() {
    check(
        &["a/x: t", "b/x: t", "c/x# t"],
        &[
            "c at c/ parquet (t:int) by [] 1 objects",
            "raw json (t:int) by [partition_0] 2 objects; without c/**",
        ],
    );
}

#[test]
fn an_object_of_another_format_among_others_is_odd() {
    check(
        &["a: t", "b: t", "c# t"],
        &["raw json (t:int) by [] 2 objects; odd: it is parquet in a folder of json"],
    );
}

#[test]
fn columns_stand_in_the_order_of_appearance_and_widen() {
    check(
        &["1: t o", "2: o=1.5 n t", "3: t=\"x\" o n=null"],
        &["raw json (t:string,o:double,n:int) by [] 3 objects"],
    );
}

#[test]
fn a_column_of_nulls_takes_the_type_that_comes_later() {
    check(&["1: o=null", "2: o=7"], &["raw json (o:int) by [] 2 objects"]);
    check(&["1: o=null"], &["raw json (o:string) by [] 1 objects"]);
}

#[test]
fn files_beside_folders_are_in_the_table() {
    check(&["x: t", "a/y: t"], &["raw json (t:int) by [partition_0] 2 objects"]);
}

#[test]
fn names_are_lower_case_and_plain() {
    assert_eq!(table_name("", "Raw-Data.2026"), "raw_data_2026");
    assert_eq!(table_name("p_", "ü=1"), "p___1");
    assert_eq!(table_name("", &"x".repeat(300)).len(), 128);
}
