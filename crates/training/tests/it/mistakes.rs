//! The user's mistakes: each is told by channel, file, series and field, with what to do, and
//! begins with `ClientError:` where SageMaker's clients read it.

use std::io::Write;

use base::SystemClock;
use flate2::Compression;
use training::jobs::failure_reason;
use training::{Algorithm, TrainSpec};

use super::{lines, run, spec};

/// What a job says whose training data are `text` and whose settings are changed by `edit`.
fn reason(text: &[u8], edit: impl FnOnce(&mut TrainSpec)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec(Algorithm::DeepAr, folder.path());
    std::fs::write(spec.train.join("data.json"), text).unwrap();
    edit(&mut spec);
    let error = run(&spec).unwrap_err();
    assert!(!spec.model.exists(), "a failed job left a model");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a failed job left a file");
    failure_reason(&error)
}

fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut TrainSpec) {
    move |spec| drop(spec.hyperparameters.insert(name.to_owned(), value.to_owned()))
}

#[test]
fn every_mistake_is_the_clients_and_says_where_and_what_to_do() {
    let good = lines(200);
    let more = |line: &str| format!("{good}{line}\n").into_bytes();
    let cats = |first: u32| {
        let with = |(k, line): (usize, &str)| {
            line.replace('{', &format!("{{\"cat\":[{}],", first + k as u32))
        };
        good.lines().enumerate().map(with).collect::<Vec<_>>().join("\n").into_bytes()
    };
    let gzip = |text: &str| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    };
    let packed = gzip(&good);
    let nothing = |_: &mut TrainSpec| ();
    for (what, said, expect) in [
        ("no JSON", reason(&more("{"), nothing), &["channel train: data.json: line 4"][..]),
        (
            "no target",
            reason(&more(r#"{"start":"2021-02-05"}"#), nothing),
            &["data.json: line 4", "\"target\" is missing"],
        ),
        (
            "no time",
            reason(&more(r#"{"item_id":"a","start":"noon","target":[1]}"#), nothing),
            &["line 4: series \"a\": start: \"noon\" is not a time"],
        ),
        (
            "a word",
            reason(&more(r#"{"start":"2021-02-05","target":[1,"two"]}"#), nothing),
            &["line 4", "target", "two"],
        ),
        (
            "too large",
            reason(&more(r#"{"start":"2021-02-05","target":[1e39]}"#), nothing),
            &["line 4", "target[0]", "rescale"],
        ),
        (
            "a category below zero",
            reason(&more(r#"{"start":"2021-02-05","target":[1],"cat":[-1]}"#), nothing),
            &["line 4", "cat"],
        ),
        (
            "a category too many",
            reason(
                &more(r#"{"item_id":"b","start":"2021-02-05","target":[1],"cat":[1]}"#),
                nothing,
            ),
            &["series \"b\": has 1 values in cat"],
        ),
        (
            "a category out of range",
            reason(&cats(0), set("cardinality", "[2]")),
            &["series \"site2\": cat[0] is 2, cardinality allows 0 to 1; raise it to 3"],
        ),
        (
            "a category out of all range",
            reason(&cats(1_000_000), nothing),
            &["cat[0]", "0 to 999999"],
        ),
        (
            "cardinality of nothing",
            reason(good.as_bytes(), set("cardinality", "[2]")),
            &["cardinality names 1 categories"],
        ),
        (
            "a feature too short",
            reason(good.replacen('{', "{\"dynamic_feat\":[[1,2]],", 1).as_bytes(), nothing),
            &["series \"site0\": dynamic_feat[0] has 2 values for a target of 200"],
        ),
        (
            "features nobody has",
            reason(good.as_bytes(), set("num_dynamic_feat", "2")),
            &["num_dynamic_feat is 2, the series have 0"],
        ),
        (
            "too few points",
            reason(lines(20).as_bytes(), nothing),
            &["60 observed points", "at least 300"],
        ),
        (
            "all missing",
            reason(br#"{"start":"2021-02-05","target":[null,null]}"#, nothing),
            &["0 observed points"],
        ),
        (
            "all short",
            reason(lines(5).repeat(30).as_bytes(), nothing),
            &["shorter than prediction_length 6"],
        ),
        (
            "no counts",
            reason(
                good.replacen("[0,", "[0.5,", 1).as_bytes(),
                set("likelihood", "negative-binomial"),
            ),
            &["series \"site0\": target 0.5 does not suit"],
        ),
        (
            "no shares",
            reason(good.as_bytes(), set("likelihood", "beta")),
            &["series \"site0\": target", "values from 0 to 1"],
        ),
        (
            "a misspelt setting",
            reason(good.as_bytes(), set("epohcs", "3")),
            &["unknown hyperparameter epohcs; known are"],
        ),
        (
            "a setting out of range",
            reason(good.as_bytes(), set("epochs", "0")),
            &["hyperparameter epochs is \"0\"; allowed: 1..=100000"],
        ),
        (
            "a setting missing",
            reason(good.as_bytes(), |spec| drop(spec.hyperparameters.remove("time_freq"))),
            &["hyperparameter time_freq is required"],
        ),
        (
            "another algorithm's setting",
            reason(good.as_bytes(), |spec| spec.algorithm = Algorithm::Ets),
            &["unknown hyperparameter", "time_freq, prediction_length, season"],
        ),
        (
            "cut gzip",
            reason(&packed[..packed.len() / 2], nothing),
            &["data.json", "cut off or damaged", "again"],
        ),
        ("bent gzip", reason(&bend(&packed), nothing), &["data.json"]),
        ("no series", reason(b"\n", nothing), &["no series"]),
        (
            "no UTF-8",
            reason(
                &more("\u{e9}")
                    .iter()
                    .map(|b| if *b == 0xc3 { 0xff } else { *b })
                    .collect::<Vec<_>>(),
                nothing,
            ),
            &["line 4 is not UTF-8"],
        ),
        ("no file", reason(b"", |spec| spec.train = "/nowhere/at/all".into()), &["channel train"]),
        ("no threads", reason(good.as_bytes(), |spec| spec.threads = Some(0)), &["threads is 0"]),
        (
            "a test of nothing",
            reason(good.as_bytes(), |spec| spec.test = Some("/nowhere".into())),
            &["channel test"],
        ),
    ] {
        assert!(said.starts_with("ClientError: "), "{what}: {said}");
        for words in expect {
            assert!(said.contains(words), "{what}: {words:?} is not in {said}");
        }
    }
}

fn bend(packed: &[u8]) -> Vec<u8> {
    let mut bent = packed.to_vec();
    let middle = bent.len() / 2;
    bent[middle] ^= 0x55;
    bent
}

#[test]
fn what_is_left_out_is_counted_and_the_first_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(Algorithm::DeepAr, folder.path());
    let odd = lines(200)
        + "{\"item_id\":\"short\",\"start\":\"2021-02-05\",\"target\":[1,2,3]}\n"
        + "{\"item_id\":\"silent\",\"start\":\"2021-02-05\",\"target\":[null,null,null,null,null,null,null]}\n"
        + "{\"start\":\"2021-02-05\",\"target\":[]}\n";
    std::fs::write(spec.train.join("data.json"), odd).unwrap();
    let mut said = Vec::new();
    training::job::run(&spec, &SystemClock, &mut |line| said.push(line.to_owned())).unwrap();
    let said = said.join("\n");
    for words in [
        "2 of 6 series are shorter than prediction_length 6 and not learnt from; the first is series \"short\"",
        "1 of 6 series are without a single observed value and teach nothing; the first is series \"silent\"",
    ] {
        assert!(said.contains(words), "{said}");
    }
    training::load(&spec.model).unwrap();
}
