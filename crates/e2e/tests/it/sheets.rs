//! CSV from pandas, by way of Glue's and Athena's own client; and what the command line says of it.

use e2e::Server;
use e2e::aws::{Sdk, Tools, User, repository};

#[test]
fn csv_of_pandas_is_crawled_on_schedule_and_answers_as_pandas_does() {
    let Some(tools) = Tools::find("CSV as pandas writes it") else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("plant"));
    let user = User::new(&tools, &server, &folder.path().join("user"));
    let program = repository().join("crates/e2e/tests/py/sheets.py");
    let output = user.python(Sdk::Today, &program, &[]);
    assert!(output.contains("SHEETS OK"), "{output}");

    let crawlers = server.forebay(&["lake", "report"]);
    assert_eq!(crawlers["crawlers"][0]["crawler"], "sheets", "{crawlers}");
    let report = server.forebay(&["lake", "report", "sheets"]);
    let objects = report["objects"].as_array().unwrap();
    assert_eq!(objects.len(), 4, "{report}");
    let of = |key: &str| objects.iter().find(|object| object["key"] == key).unwrap();
    assert_eq!(of("crawled/day=3/junk.csv")["decision"], "left_out");
    assert!(of("crawled/day=1/a.csv")["why"].as_str().unwrap().contains("\"crawled\""));
}
