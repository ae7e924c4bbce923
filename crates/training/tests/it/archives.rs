//! F4: no archive makes loading panic, write, follow a link or take more than it may.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::EntryType;
use training::{Algorithm, artifact};

use super::{run, spec};

const MIB: u64 = 1 << 20;

/// One raw entry of a forged archive.
struct Entry<'a> {
    name: &'a str,
    kind: EntryType,
    /// The size its header claims.
    claimed: u64,
    link: &'a str,
    body: &'a [u8],
}

fn file<'a>(name: &'a str, body: &'a [u8]) -> Entry<'a> {
    Entry { name, kind: EntryType::Regular, claimed: body.len() as u64, link: "", body }
}

fn special<'a>(name: &'a str, kind: EntryType, link: &'a str) -> Entry<'a> {
    Entry { name, kind, claimed: 0, link, body: b"" }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// The plain tar of these entries, written past every check of the writer.
fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_size(entry.claimed);
        header.set_mode(0o777);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(entry.body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn packed(entries: &[Entry<'_>]) -> Vec<u8> {
    gzip(&tar(entries))
}

/// A safetensors file of a header and what lies behind it.
fn tensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// One extended header record: its length, name and value.
fn pax(name: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {name}={value}\n");
    let mut len = rest.len() + 1;
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    format!("{len}{rest}").into_bytes()
}

#[test]
fn f4_no_hostile_archive_panics_writes_or_takes_memory() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(Algorithm::DeepAr, folder.path());
    run(&spec).unwrap();
    let good = std::fs::read(&spec.model).unwrap();
    let files = artifact::read(&spec.model).unwrap();
    let of = |name: &str| files.iter().find(|(found, _)| found == name).unwrap().1.clone();
    let (weights, model) = (of(artifact::WEIGHTS), of(artifact::MODEL));
    let model_with =
        |weights: &[u8]| packed(&[file(artifact::WEIGHTS, weights), file(artifact::MODEL, &model)]);
    // cos.system('touch pwned') as Python's pickle writes it.
    let pickle = b"cos\nsystem\n(S'touch pwned'\ntR.";
    let names: Vec<String> = (0..17).map(|k| format!("f{k}")).collect();
    let many: Vec<Entry<'_>> = names.iter().map(|name| file(name, b"")).collect();
    let header = String::from_utf8(weights[8..8 + length(&weights)].to_vec()).unwrap();
    let data = &weights[8 + length(&weights)..];
    let bent = |from: &str, to: &str| {
        let changed = header.replacen(from, to, 1);
        assert_ne!(changed, header, "{from}");
        model_with(&tensors(&changed, data))
    };
    let with = |at: usize, value: f32| {
        let mut weights = weights.clone();
        let at = weights.len() - 4 * (at + 1);
        weights[at..at + 4].copy_from_slice(&value.to_le_bytes());
        model_with(&weights)
    };
    let size = pax("size", "4611686018427387904");
    let path = pax("path", "../../pwned");
    let mut base256 = tar(&[file(artifact::MODEL, &model)]);
    base256[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]);
    let mut negative = base256.clone();
    negative[124..136].fill(0xff);
    // Checksums are over the header with its own field as spaces.
    for archive in [&mut base256, &mut negative] {
        archive[148..156].fill(b' ');
        let sum: u32 = archive[..512].iter().map(|byte| u32::from(*byte)).sum();
        archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let no_checksum = {
        let mut plain = tar(&[file(artifact::MODEL, &model)]);
        plain[148] ^= 1;
        plain
    };

    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("a pickle alone", packed(&[file("model.pkl", pickle)])),
        (
            "a pickle beside a model",
            packed(&[file("model.pkl", pickle), file(artifact::MODEL, pickle)]),
        ),
        ("a pickle as weights", model_with(pickle)),
        ("a joblib archive", packed(&[file("model.joblib", &[0x80, 4, 0x95, 0, 0, 0, 0])])),
        (
            "an ONNX graph with an operator of its own",
            packed(&[file("model.onnx", b"\x08\x07custom.ops::Shell")]),
        ),
        ("a path that climbs", packed(&[file("../../pwned", b"x"), file(artifact::MODEL, &model)])),
        ("a path that climbs within", packed(&[file("a/../../pwned", b"x")])),
        ("an absolute path", packed(&[file("/tmp/forebay-pwned", b"x")])),
        ("a path of Windows", packed(&[file("C:\\pwned", b"x")])),
        ("a hidden name", packed(&[file(".ssh", b"x")])),
        ("a name of control characters", packed(&[file("a\u{1}b\n", b"x")])),
        ("no name", packed(&[file("", b"x")])),
        ("a symbolic link", packed(&[special(artifact::MODEL, EntryType::Symlink, "/etc/passwd")])),
        (
            "a link, then a file through it",
            packed(&[special("out", EntryType::Symlink, "/tmp"), file("out/forebay-pwned", b"x")]),
        ),
        (
            "a link, then a file of its name",
            packed(&[
                special(artifact::WEIGHTS, EntryType::Symlink, "/tmp/forebay-pwned"),
                file(artifact::WEIGHTS, b"x"),
            ]),
        ),
        ("a hard link", packed(&[special(artifact::MODEL, EntryType::Link, "/etc/shadow")])),
        ("a character device", packed(&[special(artifact::MODEL, EntryType::Char, "")])),
        ("a block device", packed(&[special(artifact::MODEL, EntryType::Block, "")])),
        ("a pipe", packed(&[special(artifact::MODEL, EntryType::Fifo, "")])),
        ("a folder", packed(&[special("folder", EntryType::Directory, "")])),
        ("a contiguous file", packed(&[special("x", EntryType::Continuous, "")])),
        ("a kind of no name", packed(&[special("x", EntryType::new(b'Z'), "")])),
        ("a sparse file", packed(&[special(artifact::WEIGHTS, EntryType::GNUSparse, "")])),
        (
            "another size in an extension",
            packed(&[
                Entry { kind: EntryType::XHeader, ..file("pax", &size) },
                file(artifact::MODEL, &model),
            ]),
        ),
        (
            "another path in an extension",
            packed(&[
                Entry { kind: EntryType::XHeader, ..file("pax", &path) },
                file(artifact::MODEL, &model),
            ]),
        ),
        (
            "a size for all in an extension",
            packed(&[
                Entry { kind: EntryType::XGlobalHeader, ..file("pax", &size) },
                file(artifact::MODEL, &model),
            ]),
        ),
        (
            "an endless long name",
            packed(&[Entry { claimed: 1 << 40, ..special("name", EntryType::GNULongName, "") }]),
        ),
        (
            "an endless long link",
            packed(&[Entry { claimed: 1 << 40, ..special("name", EntryType::GNULongLink, "") }]),
        ),
        ("a size of 2^62", gzip(&base256)),
        ("a negative size", gzip(&negative)),
        ("a wrong checksum", gzip(&no_checksum)),
        (
            "more than it holds",
            packed(&[Entry { claimed: 3 * MIB, ..file(artifact::MODEL, &model) }]),
        ),
        (
            "weights of a terabyte",
            packed(&[Entry { claimed: 1 << 40, ..file(artifact::WEIGHTS, b"") }]),
        ),
        (
            "a description of a gigabyte",
            packed(&[Entry { claimed: 1 << 30, ..file(artifact::MODEL, b"") }]),
        ),
        ("too many members", packed(&many)),
        ("a million members", million()),
        ("a member twice", packed(&[file(artifact::MODEL, &model), file(artifact::MODEL, &model)])),
        (
            "a bomb as a member",
            bomb(Some(&tar(&[Entry { claimed: 2 << 30, ..file("x", b"") }])[..512])),
        ),
        ("a bomb after the end", bomb(Some(&tar(&[file(artifact::MODEL, &model)])))),
        ("nothing but a bomb", bomb(None)),
        ("a second archive behind", [good.clone(), good.clone()].concat()),
        ("a program behind", [&good[..], b"\x7fELF"].concat()),
        ("no archive", b"PK\x03\x04 a zip".to_vec()),
        ("gzip of no archive", gzip(b"just text, and not even a block of it")),
        ("gzip in gzip", gzip(&good)),
        ("nothing", Vec::new()),
        ("a shape of 2^62", bent("\"shape\":[16,", "\"shape\":[4611686018427387904,")),
        (
            "a shape whose product overflows",
            bent("\"shape\":[16,", "\"shape\":[4294967296,4294967296,"),
        ),
        ("a type that lies", bent("\"F32\"", "\"F64\"")),
        ("a smaller type that lies", bent("\"F32\"", "\"F16\"")),
        ("an unknown type", bent("\"F32\"", "\"PICKLE\"")),
        ("tensors on one another", bent("\"data_offsets\":[", "\"data_offsets\":[4,0,")),
        (
            "a header of 2^63 bytes",
            model_with(&[&(1u64 << 63).to_le_bytes()[..], &weights[8..]].concat()),
        ),
        ("a header that nests", model_with(&tensors(&"{\"a\":".repeat(20_000), b""))),
        ("NaN among the weights", with(0, f32::NAN)),
        ("infinity among the weights", with(1, f32::INFINITY)),
        ("minus infinity among the weights", with(2, f32::NEG_INFINITY)),
        (
            "a description that nests",
            packed(&[
                file(artifact::WEIGHTS, &weights),
                file(artifact::MODEL, "[".repeat(1 << 20).as_bytes()),
            ]),
        ),
    ];
    let place = folder.path().join("attacks");
    std::fs::create_dir(&place).unwrap();
    let archive = place.join("model.tar.gz");
    let before = base::usage::peak_rss_bytes();
    for (what, bytes) in &attacks {
        std::fs::write(&archive, bytes).unwrap();
        let error = training::load(&archive).err().unwrap_or_else(|| panic!("{what} loads"));
        assert!(error.to_string().contains("model.tar.gz"), "{what}: {error}");
        assert!(error.to_string().len() < 1000, "{what}: {error}");
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1, "{what} wrote a file");
    }
    let grown = base::usage::peak_rss_bytes().saturating_sub(before);
    for trace in ["/tmp/forebay-pwned", "pwned"] {
        assert!(!std::path::Path::new(trace).exists(), "{trace} was written");
    }
    assert!(grown < 256 * MIB, "{} MiB for archives of a few", grown / MIB);
    println!("{} attacks, {} MiB more than before them", attacks.len(), grown / MIB);

    std::fs::write(&archive, &good).unwrap();
    training::load(&archive).unwrap();
    for cut in (0..good.len()).step_by(100).chain([good.len() - 1]) {
        std::fs::write(&archive, &good[..cut]).unwrap();
        assert!(training::load(&archive).is_err(), "cut at {cut}");
    }
}

fn length(tensors: &[u8]) -> usize {
    u64::from_le_bytes(tensors[..8].try_into().unwrap()) as usize
}

/// A million empty members: half a gigabyte of headers in a few megabytes.
fn million() -> Vec<u8> {
    let header = &tar(&[file("x", b"")])[..512];
    let thousand = header.repeat(1000);
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..1000 {
        out.write_all(&thousand).unwrap();
    }
    out.finish().unwrap()
}

/// More zeros than any archive may unpack to, behind `first`: gzip makes a thousandth of them.
fn bomb(first: Option<&[u8]>) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(first.unwrap_or_default()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(700 * MIB), &mut out).unwrap();
    out.finish().unwrap()
}

#[test]
fn f4_an_archive_of_something_else_is_refused_by_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.tar.gz");
    let refused = |entries: &[Entry<'_>]| {
        std::fs::write(&path, packed(entries)).unwrap();
        training::load(&path).err().unwrap().to_string()
    };
    // What SageMaker's XGBoost leaves.
    let text = refused(&[file("xgboost-model", b"\x80\x04")]);
    assert!(text.contains("has no model.json") && text.contains("forebay train"), "{text}");
    let other = br#"{"format":"mxnet-deepar","format_version":1}"#;
    let text = refused(&[file(artifact::MODEL, other)]);
    assert!(text.contains("another format"), "{text}");
    let rule =
        br#"{"format":"forebay-reference","format_version":1,"settings":{"rule":"prophet"}}"#;
    let text = refused(&[file(artifact::MODEL, rule)]);
    assert!(text.contains("prophet"), "{text}");
}

#[test]
fn f4_reference_models_survive_every_cut_and_bent_byte() {
    for algorithm in [Algorithm::SeasonalNaive, Algorithm::Ets] {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(algorithm, folder.path());
        run(&spec).unwrap();
        assert_eq!(training::load(&spec.model).unwrap().prediction_length(), 6);
        let good = std::fs::read(&spec.model).unwrap();
        for cut in 0..good.len() {
            assert!(artifact::read_from(&good[..cut]).is_err(), "cut at {cut}");
        }
        let files = artifact::read(&spec.model).unwrap();
        let (name, text) = files.iter().find(|(name, _)| name == artifact::MODEL).unwrap();
        for at in 0..text.len() {
            for byte in [0, b'-', b'9', b'"', b'}', 0xff] {
                let mut text = text.clone();
                text[at] = byte;
                // Not by `artifact::write`, which syncs every one of them.
                let packed = artifact::pack(&[(name.clone(), text)]).unwrap();
                std::fs::write(&spec.model, packed).unwrap();
                // Loads or not, but returns, and what loads can be asked.
                if let Ok(model) = training::load(&spec.model) {
                    assert!((1..=10_000).contains(&model.prediction_length()));
                }
            }
        }
    }
}
