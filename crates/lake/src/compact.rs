//! Compaction: many small files of a folder become few, with the same rows.
//!
//! ```text
//! plan_compaction --CompactSpec--> compact (a process of its own) --CompactResult--> finish_compaction
//! ```
//!
//! Invariants
//! * Only files of one folder are put together, and of these only such that are alike: Parquet
//!   files with the very same columns and packing, JSON objects of one packing that hold nothing
//!   but whole records. So nothing is cast, and no record can run into the next.
//! * Rows keep their order within a file; files follow one another as they were committed, JSON
//!   objects by their key. A file of sorted files is sorted in runs, one behind the other, and its
//!   row groups' statistics tell them apart; merging the runs would cost memory for each.
//! * Rows are counted in what was read and in what was written, and compared.
//! * What was altered since it was written is left alone, and so keeps its checksum.
//! * Files that are young, that a run reads or that somebody is about to put again are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use base::{Error, ErrorKind, Result, Timestamp};
use formats::Compression;
use formats::parquet::{Codec, Reader as ParquetReader, Writer, WriterOptions};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::commits::{CommitKind, TableCommit};
use crate::glob::Globs;
use crate::lake::{blocking, is_hidden};
use crate::swap::{Come, Gone, PreparedSwap};
use crate::{FileSource, Format, Lake, Table, TableFile, WrittenFile};

/// Ids of swaps begin so.
pub(crate) const ID_START: &str = "sw_";
/// Files that one swap removes at most.
const INPUTS_MAX: usize = 20_000;
/// Rows of a batch on their way from file to file.
const BATCH_ROWS: usize = 8_192;
/// Level of zstd for JSON objects; those we deliver are gzip.
const ZSTD_LEVEL: i32 = 3;

/// What is compacted.
#[derive(Clone, Copy, Debug)]
pub struct CompactOptions {
    /// Files smaller than this are small.
    pub small_file_bytes: u64,
    /// A folder is compacted if it has so many small files.
    pub files_min: usize,
    /// Files put together come to about so much.
    pub target_file_bytes: u64,
    /// Files younger than this are left alone.
    pub age_ms_min: i64,
}

impl Default for CompactOptions {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        CompactOptions {
            small_file_bytes: 32 * MIB,
            files_min: 16,
            target_file_bytes: 128 * MIB,
            age_ms_min: 15 * 60 * 1_000,
        }
    }
}

/// A folder to be compacted: all that its process needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactSpec {
    /// The swap.
    pub id: String,
    /// The table's database.
    pub database: String,
    /// The table.
    pub table: String,
    /// Its bucket.
    pub bucket: String,
    /// The folder, a prefix.
    pub folder: String,
    /// What its files hold.
    pub format: Format,
    /// Where new files are written.
    pub staging: PathBuf,
    /// Files to be put together, those of each list into one.
    pub merges: Vec<Vec<CompactInput>>,
    table_created_at: Timestamp,
    source: FileSource,
    partition_values: Vec<String>,
}

/// A small file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactInput {
    /// Its name in the folder.
    pub name: String,
    /// Where its bytes are.
    pub path: PathBuf,
    /// Its etag.
    pub etag: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows, where the catalog knows.
    pub rows: Option<u64>,
}

/// What became of a [`CompactSpec`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactResult {
    /// New files.
    pub merged: Vec<Merged>,
    /// Names that were left as they are, each with why.
    pub left: Vec<(String, String)>,
}

/// A file made of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// Its file, beneath the staging folder.
    pub staged: String,
    /// What its name ends with.
    pub ending: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// The CRC-32C of its bytes.
    pub crc32c: u32,
    /// Names of those it was made of.
    pub from: Vec<String>,
}

/// What a look for small files came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactPlan {
    /// Folders to be compacted.
    pub specs: Vec<CompactSpec>,
    /// Folders that have small files and are left alone, with why.
    pub left: Vec<(String, String)>,
}

impl Lake {
    /// Looks for folders of a table with many small files. `busy` tells which objects of a bucket
    /// somebody may put again.
    ///
    /// [`ErrorKind::Unsupported`] for tables of others' Parquet files, which are not ours to
    /// rewrite.
    pub async fn plan_compaction(
        &self,
        table: &Table,
        options: &CompactOptions,
        busy: &(dyn Fn(&str, &str) -> bool + Send + Sync),
    ) -> Result<CompactPlan> {
        if table.source == FileSource::Listed && table.format != Format::Json {
            return Err(Error::unsupported(format!(
                "table {:?} is made of {} files that others wrote; only tables that jobs write \
                 and JSON objects are compacted",
                table.name,
                table.format.as_str()
            )));
        }
        let mut plan = CompactPlan::default();
        let known: BTreeMap<String, WrittenFile> = match table.source {
            FileSource::Committed => self
                .catalog()
                .written_files(&table.database, &table.name)?
                .into_iter()
                .map(|file| (file.key.clone(), file))
                .collect(),
            FileSource::Listed => BTreeMap::new(),
        };
        let mut folders: BTreeMap<String, Vec<TableFile>> = BTreeMap::new();
        for file in self.files(table).await? {
            let folder = file.key.rfind('/').map_or("", |end| &file.key[..=end]).to_owned();
            folders.entry(folder).or_default().push(file);
        }
        let now = self.clock().now();
        for (folder, files) in folders {
            let small = files.iter().filter(|file| file.bytes < options.small_file_bytes).count();
            if small < options.files_min.max(2) {
                continue;
            }
            let mut leave = |why: &str| plan.left.push((folder.clone(), why.to_owned()));
            if folder.is_empty() {
                leave("it is the top of the bucket");
                continue;
            }
            let partition_values = match files.first() {
                Some(first) => first.partition_values.clone(),
                None => continue,
            };
            if files.iter().any(|file| file.partition_values != partition_values) {
                leave("its files belong to more than one partition");
                continue;
            }
            let mut small_files = Vec::new();
            for file in files {
                let old = modified_at(&file.path)
                    .is_some_and(|at| at <= now.millis() - options.age_ms_min);
                if file.bytes < options.small_file_bytes && old && !busy(&file.bucket, &file.key) {
                    small_files.push(file);
                }
            }
            if small_files.len() < options.files_min.max(2) {
                leave("its small files are young or in use");
                continue;
            }
            // What was altered must not get a new checksum by being joined.
            for (index, error) in self.verify(&small_files).await?.into_iter().rev() {
                leave(&error.to_string());
                small_files.remove(index);
            }
            let mut inputs = Vec::with_capacity(small_files.len());
            for file in small_files {
                let written = known.get(&file.key);
                let order = written.map_or(0, |file| file.commit_added);
                let name = file.key[folder.len()..].to_owned();
                let rows = written.map(|file| file.rows);
                let TableFile { path, etag, bytes, .. } = file;
                inputs.push((order, CompactInput { name, path, etag, bytes, rows }));
            }
            inputs.sort_by(|(a, first), (b, second)| (a, &first.name).cmp(&(b, &second.name)));
            inputs.truncate(INPUTS_MAX);
            let inputs: Vec<CompactInput> = inputs.into_iter().map(|(_, input)| input).collect();
            let merges = self.bins(table, &folder, inputs, options.target_file_bytes)?;
            if merges.is_empty() {
                leave("jobs have read each of its small files differently");
                continue;
            }
            let id = format!("{ID_START}{}", Uuid::new_v4().simple());
            plan.specs.push(CompactSpec {
                staging: self.swap_staging(&id),
                id,
                database: table.database.clone(),
                table: table.name.clone(),
                bucket: table.bucket.clone(),
                folder,
                format: table.format,
                merges,
                table_created_at: table.created_at,
                source: table.source,
                partition_values,
            });
        }
        Ok(plan)
    }

    /// Files to put together: such that the same jobs have read, up to the target size.
    fn bins(
        &self,
        table: &Table,
        folder: &str,
        inputs: Vec<CompactInput>,
        target_bytes: u64,
    ) -> Result<Vec<Vec<CompactInput>>> {
        let mut by_readers: BTreeMap<Option<BTreeSet<crate::job::Reader>>, Vec<CompactInput>> =
            BTreeMap::new();
        let readers = crate::job::readers(self.store())?;
        for input in inputs {
            let key = format!("{folder}{}", input.name);
            let read = self.read_by(&readers, &table.bucket, &key, &input.etag)?;
            by_readers.entry(read).or_default().push(input);
        }
        // Whose bookmark is in doubt waits until the next run of that job.
        by_readers.remove(&None);
        let mut merges = Vec::new();
        for inputs in by_readers.into_values() {
            let (mut bin, mut bytes) = (Vec::new(), 0);
            for input in inputs {
                if bytes + input.bytes > target_bytes && !bin.is_empty() {
                    merges.push(std::mem::take(&mut bin));
                    bytes = 0;
                }
                bytes += input.bytes;
                bin.push(input);
            }
            merges.push(bin);
        }
        merges.retain(|bin| bin.len() > 1);
        Ok(merges)
    }

    /// Makes what a compaction wrote take the place of what it read. `None` if it wrote nothing.
    ///
    /// [`ErrorKind::Conflict`] if one of the files was replaced, taken or is read meanwhile: the
    /// folder is then as it was.
    pub async fn finish_compaction(
        &self,
        spec: &CompactSpec,
        result: &CompactResult,
        busy: &(dyn Fn(&str, &str) -> bool + Send + Sync),
    ) -> Result<Option<Compacted>> {
        let Some(swap) = self.compaction(spec, result)? else {
            self.sweep_run(&spec.id);
            return Ok(None);
        };
        let in_use = swap
            .removed
            .iter()
            .find(|gone| busy(&swap.bucket, &format!("{}{}", swap.folder, gone.name)));
        if let Some(gone) = in_use {
            self.sweep_run(&spec.id);
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("object {}{} may be put again", swap.folder, gone.name),
            ));
        }
        let done = Compacted {
            folder: spec.folder.clone(),
            files_before: swap.removed.len() as u64,
            files_after: swap.added.len() as u64,
            rows: swap.added.iter().map(|come| come.rows).sum(),
            bytes_before: spec.merges.iter().flatten().map(|input| input.bytes).sum(),
            bytes_after: swap.added.iter().map(|come| come.bytes).sum(),
            commit: None,
        };
        let commit = self.carry_out(swap).await?;
        Ok(Some(Compacted { commit, ..done }))
    }

    /// Gives up a compaction whose process failed.
    pub fn drop_compaction(&self, spec: &CompactSpec) {
        self.sweep_run(&spec.id);
    }

    /// What a compaction wrote, as a swap to be prepared; `None` if it wrote nothing.
    pub fn compaction(
        &self,
        spec: &CompactSpec,
        result: &CompactResult,
    ) -> Result<Option<PreparedSwap>> {
        let etags: BTreeMap<&str, &str> = spec
            .merges
            .iter()
            .flatten()
            .map(|input| (input.name.as_str(), input.etag.as_str()))
            .collect();
        let bad = |why: String| Error::internal(format!("the result of {}: {why}", spec.id));
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for (index, merged) in result.merged.iter().enumerate() {
            let mut from = Vec::new();
            for name in &merged.from {
                let etag = etags.get(name.as_str());
                let etag = etag.ok_or_else(|| bad(format!("{name:?} was not to be read")))?;
                from.push(removed.len());
                removed.push(Gone { name: name.clone(), etag: (*etag).to_owned() });
            }
            added.push(Come {
                staged: merged.staged.clone(),
                name: format!("part-{}-{index:05}{}", spec.id, merged.ending),
                bytes: merged.bytes,
                rows: merged.rows,
                crc32c: merged.crc32c,
                from,
            });
        }
        if added.is_empty() {
            return Ok(None);
        }
        let table = self.catalog().get_table(&spec.database, &spec.table)?;
        let exclusions = Globs::parse(&table.exclusions)?;
        for come in &added {
            let key = format!("{}{}", spec.folder, come.name);
            let below = key.strip_prefix(&table.prefix).unwrap_or(&key);
            if is_hidden(below) || exclusions.matches(below) {
                return Err(Error::unsupported(format!(
                    "object {key:?} would be no part of table {:?}: its exclusions leave it out",
                    table.name
                )));
            }
        }
        Ok(Some(PreparedSwap {
            id: spec.id.clone(),
            kind: CommitKind::Compact,
            why: format!("{} small files", removed.len()),
            database: spec.database.clone(),
            table: spec.table.clone(),
            source: spec.source,
            table_created_at: spec.table_created_at,
            bucket: spec.bucket.clone(),
            folder: spec.folder.clone(),
            partition_values: spec.partition_values.clone(),
            removed,
            added,
            etags: Vec::new(),
            readers: crate::job::readers(self.store())?,
        }))
    }

    /// Compacts a table in this process; what a process of its own does elsewhere.
    pub async fn compact_here(
        &self,
        table: &Table,
        options: &CompactOptions,
    ) -> Result<Vec<Compacted>> {
        let idle = |_: &str, _: &str| false;
        let mut done = Vec::new();
        for spec in self.plan_compaction(table, options, &idle).await?.specs {
            let work = spec.clone();
            let result = blocking(move || compact(&work)).await?;
            done.extend(self.finish_compaction(&spec, &result, &idle).await?);
        }
        Ok(done)
    }
}

/// A folder that was compacted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compacted {
    /// The folder.
    pub folder: String,
    /// Files that were put together.
    pub files_before: u64,
    /// Files that they became.
    pub files_after: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes that were looked at.
    pub bytes_before: u64,
    /// Bytes that were written.
    pub bytes_after: u64,
    /// The commit, for a table that has commits.
    pub commit: Option<TableCommit>,
}

pub(crate) fn modified_at(path: &Path) -> Option<i64> {
    let modified = path.metadata().ok()?.modified().ok()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// Writes the files of a compaction. Reads each input twice if it is JSON: first to see that it
/// holds nothing but whole records.
pub fn compact(spec: &CompactSpec) -> Result<CompactResult> {
    std::fs::create_dir_all(&spec.staging)
        .map_err(|e| Error::io(format!("make {}", spec.staging.display()), e))?;
    let mut result = CompactResult::default();
    for inputs in &spec.merges {
        for alike in alike(spec.format, inputs, &mut result.left)? {
            if alike.inputs.len() < 2 {
                for input in alike.inputs {
                    result.left.push((input.name, "no other is like it".to_owned()));
                }
                continue;
            }
            let staged = format!("{:05}", result.merged.len());
            let path = spec.staging.join(&staged);
            match alike.kind {
                Kind::Parquet(_, codec) => join_parquet(&path, &alike.inputs, codec)?,
                Kind::Json(packing) => join_json(&path, &alike.inputs, packing)?,
            }
            let rows = match alike.kind {
                Kind::Parquet(..) => ParquetReader::open(&path)?.rows(),
                Kind::Json(_) => {
                    let file = File::open(&path)
                        .map_err(|e| Error::io(format!("open {}", path.display()), e))?;
                    records(file)?.map_err(Error::internal)?
                }
            };
            let expected: u64 = alike.inputs.iter().filter_map(|input| input.rows).sum();
            if rows != expected {
                return Err(Error::internal(format!(
                    "{} files of {} have {expected} rows, and {rows} together",
                    alike.inputs.len(),
                    spec.folder
                )));
            }
            let meta = path.metadata().map_err(|e| Error::io("measure a file", e))?;
            result.merged.push(Merged {
                staged,
                ending: alike.ending,
                bytes: meta.len(),
                rows,
                crc32c: crate::job::checksum(&path)?,
                from: alike.inputs.into_iter().map(|input| input.name).collect(),
            });
        }
    }
    Ok(result)
}

/// Files that can be put together.
struct Alike {
    kind: Kind,
    ending: String,
    inputs: Vec<CompactInput>,
}

#[derive(Clone, PartialEq)]
enum Kind {
    Parquet(SchemaRef, Codec),
    Json(Compression),
}

/// Sorts inputs by what they are, in their order, each with its rows.
fn alike(
    format: Format,
    inputs: &[CompactInput],
    left: &mut Vec<(String, String)>,
) -> Result<Vec<Alike>> {
    let mut groups: Vec<Alike> = Vec::new();
    for input in inputs {
        let looked = match format {
            Format::Parquet => look_parquet(input),
            _ => look_json(input),
        };
        let (kind, rows) = match looked {
            Ok(looked) => looked,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
            Err(error) => {
                left.push((input.name.clone(), error.to_string()));
                continue;
            }
        };
        if input.rows.is_some_and(|known| known != rows) {
            left.push((input.name.clone(), format!("it has {rows} rows, not those committed")));
            continue;
        }
        let input = CompactInput { rows: Some(rows), ..input.clone() };
        let ending = ending(&input.name);
        match groups.iter_mut().find(|group| group.kind == kind && group.ending == ending) {
            Some(group) => group.inputs.push(input),
            None => groups.push(Alike { kind, ending, inputs: vec![input] }),
        }
    }
    Ok(groups)
}

/// The part of a name that readers go by: `.parquet`, `.json.gz`, or nothing.
fn ending(name: &str) -> String {
    let mut rest = name;
    let mut at = name.len();
    for _ in 0..2 {
        let Some((stem, last)) = rest.rsplit_once('.') else { break };
        let plain = last.chars().all(|c| c.is_ascii_alphanumeric()) && !stem.is_empty();
        let is_word = last.chars().any(|c| c.is_ascii_alphabetic());
        if !plain || !is_word || last.is_empty() || last.len() > 8 {
            break;
        }
        at = stem.len();
        rest = stem;
    }
    name[at..].to_owned()
}

/// The columns of a file, without the notes that each run leaves in it.
fn columns_of(reader: &ParquetReader) -> SchemaRef {
    Arc::new(Schema::new(reader.schema().fields().clone()))
}

fn look_parquet(input: &CompactInput) -> Result<(Kind, u64)> {
    let reader = ParquetReader::open(&input.path)?;
    let codec = reader.codec().ok_or_else(|| {
        Error::unsupported("its pages are packed in more than one way, or in one we do not write")
    })?;
    Ok((Kind::Parquet(columns_of(&reader), codec), reader.rows()))
}

fn look_json(input: &CompactInput) -> Result<(Kind, u64)> {
    let open = || {
        File::open(&input.path).map_err(|e| Error::io(format!("open {}", input.path.display()), e))
    };
    let mut start = Vec::new();
    open()?.take(6).read_to_end(&mut start).map_err(|e| Error::io("read an object", e))?;
    let rows = records(open()?)?.map_err(Error::unsupported)?;
    Ok((Kind::Json(Compression::of_bytes(&start)), rows))
}

/// The records of a JSON object, or what keeps it from being joined with others.
fn records(file: File) -> Result<std::result::Result<u64, String>> {
    let text = formats::decode(file)?;
    let found = formats::json::infer(text, &formats::json::InferOptions::default())?;
    Ok(match found.bad {
        0 => Ok(found.records),
        bad => Err(format!("{bad} of its records are damaged")),
    })
}

/// Remembers the last byte that was read.
struct LastByte<R> {
    inner: R,
    last: Option<u8>,
}

impl<R: Read> Read for LastByte<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(out)?;
        if let Some(last) = out[..count].last() {
            self.last = Some(*last);
        }
        Ok(count)
    }
}

fn join_parquet(path: &Path, inputs: &[CompactInput], codec: Codec) -> Result<()> {
    let Some(first) = inputs.first() else { return Ok(()) };
    let schema = columns_of(&ParquetReader::open(&first.path)?);
    let metadata = vec![("forebay.compacted".to_owned(), inputs.len().to_string())];
    let options = WriterOptions { codec, metadata, ..WriterOptions::default() };
    let mut writer = Writer::create(path, Arc::clone(&schema), &options)?;
    for input in inputs {
        for batch in ParquetReader::open(&input.path)?.batches(None, BATCH_ROWS)? {
            let columns = batch?.columns().to_vec();
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(|cause| {
                Error::internal(format!("{} has other columns: {cause}", input.path.display()))
            })?;
            writer.write(&batch)?;
        }
    }
    writer.close().map(drop)
}

/// Writes the records of objects one behind the other, with a line's end between objects.
fn join_json(path: &Path, inputs: &[CompactInput], packing: Compression) -> Result<()> {
    let failed = |e| Error::io(format!("write {}", path.display()), e);
    let mut file = BufWriter::new(File::create_new(path).map_err(failed)?);
    match packing {
        Compression::None => copy_all(inputs, &mut file)?,
        Compression::Gzip => {
            let mut packed =
                flate2::write::GzEncoder::new(&mut file, flate2::Compression::default());
            copy_all(inputs, &mut packed)?;
            packed.finish().map_err(failed)?;
        }
        Compression::Zstd => {
            let mut packed =
                zstd::stream::write::Encoder::new(&mut file, ZSTD_LEVEL).map_err(failed)?;
            copy_all(inputs, &mut packed)?;
            packed.finish().map_err(failed)?;
        }
        Compression::Snappy => {
            let mut packed = snap::write::FrameEncoder::new(&mut file);
            copy_all(inputs, &mut packed)?;
            packed.flush().map_err(failed)?;
        }
        other => return Err(Error::unsupported(format!("{other:?} objects are not written"))),
    }
    file.flush().map_err(failed)?;
    file.get_ref().sync_all().map_err(failed)
}

fn copy_all(inputs: &[CompactInput], to: &mut impl Write) -> Result<()> {
    for input in inputs {
        let failed = |e| Error::io(format!("join {}", input.path.display()), e);
        let file = File::open(&input.path).map_err(failed)?;
        let mut text = LastByte { inner: formats::decode(file)?, last: None };
        std::io::copy(&mut text, to).map_err(failed)?;
        if text.last.is_some_and(|last| last != b'\n') {
            to.write_all(b"\n").map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_with_what_readers_go_by() {
        for (name, expect) in [
            ("part-jr_1-00000.parquet", ".parquet"),
            ("readings-1-2026-11-29-21-00-00-uuid.gz", ".gz"),
            ("a.json.gz", ".json.gz"),
            ("a.2026.json", ".json"),
            ("plain", ""),
            (".gz", ""),
            ("a.", ""),
        ] {
            assert_eq!(ending(name), expect, "{name}");
        }
    }
}
