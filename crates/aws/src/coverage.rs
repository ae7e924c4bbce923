//! What is supported, written from the services' own tables.

use std::fmt::Write as _;

use crate::services;

/// The coverage page's tables, as Markdown.
pub fn markdown() -> String {
    let mut page = String::new();
    for service in services::ALL {
        let name = service.name;
        _ = writeln!(page, "\n## {name}\n\n| operation | differs from AWS |\n|---|---|");
        let mut operations: Vec<_> = service.operations.iter().collect();
        operations.sort_by_key(|operation| operation.name);
        for operation in operations {
            _ = writeln!(page, "| {} | {} |", operation.name, operation.differs);
        }
    }
    page
}
