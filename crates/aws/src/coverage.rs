//! What is supported, written from the services' own tables.

use std::fmt::Write as _;

use crate::services;

const HEAD: &str = "\
# Coverage

Every operation that Forebay answers, by the name of the boto3 client, written from the code's
own tables. Where the second column is empty, every parameter that is accepted does what AWS
documents. A parameter that is not acted on is refused by name, and an operation that is not
listed answers `UnknownOperationException` (`InvalidAction` for `sts` and `iam`,
`NotImplemented` for `s3`).
";

/// The coverage page as Markdown: the services here, and S3's operations, which are given.
pub fn markdown(s3: &[(&str, &str)]) -> String {
    let mut page = HEAD.to_owned();
    for service in services::ALL {
        let rows = service.operations.iter().map(|o| (o.name, o.differs)).collect();
        table(&mut page, service.name, rows);
    }
    table(&mut page, "s3", s3.to_vec());
    page
}

fn table(page: &mut String, service: &str, mut rows: Vec<(&str, &str)>) {
    // A service whose table is empty answers nothing, and says nothing here.
    if rows.is_empty() {
        return;
    }
    rows.sort_unstable();
    // Writing to a string cannot fail.
    _ = write!(page, "\n## {service}\n\n| operation | differs from AWS |\n|---|---|\n");
    for (operation, differs) in rows {
        _ = writeln!(page, "| {operation} | {} |", differs.replace('|', "\\|"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `FOREBAY_WRITE_DOCS=1 cargo test -p aws coverage` writes the page anew.
    #[test]
    fn the_page_in_docs_is_the_one_the_tables_make() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/coverage.md");
        let page = markdown(aws_s3::OPERATIONS);
        if std::env::var_os("FOREBAY_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == page, "docs/coverage.md is old; write it with FOREBAY_WRITE_DOCS=1");
    }
}
