//! Where a large object of JSON lines may be cut, so that more than one thread reads it.
//!
//! A cut lies at the first byte of a line that begins with `{`, where the line before ended with
//! `}` (blanks and empty lines aside). There every scan begins a record, whatever came before: no
//! valid object holds a `}` and a `{` with only white space between, a line end within a string is
//! not JSON, and a record that makes no sense ends with its line. So the parts together have the
//! rows of the whole, and the same records set aside at the same places.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use formats::Compression;
use lake::TableFile;

/// Bytes of a part at least.
const PART_BYTES: u64 = 16 * 1024 * 1024;

/// Parts of an object at most.
const PARTS_MAX: u64 = 64;

/// How far a cut is looked for. Objects that follow each other on one line have none.
const SEARCH_BYTES: u64 = 1024 * 1024;

const BLOCK_BYTES: usize = 64 * 1024;

/// An object or a part of it, as one thread reads it.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) file: TableFile,
    /// Its bytes; the whole object if there are none.
    pub(crate) range: Option<Range<u64>>,
}

impl Part {
    pub(crate) fn whole(file: TableFile) -> Part {
        Part { file, range: None }
    }

    /// The parts of an object of JSON: the same ones whoever asks.
    pub(crate) fn of(file: TableFile) -> Vec<Part> {
        if file.bytes < 2 * PART_BYTES || Compression::of_name(&file.key) != Compression::None {
            return vec![Part::whole(file)];
        }
        let step = PART_BYTES.max(file.bytes.div_ceil(PARTS_MAX));
        // Who cannot open it now says so when it is to be read.
        cut(&file.path, step)
            .unwrap_or_default()
            .map(|ranges| {
                ranges
                    .into_iter()
                    .map(|range| Part { file: file.clone(), range: Some(range) })
                    .collect()
            })
            .unwrap_or_else(|| vec![Part::whole(file)])
    }

    /// The first byte.
    pub(crate) fn begin(&self) -> u64 {
        self.range.as_ref().map_or(0, |range| range.start)
    }

    /// Bucket, key and first byte.
    pub(crate) fn place(&self) -> (&str, &str, u64) {
        (&self.file.bucket, &self.file.key, self.begin())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.range.as_ref().map_or(self.file.bytes, |range| range.end - range.start)
    }
}

/// The parts of a file that is not packed, of about `step` bytes.
fn cut(path: &Path, step: u64) -> std::io::Result<Option<Vec<Range<u64>>>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut start = Vec::new();
    file.by_ref().take(64).read_to_end(&mut start)?;
    if Compression::of_bytes(&start) != Compression::None {
        return Ok(None);
    }
    let mut cuts = vec![0];
    let mut wanted = step;
    while wanted + step / 2 < size {
        if let Some(found) = find(&mut file, wanted)? {
            // The one before may have been found far behind the place where it was looked for.
            if cuts.last().is_some_and(|last| *last < found) {
                cuts.push(found);
            }
        }
        wanted += step;
    }
    cuts.push(size);
    Ok(Some(cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()))
}

/// The first place at or after `from` where the file may be cut.
fn find(file: &mut File, from: u64) -> std::io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(from))?;
    let mut block = vec![0; BLOCK_BYTES];
    let (mut at, mut closed, mut ended) = (from, false, false);
    while at < from + SEARCH_BYTES {
        let count = file.read(&mut block)?;
        if count == 0 {
            break;
        }
        for byte in &block[..count] {
            match byte {
                b'{' if ended => return Ok(Some(at)),
                b'\n' => ended = closed,
                b' ' | b'\t' | b'\r' => {}
                other => (closed, ended) = (*other == b'}', false),
            }
            at += 1;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::RecordBatch;
    use arrow::compute::concat_batches;
    use lake::{Column, Format, SetAsideWriter, Table};

    use super::*;
    use crate::meter::Meter;
    use crate::read::{Layout, Picked, read_file};

    /// What parts come to: the rows in the order of the parts, and the records set aside by place.
    fn read(parts: &[Part], folder: &Path) -> (RecordBatch, BTreeSet<(u64, String)>, u64) {
        let columns = vec![Column::new("device", "string"), Column::new("value", "bigint")];
        let table = Table::new(("db", "t"), ("b", "t/"), Format::Json);
        let layout = Layout::of(&Table { columns, ..table }).unwrap();
        let picked = Picked::new(&layout, None).unwrap();
        let meter = Meter::keeping(SetAsideWriter::create(folder, "run").unwrap());
        let mut batches = Vec::new();
        // From the last to the first, as no order is promised.
        for part in parts.iter().rev() {
            let mut own = Vec::new();
            read_file(part, &picked, &meter, &mut |batch| {
                own.push(batch);
                true
            })
            .unwrap();
            batches.push(concat_batches(&picked.schema, &own).unwrap());
        }
        batches.reverse();
        let totals = meter.finish().unwrap();
        let lines = std::fs::read_to_string(folder.join(SetAsideWriter::NAME)).unwrap();
        let aside = lines.lines().map(|line| {
            let place = line.split_once("\"position\":").unwrap().1;
            let place: String = place.chars().take_while(char::is_ascii_digit).collect();
            let raw = line.split_once("\"rawData\":\"").unwrap().1.split('"').next().unwrap();
            (place.parse().unwrap(), raw.to_owned())
        });
        (concat_batches(&picked.schema, &batches).unwrap(), aside.collect(), totals.rows)
    }

    /// Records of every kind that may meet a cut.
    fn text(seed: u64, records: usize) -> String {
        let kinds: [&dyn Fn(usize) -> String; 11] = [
            &|n| format!("{{\"device\":\"d{n}\",\"value\":{n}}}\n"),
            &|n| format!("{{\"device\":\"d{n}\",\"value\":{n}}}"),
            &|n| format!("{{\n  \"device\": \"d{n}\",\n  \"value\": {n}\n}}\n"),
            &|n| {
                format!(
                    "{{\"device\":\"}}\\n{{\",\"more\":{{\"of\":{{\n}}\n}},\"value\":{n}}}\r\n\n"
                )
            },
            &|n| format!("{{\"device\":\"torn in a text {n}\n"),
            &|n| format!("{{\"device\":\"torn\",\"more\":{{\"n\":{n}}}\n"),
            &|n| format!("{{\"device\":\"d\",\"value\":\"not {n}\"}}\n"),
            &|n| format!("{{\"device\":\"a line end }}\n{{ in it\",\"value\":{n}}}\n"),
            &|n| format!("[{n},{{}}\n{{}}]\n"),
            &|n| format!("no JSON {n}\n"),
            &|n| format!("}}{{\"device\":\"d{n}\"}} \t\n"),
        ];
        let mut state = seed;
        let mut next = |bound: usize| {
            state =
                state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            (state >> 33) as usize % bound
        };
        (0..records)
            .map(|n| {
                let kind = if next(3) == 0 { next(kinds.len()) } else { 0 };
                kinds[kind](n)
            })
            .collect()
    }

    #[test]
    fn parts_have_the_rows_and_the_bad_records_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object.json");
        for seed in 0..20 {
            let text = text(seed, 300);
            std::fs::write(&path, &text).unwrap();
            let file = TableFile {
                bucket: "b".into(),
                key: "t/object.json".into(),
                path: path.clone(),
                bytes: text.len() as u64,
                etag: String::new(),
                partition_values: Vec::new(),
            };
            let whole = read(&[Part::whole(file.clone())], folder.path());
            assert!(whole.1.len() > 10, "{}", whole.1.len());
            for step in [1, 40, 333, 2_000, 1_000_000] {
                let ranges = cut(&path, step).unwrap().unwrap();
                assert_eq!(ranges.last().map(|last| last.end), Some(text.len() as u64));
                assert!(step > 10_000 || ranges.len() > 3, "{} of {step}", ranges.len());
                let part = |range| Part { file: file.clone(), range: Some(range) };
                let parts: Vec<Part> = ranges.into_iter().map(part).collect();
                assert_eq!(read(&parts, folder.path()), whole, "seed {seed}, step {step}");
            }
        }
    }

    #[test]
    fn what_has_no_lines_or_is_packed_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object.json");
        std::fs::write(&path, "{\"value\":1}".repeat(1000)).unwrap();
        let whole: Vec<_> = std::iter::once(0..11_000).collect();
        assert_eq!(cut(&path, 100).unwrap(), Some(whole));
        std::fs::write(&path, zstd::encode_all(&b"{}\n{}\n"[..], 1).unwrap()).unwrap();
        assert_eq!(cut(&path, 1).unwrap(), None);
    }
}
