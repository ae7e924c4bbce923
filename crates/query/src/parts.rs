//! Where a large object of text may be cut, so that more than one thread reads it.
//!
//! Delimited text is cut at any line, as no record of it spans two; what its first lines say of all
//! goes along with each part. A cut of JSON lies at the first byte of a line that begins with `{`,
//! where the line before ended with `}` (blanks and empty lines aside). There every scan begins a
//! record, whatever came before: no valid object holds a `}` and a `{` with only white space
//! between, a line end within a string is not JSON, and a record that makes no sense ends with its
//! line. So the parts together have the rows of the whole, and the same records set aside at the
//! same places.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use formats::Compression;
use formats::csv::{FileStart, ScanOptions};
use lake::{Format, TableFile};

use crate::read::Layout;

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
    /// What the start of the object says, if this is a part of delimited text.
    pub(crate) start: Option<Arc<FileStart>>,
}

impl Part {
    pub(crate) fn whole(file: TableFile) -> Part {
        Part { file, range: None, start: None }
    }

    /// The parts of an object of a table: the same ones whoever asks.
    pub(crate) fn of(file: TableFile, layout: &Layout) -> Vec<Part> {
        if file.bytes < 2 * PART_BYTES || Compression::of_name(&file.key) != Compression::None {
            return vec![Part::whole(file)];
        }
        let step = PART_BYTES.max(file.bytes.div_ceil(PARTS_MAX));
        Part::cut(&file, layout, step).unwrap_or_else(|| vec![Part::whole(file)])
    }

    /// The parts of about `step` bytes, or none if there is no telling where they begin. Who cannot
    /// open the object now says so when it is to be read.
    fn cut(file: &TableFile, layout: &Layout, step: u64) -> Option<Vec<Part>> {
        let start = match layout.format {
            Format::Csv => Some(Arc::new(file_start(file, layout)?)),
            // What lies within one document has no place to cut at.
            Format::Json if layout.records.is_none() => None,
            _ => return None,
        };
        let ranges = ranges(&file.path, step, start.as_deref()).ok()??;
        let part = |range| Part { file: file.clone(), range: Some(range), start: start.clone() };
        Some(ranges.into_iter().map(part).collect())
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

/// What the start of an object of delimited text says of it, if anything.
fn file_start(file: &TableFile, layout: &Layout) -> Option<FileStart> {
    let opened = formats::decode_object(File::open(&file.path).ok()?, &file.key).ok()?;
    layout.csv_scan(None, opened, ScanOptions::default()).ok()?.file_start().ok()?
}

/// The parts of a file that is not packed, of about `step` bytes; of lines, if `start` is what the
/// first of them say, and of JSON else.
fn ranges(
    path: &Path,
    step: u64,
    start: Option<&FileStart>,
) -> std::io::Result<Option<Vec<Range<u64>>>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut first = Vec::new();
    file.by_ref().take(64).read_to_end(&mut first)?;
    if Compression::of_bytes(&first) != Compression::None {
        return Ok(None);
    }
    let mut cuts = vec![0];
    let mut wanted = step;
    while wanted + step / 2 < size {
        let found = match start {
            Some(_) => find(&mut file, wanted, line_start)?,
            None => find(&mut file, wanted, record_start)?,
        };
        if let Some(found) = found.filter(|found| start.is_none_or(|it| it.bytes() < *found)) {
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

/// The first place at or after `from` where the file may be cut: before the first byte of which
/// `begins` says so, which is asked of every byte with what it made of those before.
fn find<S: Default>(
    file: &mut File,
    from: u64,
    begins: impl Fn(&mut S, u8) -> bool,
) -> std::io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(from))?;
    let mut block = vec![0; BLOCK_BYTES];
    let (mut at, mut before) = (from, S::default());
    while at < from + SEARCH_BYTES {
        let count = file.read(&mut block)?;
        if count == 0 {
            break;
        }
        for byte in &block[..count] {
            if begins(&mut before, *byte) {
                return Ok(Some(at));
            }
            at += 1;
        }
    }
    Ok(None)
}

/// Whether a line begins. One that begins as a byte order mark does is no place to begin to read.
fn line_start(ended: &mut bool, byte: u8) -> bool {
    std::mem::replace(ended, byte == b'\n') && byte != 0xef
}

/// Whether a record of JSON begins a line, behind one that ended one.
fn record_start((closed, ended): &mut (bool, bool), byte: u8) -> bool {
    match byte {
        b'{' if *ended => return true,
        b'\n' => *ended = *closed,
        b' ' | b'\t' | b'\r' => {}
        other => (*closed, *ended) = (other == b'}', false),
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::RecordBatch;
    use arrow::compute::concat_batches;
    use formats::csv::{Dialect, Header};
    use lake::{Column, SetAsideWriter, Table};

    use super::*;
    use crate::meter::Meter;
    use crate::read::{Picked, read_file};

    /// What parts come to: the rows in the order of the parts, and the records set aside by place.
    fn read(
        parts: &[Part],
        layout: &Layout,
        folder: &Path,
    ) -> (RecordBatch, BTreeSet<(u64, String)>, u64, u64) {
        let picked = Picked::new(layout, None).unwrap();
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
        let rows = concat_batches(&picked.schema, &batches).unwrap();
        (rows, aside.collect(), totals.rows, totals.bytes)
    }

    fn layout(format: Format, csv: Option<Dialect>) -> Layout {
        let columns = vec![Column::new("device", "string"), Column::new("value", "bigint")];
        let table = Table::new(("db", "t"), ("b", "t/"), format);
        Layout::of(&Table { columns, csv, ..table }).unwrap()
    }

    fn file(path: &Path, text: &str) -> TableFile {
        std::fs::write(path, text).unwrap();
        TableFile {
            bucket: "b".into(),
            key: "t/object".into(),
            path: path.to_owned(),
            bytes: text.len() as u64,
            etag: String::new(),
            partition_values: Vec::new(),
        }
    }

    type Kind<'a> = &'a dyn Fn(usize) -> String;

    /// Records of every kind, the first of them most often.
    fn mixed(seed: u64, kinds: &[Kind<'_>]) -> String {
        let mut state = seed;
        let mut next = |bound: usize| {
            state =
                state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            (state >> 33) as usize % bound
        };
        let record = |n| kinds[if next(3) == 0 { next(kinds.len()) } else { 0 }](n);
        (0..300).map(record).collect()
    }

    /// Reads a text in parts of several sizes and whole.
    fn parts_are_the_whole(text: &str, layout: &Layout, what: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder.path().join("object"), text);
        let whole = read(&[Part::whole(file.clone())], layout, folder.path());
        assert!(whole.1.len() > 10, "{what}: {}", whole.1.len());
        assert_eq!(whole.3, text.len() as u64, "{what}");
        for step in [1, 40, 333, 2_000, 1_000_000] {
            let parts = Part::cut(&file, layout, step).unwrap();
            let end = parts.last().and_then(|part| part.range.clone()).map(|range| range.end);
            assert_eq!(end, Some(text.len() as u64), "{what}");
            let few = step * 4 > text.len() as u64;
            assert!(few || parts.len() > 3, "{what}: {} of {step}", parts.len());
            assert_eq!(read(&parts, layout, folder.path()), whole, "{what}, step {step}");
        }
    }

    /// Records of JSON of every kind that may meet a cut.
    fn json(seed: u64) -> String {
        let kinds: [Kind<'_>; 11] = [
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
        mixed(seed, &kinds)
    }

    /// Lines of every kind that may meet a cut.
    fn csv(seed: u64) -> String {
        let kinds: [Kind<'_>; 9] = [
            &|n| format!("d{n},{n}\n"),
            &|n| format!("d{n},{n}\r\n\n"),
            &|n| format!("\"a,{n}\",{n}\n"),
            &|n| format!("\"d \"\"{n}\"\"\",{n}\n"),
            &|n| format!("\"not closed {n},{n}\n"),
            &|n| format!("\u{feff}d{n},{n}\n"),
            &|n| format!("d{n},not {n}\n"),
            &|n| format!("d{n},{n},{n}\n"),
            &|_| " \n\r\n".to_owned(),
        ];
        mixed(seed, &kinds)
    }

    #[test]
    fn parts_have_the_rows_and_the_bad_records_of_the_whole() {
        let of_json = layout(Format::Json, None);
        let mut dialect = Dialect::new(b',');
        for seed in 0..20 {
            parts_are_the_whole(&json(seed), &of_json, &format!("seed {seed} of JSON"));
            for (header, first) in [
                (Header::None, ""),
                (Header::Names, "\u{feff}value,device\n"),
                (Header::Skip(2), "readings\n\nof all devices\r\n"),
            ] {
                dialect.header = header;
                let layout = layout(Format::Csv, Some(dialect.clone()));
                // The header has the columns the other way round.
                let turn = |line: &str| match line.split_once(",") {
                    Some((device, value)) if value.parse::<u64>().is_ok() => {
                        format!("{value},{device}\n")
                    }
                    _ => format!("{line}\n"),
                };
                let lines = match header {
                    Header::Names => csv(seed).lines().map(turn).collect(),
                    _ => csv(seed),
                };
                let text = format!("{first}{lines}");
                parts_are_the_whole(&text, &layout, &format!("seed {seed} of {header:?}"));
            }
        }
    }

    #[test]
    fn what_has_no_lines_or_is_packed_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object.json");
        std::fs::write(&path, "{\"value\":1}".repeat(1000)).unwrap();
        let whole: Vec<_> = std::iter::once(0..11_000).collect();
        assert_eq!(ranges(&path, 100, None).unwrap(), Some(whole));
        std::fs::write(&path, zstd::encode_all(&b"{}\n{}\n"[..], 1).unwrap()).unwrap();
        assert_eq!(ranges(&path, 1, None).unwrap(), None);
        // A header that is not that of its lines is said once.
        let layout =
            layout(Format::Csv, Some(Dialect { header: Header::Names, ..Dialect::new(b',') }));
        let wrong = file(&path, &format!("device,value,more\n{}", "d,1\n".repeat(100)));
        assert!(Part::cut(&wrong, &layout, 10).is_none());
    }
}
