//! The last commits, kept in memory so that readers at the tail touch no disk.
//!
//! Bounded in bytes and commits: readers at the tail are a few commits behind, and where commits
//! are small a quiet log should not fill with what nobody reads again. A buffer goes back to the
//! writer when it was dropped here and by every reader, so that a busy log allocates nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use base::Offset;
use bytes::Bytes;

use crate::Records;
use crate::queue::Mark;
use crate::segment::take_payload;
use crate::sync::lock;

const RECENT_BYTES_MAX: usize = 16 * 1024 * 1024;
const RECENT_COUNT_MAX: usize = 128;
/// Buffers that wait for their next use, and how long one may be to be kept. A commit of a mebibyte
/// lies in a buffer of two, since they grow by doubling.
const POOL_COUNT_MAX: usize = 4;
const POOL_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A buffer that is used to less than this share is copied out of: what is kept in memory is
/// then what was written, not what a busier moment left.
const USED_SHARE_MIN: usize = 4;

/// One commit as it lies in the file.
#[derive(Debug)]
pub(crate) struct Recent {
    pub(crate) next: Offset,
    pub(crate) bytes: Bytes,
    pub(crate) frames: Vec<Mark>,
}

impl Recent {
    fn base(&self) -> Offset {
        self.frames.first().map_or(self.next, |frame| frame.base)
    }

    /// Adds records from `records.next` on until `room` is used.
    pub(crate) fn read(&self, room: &mut usize, records: &mut Records) {
        let after = self.frames.partition_point(|frame| frame.base <= records.next);
        for frame in self.frames.iter().skip(after.saturating_sub(1)) {
            let payload = self.bytes.slice(frame.at + crate::frame::HEAD_BYTES..frame.end);
            take_payload(&payload, frame.base, room, records);
            if *room == 0 {
                return;
            }
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recents {
    commits: VecDeque<Arc<Recent>>,
    bytes: usize,
}

impl Recents {
    pub(crate) fn push(&mut self, commit: Recent) {
        self.bytes += commit.bytes.len();
        self.commits.push_back(Arc::new(commit));
        while self.commits.len() > RECENT_COUNT_MAX
            || (self.bytes > RECENT_BYTES_MAX && self.commits.len() > 1)
        {
            let Some(oldest) = self.commits.pop_front() else { return };
            self.bytes -= oldest.bytes.len();
        }
    }

    /// The commit that holds `offset`.
    pub(crate) fn find(&self, offset: Offset) -> Option<Arc<Recent>> {
        let after = self.commits.partition_point(|commit| commit.base() <= offset);
        let commit = self.commits.get(after.checked_sub(1)?)?;
        (offset < commit.next).then(|| Arc::clone(commit))
    }
}

/// Buffers on their way back to the writer.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    /// An empty buffer, used before if there is one.
    pub(crate) fn take(&self) -> Vec<u8> {
        lock(&self.0).pop().unwrap_or_default()
    }

    /// Shares `buffer`; it comes back when the last share is dropped.
    pub(crate) fn share(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        if buffer.len() < buffer.capacity() / USED_SHARE_MIN {
            let bytes = Bytes::copy_from_slice(&buffer);
            self.put_back(buffer);
            return bytes;
        }
        Bytes::from_owner(Pooled { buffer, pool: Arc::clone(self) })
    }

    fn put_back(&self, mut buffer: Vec<u8>) {
        let mut waiting = lock(&self.0);
        if waiting.len() < POOL_COUNT_MAX && buffer.capacity() <= POOL_BYTES_MAX {
            buffer.clear();
            waiting.push(buffer);
        }
    }
}

struct Pooled {
    buffer: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.put_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_reader_is_done() {
        let pool = Arc::new(Pool::default());
        let shared = pool.share(vec![7; 1000]);
        let record = shared.slice(10..20);
        drop(shared);
        assert_eq!(pool.take().capacity(), 0);
        drop(record);
        let buffer = pool.take();
        assert!(buffer.is_empty() && buffer.capacity() >= 1000);
    }

    #[test]
    fn a_hardly_used_buffer_is_not_kept_by_what_was_written() {
        let pool = Arc::new(Pool::default());
        let mut buffer = Vec::with_capacity(100_000);
        buffer.extend_from_slice(b"little");
        assert_eq!(pool.share(buffer), b"little".as_slice());
        assert!(pool.take().capacity() >= 100_000);
        let _dropped = pool.share(vec![0; 2 * POOL_BYTES_MAX]);
        assert_eq!(pool.take().capacity(), 0);
    }
}
