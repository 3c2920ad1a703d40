//! A snapshot from the hub: what it lists, what of it is missing here, and several downloads at once.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::cache::{Lookup, safe};
use super::client::{Ask, Client, Trouble};
use super::{Hub, Repository, files, is_commit};
use crate::error::{Error, HubFailure, Result};
use crate::load::atomic;

/// What a download that was stopped leaves.
const KEPT: &str = "what is there is kept, and the same command goes on from it";

/// Files that are downloaded at a time.
const WORKERS: usize = 4;
/// Between two looks at what the caller wants.
const TICK: Duration = Duration::from_millis(100);
/// The most bytes of a listing.
const LISTING: u64 = 64 << 20;
/// What stays as it is in a part of an address.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What happens in [`Hub::fetch`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The hub did not answer as hoped; what the cache has is used.
    Cached(Error),
    /// Files are to be downloaded. It comes twice: for what is beside the weights, and for the weights.
    Begin {
        /// How many.
        files: usize,
        /// Their bytes, as far as the hub told.
        bytes: u64,
    },
    /// Bytes that are here since the last [`Event::Begin`], those of an earlier run with them.
    Bytes(u64),
    /// A file is whole.
    File(String),
    /// Another process downloads this file; it is waited for.
    Locked(String),
    /// Something broke and is tried again.
    Retry {
        /// What broke.
        error: Error,
        /// When it is tried again.
        wait: Duration,
    },
}

/// A file as the hub lists it.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    #[serde(rename = "rfilename")]
    pub(super) name: String,
    pub(super) size: Option<u64>,
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Listed>,
}

impl Hub {
    /// The directory of a repository, whole and as new as the hub has it; what is missing is downloaded.
    ///
    /// With the variable of offline mode set, or for a commit that is in the cache, nothing is asked of the
    /// hub. When it cannot be asked, and the cache has a copy, that is the answer. `tell` is called for all
    /// that happens, at least ten times a second, and can stop it.
    ///
    /// # Errors
    ///
    /// [`Error::Hub`] with the reason, [`Error::Stopped`], and those of the files of the cache. What was
    /// downloaded by then is kept.
    pub fn fetch(
        &self,
        repository: &Repository,
        mut tell: impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<PathBuf> {
        let cached = match self.lookup(repository) {
            Lookup::Whole(path) => Some(path),
            _ => None,
        };
        match cached {
            Some(path) if repository.is_commit() => return Ok(path),
            _ if self.offline.is_some() => return self.cached(repository),
            _ => {}
        }
        let (events, received) = channel();
        let run = Run {
            hub: self,
            repository,
            client: Client::new(self, repository)?,
            stop: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
        };
        std::thread::scope(|scope| {
            let run = &run;
            let job = scope.spawn(move || run.snapshot(cached, &events));
            let stopped = run.watch(&received, &mut tell);
            let result = job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (result, stopped) {
                (Err(_), true) => Err(Error::Stopped { what: repository.to_string(), left: KEPT }),
                (result, _) => result,
            }
        })
    }
}

/// A fetch that is under way.
pub(super) struct Run<'a> {
    pub(super) hub: &'a Hub,
    pub(super) repository: &'a Repository,
    pub(super) client: Client<'a>,
    pub(super) stop: AtomicBool,
    /// Bytes here since the last [`Event::Begin`].
    pub(super) bytes: AtomicU64,
}

impl Run<'_> {
    /// Tells the caller what happens until nothing more does; whether it wanted to stop.
    fn watch(&self, received: &Receiver<Event>, tell: &mut impl FnMut(Event) -> ControlFlow<()>) -> bool {
        let mut stopped = false;
        loop {
            let event = match received.recv_timeout(TICK) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => Event::Bytes(self.bytes.load(Ordering::Relaxed)),
                Err(RecvTimeoutError::Disconnected) => return stopped,
            };
            if !stopped && tell(event).is_break() {
                stopped = true;
                self.halt();
            }
        }
    }

    /// Ends all that is under way.
    fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.client.shut_down();
    }

    /// An address of the hub: `parts` are encoded each by itself.
    pub(super) fn url<'p>(&self, start: &str, parts: impl IntoIterator<Item = &'p str>) -> String {
        let parts = parts.into_iter().map(|part| format!("/{}", utf8_percent_encode(part, PLAIN)));
        format!("{}{start}{}", self.hub.endpoint, parts.collect::<String>())
    }

    fn snapshot(&self, cached: Option<PathBuf>, events: &Sender<Event>) -> Result<PathBuf> {
        let listing = match (self.listing(cached.is_none(), events), cached) {
            (Err(error), Some(path)) => {
                return match error {
                    Error::Hub { failure: HubFailure::NoRevision { .. }, .. } => Err(error),
                    Error::Hub { .. } => {
                        events.send(Event::Cached(error)).ok();
                        Ok(path)
                    }
                    error => Err(error),
                };
            }
            (listing, _) => listing?,
        };
        let names: Vec<&str> = listing.siblings.iter().map(|file| file.name.as_str()).collect();
        let (beside, weights) = self.repository.files.of(&self.repository.id, &names)?;
        let folder = self.hub.folder(self.repository);
        let snapshot = folder.join("snapshots").join(&listing.sha);
        let mut new = self.files(&beside, &listing, &snapshot, events)?;
        let weights = if weights.is_empty() { files::shards(&snapshot)? } else { weights };
        new |= self.files(&weights, &listing, &snapshot, events)?;
        if !is_commit(&self.repository.revision) {
            // Only now: a revision that the cache knows is whole.
            let path = folder.join("refs").join(&self.repository.revision);
            let written = refer(&path, &listing.sha);
            // A cache that cannot be written is good enough to read.
            if new {
                written?;
            }
        }
        Ok(snapshot)
    }

    /// What the hub has of the repository; asked again after a failure that may pass, if `patient`.
    fn listing(&self, patient: bool, events: &Sender<Event>) -> Result<Listing> {
        let Repository { id, revision, .. } = self.repository;
        let start = format!("/api/models/{id}/revision");
        let url = self.url(&start, [revision.as_str()]) + "?blobs=true";
        let what = self.repository.to_string();
        let mut patience = Patience::new(self);
        loop {
            let answer = self.client.send(&what, &url, Ask::From(0), self.hub.etag_timeout);
            let answer = answer.and_then(|response| {
                let body = response.into_body().into_with_config().limit(LISTING).read_to_vec();
                body.map_err(|error| self.client.unreachable(&url, &error))
            });
            let mut trouble = match answer {
                Ok(body) => {
                    let listing: Option<Listing> = serde_json::from_slice(&body).ok();
                    let listing = listing.filter(|listing| safe(&listing.sha));
                    let wants = "a listing of files with their commit";
                    return listing.ok_or_else(|| self.client.strange(wants, "another answer").into_error());
                }
                Err(trouble) => trouble,
            };
            if let Trouble::Passing(error, _) = &mut trouble
                && let Error::Hub { failure: HubFailure::Unreachable { cache, .. }, .. } = &mut **error
            {
                *cache = patient.then(|| self.hub.cache.clone());
                return Err(trouble.into_error());
            }
            match patient {
                true => patience.after(trouble, events)?,
                false => return Err(trouble.into_error()),
            }
        }
    }

    /// Downloads those of `names` that are not in the snapshot, several at a time; whether there were any.
    fn files(
        &self,
        names: &[String],
        listing: &Listing,
        snapshot: &Path,
        events: &Sender<Event>,
    ) -> Result<bool> {
        let mut missing = Vec::new();
        for name in names {
            let Some(listed) = listing.siblings.iter().find(|listed| listed.name == *name) else {
                let failure = HubFailure::NoFile { revision: self.repository.revision.clone() };
                return Err(Error::Hub { what: format!("{}: {name}", self.repository), failure });
            };
            if !is_there(&snapshot.join(name), listed.size) {
                missing.push(listed);
            }
        }
        if missing.is_empty() {
            return Ok(false);
        }
        self.bytes.store(0, Ordering::Relaxed);
        let bytes = missing.iter().filter_map(|listed| listed.size).sum();
        events.send(Event::Begin { files: missing.len(), bytes }).ok();
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..WORKERS.min(missing.len()) {
                scope.spawn(|| {
                    while let Some(listed) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = self.file(listed, snapshot, events);
                        if let Err(error) = result {
                            // The first says why; the others break off because of it.
                            failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                            self.halt();
                        }
                        if self.stop.load(Ordering::Relaxed) {
                            return;
                        }
                        events.send(Event::File(listed.name.clone())).ok();
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(error) => Err(error),
            None if self.stop.load(Ordering::Relaxed) => Err(self.stopped()),
            None => Ok(true),
        }
    }

    pub(super) fn stopped(&self) -> Error {
        Error::Stopped { what: self.repository.to_string(), left: KEPT }
    }
}

/// Whether a file of a snapshot is there, in the size that it should have.
pub(super) fn is_there(pointer: &Path, size: Option<u64>) -> bool {
    std::fs::metadata(pointer)
        .is_ok_and(|found| found.is_file() && size.is_none_or(|size| found.len() == size))
}

/// Notes which commit a branch or tag is.
fn refer(path: &Path, commit: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|known| known == commit) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    atomic::write(path, commit)
}

/// Tries that are left.
pub(super) struct Patience<'r, 'a> {
    run: &'r Run<'a>,
    left: u32,
    wait: Duration,
}

impl<'r, 'a> Patience<'r, 'a> {
    pub(super) fn new(run: &'r Run<'a>) -> Self {
        Patience { run, left: run.hub.tries, wait: run.hub.backoff }
    }

    /// Waits before another try; the error if there is none left.
    pub(super) fn after(&mut self, trouble: Trouble, events: &Sender<Event>) -> Result<()> {
        let (error, asked) = match trouble {
            Trouble::Passing(error, asked) if self.left > 1 => (error, asked),
            trouble => return Err(trouble.into_error()),
        };
        if self.run.stop.load(Ordering::Relaxed) {
            return Err(self.run.stopped());
        }
        let wait = asked.unwrap_or(self.wait);
        self.left -= 1;
        self.wait *= 2;
        events.send(Event::Retry { error: *error, wait }).ok();
        self.run.sleep(wait)
    }
}

impl Run<'_> {
    /// Sleeps, unless the caller stops it.
    pub(super) fn sleep(&self, wait: Duration) -> Result<()> {
        let until = std::time::Instant::now() + wait;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(self.stopped());
            }
            match until.saturating_duration_since(std::time::Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => std::thread::sleep(left.min(TICK)),
            }
        }
    }
}
