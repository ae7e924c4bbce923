//! docs/forecasting.md: its tables of hyperparameters are written from the code's own.

use std::fmt::Write;

type Table = [(&'static str, Option<&'static str>, &'static str)];

/// A table as Markdown. What begins with an underscore is the business of SageMaker's tuner.
fn markdown(table: &Table) -> String {
    let mut page = "| name | default | allowed |\n|---|---|---|\n".to_owned();
    for (name, default, allowed) in table.iter().filter(|(name, ..)| !name.starts_with('_')) {
        let default = match default {
            None => "*required*".to_owned(),
            Some("") => "empty".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        writeln!(page, "| `{name}` | {default} | {allowed} |").unwrap();
    }
    page
}

/// `FOREBAY_WRITE_DOCS=1 cargo test -p training page` writes the tables anew.
#[test]
fn the_tables_in_docs_are_the_ones_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/forecasting.md");
    let kept = std::fs::read_to_string(path).unwrap();
    let mut page = kept.clone();
    for (name, table) in
        [("forecasting-deepar", deepar::TABLE), ("references", forecast::REFERENCE_TABLE)]
    {
        let (begin, end) = (format!("<!-- table {name} -->\n"), format!("<!-- end {name} -->\n"));
        let from = page.find(&begin).expect("the mark of a table") + begin.len();
        let to = page.find(&end).expect("the mark of a table's end");
        page.replace_range(from..to, &markdown(table));
    }
    for algorithm in training::Algorithm::ALL {
        assert!(page.contains(&format!("`{}`", algorithm.name())), "{algorithm:?} is not there");
    }
    if std::env::var_os("FOREBAY_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert!(kept == page, "docs/forecasting.md is old; write it with FOREBAY_WRITE_DOCS=1");
}
