//! Keeps the values of a channel: in memory while there are few, else in a file that is mapped
//! into memory, so that what a training needs is bounded by its batches and not by its data.
//!
//! Invariants
//! * Series come out as they came in, in their order, wherever their values lie.
//! * At most [`ABOVE_BYTES`] of values are in memory of our own, and one series more while it is
//!   read.
//! * The file has no name: it is gone with the last series that has values in it, also when the
//!   process is killed.

#![expect(unsafe_code, reason = "a file is mapped; `Mapped` says why nothing changes it")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Error, Result};
use forecast::{Block, TimeSeries, Values};
use memmap2::Mmap;

/// Values up to this size stay in memory: 16 million of them.
pub const ABOVE_BYTES: u64 = 64 << 20;

/// Takes series one by one, and hands all of them back.
pub(crate) struct Spool {
    /// Where the file is made, if values may leave memory at all.
    folder: Option<PathBuf>,
    above_bytes: u64,
    series: Vec<TimeSeries>,
    in_memory: u64,
    file: Option<Spilled>,
}

/// The file, and where in it the values of the first so many series are.
struct Spilled {
    out: BufWriter<File>,
    written: usize,
    spans: Vec<Spans>,
}

/// Begin and length of a series' target and of each of its features.
struct Spans {
    target: (usize, usize),
    features: Vec<(usize, usize)>,
}

impl Spool {
    /// Keeps everything in memory.
    pub(crate) fn in_memory() -> Spool {
        let series = Vec::new();
        Spool { folder: None, above_bytes: u64::MAX, series, in_memory: 0, file: None }
    }

    /// Keeps values beyond `above_bytes` in a file in `folder`.
    pub(crate) fn in_folder(folder: &Path, above_bytes: u64) -> Spool {
        Spool { folder: Some(folder.to_owned()), above_bytes, ..Spool::in_memory() }
    }

    /// How many series there are so far.
    pub(crate) fn len(&self) -> usize {
        self.series.len()
    }

    /// Adds one series.
    pub(crate) fn push(&mut self, series: TimeSeries) -> Result<()> {
        let features = series.feat_dynamic_real.iter().map(|feature| feature.len());
        let values = series.target.len() + features.sum::<usize>();
        self.in_memory += values as u64 * 4;
        self.series.push(series);
        if self.in_memory <= self.above_bytes {
            return Ok(());
        }
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        self.spill(&folder)
            .map_err(|cause| Error::io(format!("keeping values in {}", folder.display()), cause))
    }

    /// Moves the values of all series that still have theirs to the file.
    fn spill(&mut self, folder: &Path) -> std::io::Result<()> {
        if self.file.is_none() {
            std::fs::create_dir_all(folder)?;
            let out = BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(folder)?);
            self.file = Some(Spilled { out, written: 0, spans: Vec::new() });
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        for series in &mut self.series[file.spans.len()..] {
            let target = file.write(&std::mem::take(&mut series.target))?;
            let features = std::mem::take(&mut series.feat_dynamic_real);
            let features = features.iter().map(|feature| file.write(feature));
            let features = features.collect::<std::io::Result<_>>()?;
            file.spans.push(Spans { target, features });
        }
        // From here on each series goes to the file as it comes.
        (self.in_memory, self.above_bytes) = (0, 0);
        Ok(())
    }

    /// All series.
    pub(crate) fn finish(mut self) -> Result<Vec<TimeSeries>> {
        let Some(file) = self.file else { return Ok(self.series) };
        let spans = file.spans;
        let mapped = file
            .out
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| Mapped::new(&file))
            .map_err(|cause| Error::io("keeping values in a file", cause))?;
        let block: Arc<dyn Block> = Arc::new(mapped);
        let shared = |(from, len): (usize, usize)| Values::shared(block.clone(), from, len);
        for (series, spans) in self.series.iter_mut().zip(spans) {
            series.target = shared(spans.target);
            series.feat_dynamic_real = spans.features.into_iter().map(shared).collect();
        }
        Ok(self.series)
    }
}

impl Spilled {
    fn write(&mut self, values: &[f32]) -> std::io::Result<(usize, usize)> {
        let from = self.written;
        for value in values {
            self.out.write_all(&value.to_ne_bytes())?;
        }
        self.written += values.len();
        Ok((from, values.len()))
    }
}

/// A file of values in memory, in this machine's byte order.
struct Mapped(Mmap);

impl Mapped {
    fn new(file: &File) -> std::io::Result<Mapped> {
        // SAFETY: a mapping must not change while it is borrowed. The file never had a name (or
        // lost it at once), it was made by this process and its one handle ends with this call,
        // so nobody can write to it or cut it off. A disk that fails to read a page ends the
        // process by a signal, which is why trainings have one of their own.
        let mapped = unsafe { Mmap::map(file)? };
        Ok(Mapped(mapped))
    }
}

impl Block for Mapped {
    fn values(&self) -> &[f32] {
        // SAFETY: every pattern of bits is an f32, and it has the alignment of a page.
        let (front, values, back) = unsafe { self.0.align_to::<f32>() };
        assert!(front.is_empty() && back.is_empty(), "a mapping begins and ends between values");
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(k: usize) -> TimeSeries {
        let value = |t: usize| if t % 7 == 3 { f32::NAN } else { (1000 * k + t) as f32 };
        TimeSeries {
            item_id: Some(format!("item {k}")),
            target: (0..10 * k).map(value).collect(),
            feat_static_cat: vec![k as u32],
            feat_dynamic_real: vec![(0..10 * k + 5).map(|t| t as f32).collect(); k % 3],
            ..TimeSeries::default()
        }
    }

    fn shown(all: &[TimeSeries]) -> String {
        format!("{all:?}")
    }

    #[test]
    fn series_come_out_as_they_came_in() {
        let folder = tempfile::tempdir().unwrap();
        let expect: Vec<TimeSeries> = (0..20).map(series).collect();
        for above_bytes in [0, 1, 2000, 8000, u64::MAX] {
            let mut spool = Spool::in_folder(&folder.path().join("new"), above_bytes);
            expect.iter().for_each(|series| spool.push(series.clone()).unwrap());
            assert_eq!((spool.len(), spool.file.is_some()), (20, above_bytes < 9000));
            let all = spool.finish().unwrap();
            assert_eq!(shown(&all), shown(&expect), "above {above_bytes} bytes");
            let left = std::fs::read_dir(folder.path().join("new")).into_iter().flatten().count();
            assert_eq!(left, 0, "the file has a name");
            // What was read may go in any order, and its values may be written over.
            let mut last = all.into_iter().next_back().unwrap();
            last.target[0] = -1.0;
            assert_eq!(last.target[..2], [-1.0, 19_001.0]);
        }
    }

    #[test]
    fn nothing_in_a_file_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::in_folder(folder.path(), 0);
        spool.push(TimeSeries { target: vec![1.0].into(), ..TimeSeries::default() }).unwrap();
        spool.push(TimeSeries::default()).unwrap();
        let all = spool.finish().unwrap();
        assert_eq!((all[0].target.len(), all[1].target.len()), (1, 0));
        assert!(Spool::in_folder(folder.path(), 0).finish().unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("taken");
        std::fs::write(&file, "").unwrap();
        let mut spool = Spool::in_folder(&file.join("in"), 0);
        let error = spool.push(series(3)).unwrap_err().to_string();
        assert!(error.contains("taken"), "{error}");
    }
}
