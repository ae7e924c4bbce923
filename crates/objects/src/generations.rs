//! Replacing objects of one folder at once: whoever lists sees those of before or those of after.
//!
//! ```text
//! build     <root>/.s3/<bucket>/retired/<id>/objects/   links to what stays, and to what is new
//! exchange  that folder and the bucket's, in one call of the system
//! retired   what was the bucket's folder lies in the other's place, whole, until it is dropped
//! ```
//!
//! Invariants
//! * A folder is exchanged in one step: a program that globs it, and one that has it open
//!   already, meet one generation. Puts and deletes wait for the moment of the exchange.
//! * A retired object is not listed, but is read by its key and kept until
//!   [`Buckets::drop_retired`]: whoever listed before reads after.
//! * A listing of many pages shows each folder as it was at its first page.
//! * After a crash a swap is done or not done; which, its own folder tells.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::attributes::identity;
use crate::pages::Listing;
use crate::{Buckets, durable, names};

/// The folder of retired objects, in the bucket's side folder.
const RETIRED: &str = "retired";
/// Within the folder of a swap: the other generation, and what the swap was to do.
const OTHER: &str = "objects";
const MANIFEST: &str = "swap.json";
/// Ends of pages whose listing may go on by a key alone, as version 1 does.
const ENDS_MAX: usize = 4_096;

/// Objects of one folder to be taken out of sight, and files to take their place.
#[derive(Clone, Debug)]
pub struct Swap {
    /// Names the swap: the same again is the same swap. Letters, digits, `_` and `-`.
    pub id: String,
    /// The bucket.
    pub bucket: String,
    /// The folder: a prefix that ends with `/`.
    pub folder: String,
    /// Names within it, each with the etag it must still have.
    pub removed: Vec<(String, String)>,
    /// Files on the same file system, and their names within the folder.
    pub added: Vec<(PathBuf, String)>,
    /// When.
    pub at: Timestamp,
}

/// A swap that was done, as it is known while its objects are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The swap.
    pub id: String,
    /// The bucket.
    pub bucket: String,
    /// The folder.
    pub folder: String,
    /// Grows with each swap.
    pub generation: u64,
    /// Names that are out of sight.
    pub removed: Vec<String>,
    /// Names that took their place.
    pub added: Vec<String>,
}

/// What was swapped and is still kept. Clones of a store share it.
#[derive(Debug, Default)]
pub(crate) struct Generations(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    last: u64,
    swaps: BTreeMap<u64, Arc<Retired>>,
    /// The newest swap that retired a key, by bucket and key.
    keys: HashMap<(String, String), u64>,
    /// The generation of pages by bucket, prefix and the name they end with.
    ends: HashMap<(String, String, String), u64>,
    order: VecDeque<(String, String, String)>,
}

impl Generations {
    /// Reads what lies below the side folders of a store.
    pub(crate) fn load(side: &Path) -> Result<Self> {
        let mut index = Index::default();
        for bucket in folders(side)? {
            for home in folders(&bucket.join(RETIRED))? {
                let Ok(text) = std::fs::read(home.join(MANIFEST)) else { continue };
                let Ok(retired) = serde_json::from_slice::<Retired>(&text) else { continue };
                // Otherwise it was to be done and was not: whoever wanted it does it again.
                if is_done(&home, retired.removed.first()) {
                    index.insert(retired);
                }
            }
        }
        Ok(Generations(RwLock::new(index)))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation that a listing shows: that of its first page, where it can be told.
    pub(crate) fn of(&self, bucket: &str, listing: &Listing) -> u64 {
        let index = self.read();
        if let Some(generation) = listing.as_of {
            return generation;
        }
        if listing.after.is_empty() {
            return index.last;
        }
        let end = (bucket.to_owned(), listing.prefix.clone(), listing.after.clone());
        if let Some(generation) = index.ends.get(&end) {
            return *generation;
        }
        // The key was listed, so that listing began before the key was retired.
        let (bucket, _, key) = end;
        index.keys.get(&(bucket, key)).map_or(index.last, |retired| retired.saturating_sub(1))
    }

    /// Remembers how to go on after a page.
    pub(crate) fn ended(&self, bucket: &str, prefix: &str, last: &str, generation: u64) {
        let end = (bucket.to_owned(), prefix.to_owned(), last.to_owned());
        let mut index = self.write();
        if index.ends.insert(end.clone(), generation).is_none() {
            index.order.push_back(end);
            if index.order.len() > ENDS_MAX
                && let Some(oldest) = index.order.pop_front()
            {
                index.ends.remove(&oldest);
            }
        }
    }

    /// Makes the keys of a folder those of `generation`. To be asked after the folder was read:
    /// a swap is known here before it happens there.
    pub(crate) fn undo(
        &self,
        bucket: &str,
        folder: &str,
        generation: u64,
        keys: &mut HashSet<String>,
    ) {
        let index = self.read();
        if index.last <= generation {
            return;
        }
        for swap in index.swaps.range(generation + 1..).rev().map(|(_, swap)| swap) {
            if swap.bucket == bucket && swap.folder == folder {
                for name in &swap.added {
                    keys.remove(&format!("{folder}{name}"));
                }
                keys.extend(swap.removed.iter().map(|name| format!("{folder}{name}")));
            }
        }
    }

    /// Forgets a bucket that is gone.
    pub(crate) fn forget_bucket(&self, bucket: &str) {
        let mut index = self.write();
        index.swaps.retain(|_, swap| swap.bucket != bucket);
        index.keys.retain(|(of, _), _| of != bucket);
    }
}

impl Index {
    fn insert(&mut self, retired: Retired) {
        self.last = self.last.max(retired.generation);
        for name in &retired.removed {
            let key = (retired.bucket.clone(), format!("{}{name}", retired.folder));
            self.keys.insert(key, retired.generation);
        }
        self.swaps.insert(retired.generation, Arc::new(retired));
    }

    fn remove(&mut self, generation: u64) {
        let Some(retired) = self.swaps.remove(&generation) else { return };
        for name in &retired.removed {
            let key = (retired.bucket.clone(), format!("{}{name}", retired.folder));
            if self.keys.get(&key) == Some(&generation) {
                self.keys.remove(&key);
            }
        }
    }
}

/// All of these block on files; call them off the async threads.
impl Buckets {
    /// Takes objects of one folder out of sight and puts others there, at once and durably. The
    /// same swap again, after a crash or not, changes nothing more.
    ///
    /// [`ErrorKind::Conflict`] if an object is no longer there or no longer the same: then nothing
    /// was done. [`ErrorKind::Unsupported`] for a folder that has folders in it, and on a file
    /// system that cannot exchange folders.
    pub fn swap(&self, swap: &Swap) -> Result<()> {
        let (home, folder) = self.swap_places(swap)?;
        let other = home.join(OTHER);
        let above = folder.parent().unwrap_or(&folder).to_owned();
        if is_done(&home, swap.removed.first().map(|(name, _)| name)) {
            // The crash may have come before the exchange was stable.
            durable::sync_folder(&above)?;
            return durable::sync_folder(&home);
        }
        self.drop_home(&home)?;
        durable::create_folders(&other)?;
        let built = build(swap, &folder, &other).and_then(|()| {
            for (staged, name) in &swap.added {
                let file = std::fs::File::open(staged)
                    .map_err(|e| Error::io(format!("open {}", staged.display()), e))?;
                self.sums.seal(&file)?;
                file.sync_all().map_err(|e| Error::io("sync an object", e))?;
                link(staged, &other.join(name))?;
            }
            durable::sync_folder(&other)
        });
        let done = built.and_then(|()| self.exchange(swap, &home, &folder, &above));
        if done.is_err() && !is_done(&home, swap.removed.first().map(|(name, _)| name)) {
            // Nobody saw it. What cannot be removed now is removed before the next try.
            drop(self.drop_home(&home));
        }
        done
    }

    fn exchange(&self, swap: &Swap, home: &Path, folder: &Path, above: &Path) -> Result<()> {
        let other = home.join(OTHER);
        let generation = {
            let last = self.generations.read().last;
            (last + 1).max(u64::try_from(swap.at.millis()).unwrap_or(0))
        };
        let retired = Retired {
            id: swap.id.clone(),
            bucket: swap.bucket.clone(),
            folder: swap.folder.clone(),
            generation,
            removed: swap.removed.iter().map(|(name, _)| name.clone()).collect(),
            added: swap.added.iter().map(|(_, name)| name.clone()).collect(),
        };
        let text = serde_json::to_vec(&retired)
            .map_err(|e| Error::internal(format!("write down a swap: {e}")))?;
        self.write_side(&home.join(MANIFEST), &text)?;
        let known = {
            let _alone = durable::alone();
            // What was put or deleted since the folder was built.
            let (known, changed) = catch_up(swap, folder, &other)?;
            if changed {
                durable::sync_folder(&other)?;
            }
            let mut index = self.generations.write();
            let generation = generation.max(index.last + 1);
            index.insert(Retired { generation, ..retired });
            drop(index);
            let exchanged = rustix::fs::renameat_with(
                rustix::fs::CWD,
                folder,
                rustix::fs::CWD,
                &other,
                rustix::fs::RenameFlags::EXCHANGE,
            );
            if let Err(cause) = exchanged {
                self.generations.write().remove(generation);
                return Err(cannot_exchange(folder, cause.into()));
            }
            durable::sync_folder(above)?;
            durable::sync_folder(home)?;
            known
        };
        rescue(&known, folder, &other)
    }

    fn swap_places(&self, swap: &Swap) -> Result<(PathBuf, PathBuf)> {
        let bad = |why: &str| Error::invalid(format!("swap {:?}: {why}", swap.id));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if swap.id.is_empty() || !swap.id.chars().all(plain) {
            return Err(bad("its id must be letters, digits, '_' and '-'"));
        }
        let within = swap.folder.strip_suffix('/').filter(|within| !within.is_empty());
        let within = within.ok_or_else(|| {
            Error::unsupported(
                "objects at the top of a bucket cannot be swapped; keep tables in a folder",
            )
        })?;
        names::check_key(within)?;
        if swap.removed.is_empty() {
            return Err(bad("it removes nothing"));
        }
        let all = swap.removed.iter().map(|(name, _)| name);
        for name in all.chain(swap.added.iter().map(|(_, name)| name)) {
            if name.contains('/') || names::check_key(name).is_err() {
                return Err(bad(&format!("{name:?} is no name within a folder")));
            }
        }
        let folder = self.bucket_folder(&swap.bucket)?.join(within);
        Ok((self.side(&swap.bucket).join(RETIRED).join(&swap.id), folder))
    }

    /// What was swapped and is still kept, in order.
    pub fn retired(&self) -> Vec<Arc<Retired>> {
        self.generations.read().swaps.values().cloned().collect()
    }

    /// Deletes the retired objects of a swap for good.
    pub fn drop_retired(&self, bucket: &str, id: &str) -> Result<()> {
        let found = {
            let index = self.generations.read();
            index.swaps.values().find(|swap| swap.bucket == bucket && swap.id == id).cloned()
        };
        if let Some(found) = &found {
            self.generations.write().remove(found.generation);
        }
        self.drop_home(&self.side(bucket).join(RETIRED).join(id))?;
        if let Some(found) = found
            && let Ok(folder) = self.bucket_folder(bucket)
        {
            // A folder that everything was taken from stood for those who still listed it.
            drop(std::fs::remove_dir(folder.join(found.folder.trim_end_matches('/'))));
        }
        Ok(())
    }

    /// Removes what is left of swaps that `keep` does not know: begun and never done, or done
    /// and to be dropped when the power went. How many there were.
    pub fn sweep_swaps(&self, keep: &dyn Fn(&str) -> bool) -> Result<u64> {
        let mut swept = 0;
        for bucket in self.list_buckets()? {
            for home in folders(&self.side(&bucket).join(RETIRED))? {
                let Some(id) = home.file_name().and_then(|name| name.to_str()) else { continue };
                if !keep(id) {
                    self.drop_retired(&bucket, id)?;
                    swept += 1;
                }
            }
        }
        Ok(swept)
    }

    fn drop_home(&self, home: &Path) -> Result<()> {
        match std::fs::remove_dir_all(home) {
            Err(cause) if !durable::is_absent(&cause) => {
                Err(Error::io(format!("remove {}", home.display()), cause))
            }
            _ => Ok(()),
        }
    }

    /// Where a retired object lies, if it is one.
    pub(crate) fn retired_path(&self, bucket: &str, key: &str) -> Option<PathBuf> {
        let index = self.generations.read();
        let generation = index.keys.get(&(bucket.to_owned(), key.to_owned()))?;
        let swap = index.swaps.get(generation)?;
        let name = key.strip_prefix(&swap.folder)?;
        Some(self.side(bucket).join(RETIRED).join(&swap.id).join(OTHER).join(name))
    }

    /// Where an object's bytes are to be read: its own file, or where it was retired to.
    pub fn readable_path(&self, bucket: &str, key: &str) -> Result<PathBuf> {
        let own = self.local_path(bucket, key)?;
        match own.symlink_metadata() {
            Ok(_there) => Ok(own),
            Err(_) => Ok(self.retired_path(bucket, key).unwrap_or(own)),
        }
    }

    /// Where the bytes of a file that lay in a bucket are now, if it was retired since.
    pub fn moved_to(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&*self.root).ok()?.to_str()?;
        let (bucket, key) = below.split_once('/')?;
        self.retired_path(bucket, key)
    }
}

/// Whether the exchange took place: then what was removed lies in the swap's folder, where a
/// swap that is only built never has it.
fn is_done(home: &Path, removed: Option<&String>) -> bool {
    removed.is_some_and(|name| home.join(OTHER).join(name).symlink_metadata().is_ok())
}

/// Links everything that stays into the new folder; checks what is to go.
fn build(swap: &Swap, folder: &Path, other: &Path) -> Result<()> {
    let removed: HashMap<&str, &str> =
        swap.removed.iter().map(|(name, etag)| (name.as_str(), etag.as_str())).collect();
    check_removed(swap, folder)?;
    for name in files_in(folder)? {
        if !removed.contains_key(name.as_str()) {
            link_if_there(&folder.join(&name), &other.join(&name))?;
        }
    }
    Ok(())
}

fn check_removed(swap: &Swap, folder: &Path) -> Result<()> {
    for (name, etag) in &swap.removed {
        let found = folder.join(name).symlink_metadata().ok().map(|meta| identity(&meta));
        if found.as_ref() != Some(etag) {
            let how = if found.is_some() { "changed" } else { "is gone" };
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("object {}{name} of {:?} {how} meanwhile", swap.folder, swap.bucket),
            ));
        }
    }
    Ok(())
}

/// Makes the new folder agree with what stays in the old one; what the old one has, and whether
/// there was anything to do.
fn catch_up(swap: &Swap, folder: &Path, other: &Path) -> Result<(HashSet<String>, bool)> {
    check_removed(swap, folder)?;
    let removed: HashSet<&str> = swap.removed.iter().map(|(name, _)| name.as_str()).collect();
    let added: HashSet<&str> = swap.added.iter().map(|(_, name)| name.as_str()).collect();
    let of = |path: &Path| path.symlink_metadata().map(|meta| identity(&meta)).ok();
    let now: HashSet<String> = files_in(folder)?.into_iter().collect();
    let mut changed = false;
    for name in now.iter().filter(|name| !removed.contains(name.as_str())) {
        if added.contains(name.as_str()) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("object {}{name} exists already", swap.folder),
            ));
        }
        let (here, there) = (folder.join(name), other.join(name));
        if of(&here) != of(&there) {
            durable::remove_if_there(&there)?;
            link(&here, &there)?;
            changed = true;
        }
    }
    for name in files_in(other)? {
        if !now.contains(&name) && !added.contains(name.as_str()) {
            durable::remove_if_there(&other.join(&name))?;
            changed = true;
        }
    }
    Ok((now, changed))
}

/// Other programs know no locks: what they put into the old folder at the last moment follows.
fn rescue(known: &HashSet<String>, folder: &Path, old: &Path) -> Result<()> {
    let mut rescued = false;
    for entry in entries(old)? {
        let name = entry.file_name();
        let target = folder.join(&name);
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let empty = is_folder && is_empty(&entry.path())?;
        if name.to_str().is_some_and(|name| known.contains(name)) || empty {
            continue;
        }
        // Neither takes the place of what is there.
        let moved = match is_folder {
            false => std::fs::hard_link(entry.path(), &target),
            true => std::fs::rename(entry.path(), &target),
        };
        rescued |= moved.is_ok();
    }
    match rescued {
        true => durable::sync_folder(folder),
        false => Ok(()),
    }
}

/// The names of the files in a folder; refuses a folder with more than empty folders in it.
fn files_in(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in entries(folder)? {
        let name = entry.file_name().into_string().map_err(|name| {
            Error::unsupported(format!("{}: the file {name:?} is no UTF-8", folder.display()))
        })?;
        let kind = entry.file_type().map_err(|e| Error::io("look at an object", e))?;
        if kind.is_file() {
            files.push(name);
        } else if !kind.is_dir() || !is_empty(&entry.path())? {
            return Err(Error::unsupported(format!(
                "{} has {name:?} in it, which cannot be exchanged with it; only a folder of \
                 objects alone is swapped",
                folder.display()
            )));
        }
    }
    Ok(files)
}

fn is_empty(folder: &Path) -> Result<bool> {
    for entry in entries(folder)? {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || !is_empty(&entry.path())? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn entries(folder: &Path) -> Result<Vec<std::fs::DirEntry>> {
    match std::fs::read_dir(folder) {
        Ok(read) => read.collect::<std::io::Result<_>>().map_err(|e| Error::io("list a folder", e)),
        Err(cause) if durable::is_absent(&cause) => Ok(Vec::new()),
        Err(cause) => Err(Error::io(format!("list {}", folder.display()), cause)),
    }
}

fn folders(above: &Path) -> Result<Vec<PathBuf>> {
    let is_folder = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    Ok(entries(above)?
        .iter()
        .filter(|entry| is_folder(entry))
        .map(std::fs::DirEntry::path)
        .collect())
}

fn link(from: &Path, to: &Path) -> Result<()> {
    std::fs::hard_link(from, to)
        .map_err(|e| Error::io(format!("link {} to {}", from.display(), to.display()), e))
}

/// Deleted meanwhile is not there to be linked.
fn link_if_there(from: &Path, to: &Path) -> Result<()> {
    match std::fs::hard_link(from, to) {
        Err(cause) if !durable::is_absent(&cause) => {
            Err(Error::io(format!("link {}", from.display()), cause))
        }
        _ => Ok(()),
    }
}

fn cannot_exchange(folder: &Path, cause: std::io::Error) -> Error {
    let doing = format!("exchange {}", folder.display());
    match cause.raw_os_error() {
        // EINVAL, ENOSYS, EOPNOTSUPP
        Some(22 | 38 | 95) => Error::unsupported(format!(
            "{doing}: this file system cannot exchange two folders in one step, which compaction \
             and retention need; ext4, XFS, Btrfs and tmpfs can"
        ))
        .with_source(cause),
        _ => Error::io(doing, cause),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::pages::{Entry, Page};

    fn world() -> (tempfile::TempDir, Buckets) {
        let folder = tempfile::tempdir().unwrap();
        let buckets = Buckets::open(folder.path()).unwrap();
        buckets.create_bucket("lake").unwrap();
        (folder, buckets)
    }

    async fn put(buckets: &Buckets, key: &str) {
        buckets.put("lake", key, Bytes::from(format!("of {key}"))).await.unwrap();
    }

    async fn swap(buckets: &Buckets, root: &Path, id: &str, gone: &[&str], new: &[&str]) -> Swap {
        let mut removed = Vec::new();
        for name in gone {
            let etag = buckets.head("lake", &format!("t/{name}")).await.unwrap().etag;
            removed.push(((*name).to_owned(), etag));
        }
        let mut added = Vec::new();
        for name in new {
            let staged = root.join(format!("staged-{name}"));
            std::fs::write(&staged, format!("of t/{name}")).unwrap();
            added.push((staged, (*name).to_owned()));
        }
        let (id, bucket, folder) = (id.into(), "lake".into(), "t/".into());
        Swap { id, bucket, folder, removed, added, at: Timestamp(1_000) }
    }

    fn page(buckets: &Buckets, after: &str, as_of: Option<u64>, max: usize) -> (Vec<String>, Page) {
        let listing =
            Listing { prefix: "t/".into(), after: after.into(), max, as_of, ..Default::default() };
        let page = buckets.page("lake", &listing).unwrap();
        let name = |entry: &Entry| entry.name()["t/".len()..].to_owned();
        (page.entries.iter().map(name).collect(), page)
    }

    #[tokio::test]
    async fn a_swap_shows_one_generation_and_keeps_the_other_readable() {
        let (root, mut buckets) = world();
        for key in ["t/a", "t/b", "t/c", "t/d"] {
            put(&buckets, key).await;
        }
        let begun = page(&buckets, "", None, 1).1;
        let first = swap(&buckets, root.path(), "one", &["a", "c"], &["m"]).await;
        buckets.swap(&first).unwrap();
        buckets.swap(&first).unwrap();
        assert_eq!(page(&buckets, "", None, 9).0, ["b", "d", "m"]);
        let second = swap(&buckets, root.path(), "two", &["m", "d"], &["n"]).await;
        buckets.swap(&second).unwrap();
        for restarted in [false, true] {
            if restarted {
                drop(buckets);
                buckets = Buckets::open(root.path()).unwrap();
            }
            assert_eq!(page(&buckets, "", None, 9).0, ["b", "n"]);
            // A listing goes on as it began, by its token and by a key alone.
            assert_eq!(page(&buckets, "t/a", Some(begun.generation), 9).0, ["b", "c", "d"]);
            assert_eq!(page(&buckets, "t/a", None, 9).0, ["b", "c", "d"]);
            let listed = buckets.list("lake", "t/").await.unwrap();
            assert_eq!(listed.len(), 2);
            for key in ["t/a", "t/b", "t/c", "t/d", "t/m", "t/n"] {
                assert_eq!(buckets.get("lake", key).await.unwrap(), format!("of {key}"));
                assert_eq!(&buckets.get_range("lake", key, 0..2).await.unwrap()[..], b"of");
                assert_eq!(buckets.head("lake", key).await.unwrap().bytes, 6);
                assert!(buckets.find("lake", key).unwrap().is_some());
                assert!(buckets.readable_path("lake", key).unwrap().exists());
                let path = buckets.verify("lake", key).unwrap().path;
                assert_eq!(std::fs::read_to_string(path).unwrap(), format!("of {key}"));
            }
            assert_eq!(buckets.retired().len(), 2);
        }
        buckets.drop_retired("lake", "one").unwrap();
        assert_eq!(buckets.get("lake", "t/a").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(&buckets.get("lake", "t/m").await.unwrap()[..], b"of t/m");
        assert_eq!(buckets.sweep_swaps(&|_| false).unwrap(), 1);
        assert_eq!(buckets.get("lake", "t/m").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(page(&buckets, "", None, 9).0, ["b", "n"]);
    }

    #[tokio::test]
    async fn a_swap_whose_objects_changed_does_nothing() {
        let (root, buckets) = world();
        put(&buckets, "t/a").await;
        put(&buckets, "t/b").await;
        let swap = swap(&buckets, root.path(), "one", &["a"], &["m"]).await;
        put(&buckets, "t/a").await;
        assert_eq!(buckets.swap(&swap).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(page(&buckets, "", None, 9).0, ["a", "b"]);
        put(&buckets, "t/sub/x").await;
        let error = buckets.swap(&swap).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        let taken = Swap { removed: vec![], ..swap.clone() };
        assert_eq!(buckets.swap(&taken).unwrap_err().kind(), ErrorKind::Invalid);
        let top = Swap { folder: String::new(), ..swap };
        assert_eq!(buckets.swap(&top).unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(buckets.retired().is_empty());
    }

    #[tokio::test]
    async fn a_folder_with_folders_in_it_is_refused_and_one_all_of_whose_objects_go_is_kept() {
        let (root, buckets) = world();
        put(&buckets, "t/a").await;
        let all = swap(&buckets, root.path(), "all", &["a"], &[]).await;
        put(&buckets, "t/sub/x").await;
        let error = buckets.swap(&all).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("\"sub\""), "{error}");
        buckets.delete("lake", "t/sub/x").await.unwrap();
        let begun = page(&buckets, "", None, 9).1;
        buckets.swap(&all).unwrap();
        assert!(page(&buckets, "", None, 9).0.is_empty());
        assert_eq!(page(&buckets, "", Some(begun.generation), 9).0, ["a"]);
        buckets.drop_retired("lake", "all").unwrap();
        assert!(!root.path().join("lake/t").exists());
        put(&buckets, "t/a").await;
        assert_eq!(page(&buckets, "", None, 9).0, ["a"]);
    }

    /// Puts and deletes go on while folders are exchanged, a lister pages through, and another
    /// globs the folder: neither misses or doubles what was there all the time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn d2_listers_racing_swaps_and_puts_see_each_object_once() {
        let (root, buckets) = world();
        let mut held = String::from("g0");
        put(&buckets, "t/g0").await;
        for n in 0..20 {
            put(&buckets, &format!("t/s{n:02}")).await;
        }
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let over =
            |stop: &std::sync::atomic::AtomicBool| stop.load(std::sync::atomic::Ordering::SeqCst);
        let lister = std::thread::spawn({
            let (buckets, stop) = (buckets.clone(), stop.clone());
            move || {
                let mut rounds = 0;
                while !over(&stop) {
                    let (mut names, mut after, mut as_of) = (Vec::new(), String::new(), None);
                    loop {
                        let (some, page) = page(&buckets, &after, as_of, 3);
                        names.extend(some);
                        let Some(last) = page.entries.last().filter(|_| page.more) else { break };
                        // Each other time as version 1 pages, which has keys alone.
                        as_of = (rounds % 2 == 0).then_some(page.generation);
                        after = last.name().to_owned();
                    }
                    let count = |start: char| names.iter().filter(|n| n.starts_with(start)).count();
                    assert_eq!((count('g'), count('s')), (1, 20), "{names:?}");
                    rounds += 1;
                }
                rounds
            }
        });
        let globber = std::thread::spawn({
            let (folder, stop) = (root.path().join("lake/t"), stop.clone());
            move || {
                while !over(&stop) {
                    let names: Vec<_> = std::fs::read_dir(&folder)
                        .unwrap()
                        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                        .collect();
                    let count = |start: char| names.iter().filter(|n| n.starts_with(start)).count();
                    assert_eq!((count('g'), count('s')), (1, 20), "{names:?}");
                }
            }
        });
        let writer = tokio::spawn({
            let (buckets, stop) = (buckets.clone(), stop.clone());
            async move {
                let mut count = 0;
                while !over(&stop) {
                    put(&buckets, &format!("t/p{count:04}")).await;
                    if count >= 10 {
                        let old = format!("t/p{:04}", count - 10);
                        assert!(buckets.delete("lake", &old).await.unwrap());
                    }
                    count += 1;
                }
                count
            }
        });
        for round in 1..=40 {
            let new = format!("g{round}");
            let id = format!("swap-{round}");
            let one = swap(&buckets, root.path(), &id, &[&held], &[&new]).await;
            let swapping = buckets.clone();
            tokio::task::spawn_blocking(move || swapping.swap(&one)).await.unwrap().unwrap();
            held = new;
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(lister.join().unwrap() > 0);
        globber.join().unwrap();
        let written = writer.await.unwrap();
        let listed = buckets.list("lake", "t/p").await.unwrap();
        assert_eq!(listed.len(), written.min(10), "a put or a delete got lost");
    }
}
