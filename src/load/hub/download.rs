//! One file: what the hub says of it, its bytes, and its place in the cache.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::cache::safe;
use super::client::{Ask, Trouble, header};
use super::fetch::{Event, Listed, Patience, Run, is_there};
use crate::error::{Error, HubFailure, Result};

/// Bytes that are read and written at a time.
const CHUNK: usize = 256 << 10;

/// What the hub says of a file.
struct Head {
    etag: String,
    size: Option<u64>,
}

/// A file that is being downloaded, and resumed if it broke off.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    /// Of the bytes that are there, when the ETag is their SHA-256, as for every large file.
    hash: Option<Sha256>,
}

impl Run<'_> {
    /// Puts a file into the snapshot, downloading it if its content is not in the cache.
    pub(super) fn file(&self, listed: &Listed, snapshot: &Path, events: &Sender<Event>) -> Result<()> {
        let name = &listed.name;
        let what = format!("{}: {name}", self.repository);
        let commit = snapshot.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let start = format!("/{}/resolve/{commit}", self.repository.id);
        let url = self.url(&start, name.split('/'));
        let mut head = self.head(&what, &url, events)?;
        head.size = head.size.or(listed.size);

        let folder = self.hub.folder(self.repository);
        let (blob, pointer) = (folder.join("blobs").join(&head.etag), snapshot.join(name));
        for directory in [blob.parent(), pointer.parent()].into_iter().flatten() {
            std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
        }
        let lock = self.hub.cache.join(".locks").join(folder.file_name().unwrap_or_default());
        let _lock = self.lock(&lock.join(format!("{}.lock", head.etag)), name, events)?;
        if !is_there(&blob, head.size) {
            self.download(&what, &url, &head, &blob, events)?;
        } else {
            self.bytes.fetch_add(head.size.unwrap_or(0), Ordering::Relaxed);
        }
        if !is_there(&pointer, head.size) {
            link(&blob, &pointer, name).map_err(Error::io(&pointer))?;
        }
        Ok(())
    }

    fn head(&self, what: &str, url: &str, events: &Sender<Event>) -> Result<Head> {
        let mut patience = Patience::new(self);
        loop {
            match self.client.send(what, url, Ask::Head, self.hub.etag_timeout) {
                Ok(response) => {
                    let headers = response.headers();
                    let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"));
                    let etag = etag.unwrap_or_default().trim_start_matches("W/").trim_matches('"');
                    if !safe(etag) {
                        let got = if etag.is_empty() { "none".to_string() } else { format!("{etag:?}") };
                        return Err(self.client.strange("an ETag that can name a file", got).into_error());
                    }
                    let length =
                        || header(headers, "content-length").filter(|_| response.status().is_success());
                    let size = header(headers, "x-linked-size").or_else(length);
                    return Ok(Head {
                        etag: etag.to_string(),
                        size: size.and_then(|size| size.parse().ok()),
                    });
                }
                Err(trouble) => patience.after(trouble, events)?,
            }
        }
    }

    /// Takes the lock that huggingface_hub takes, too; `None` where the file system has no locks.
    fn lock(&self, path: &Path, name: &str, events: &Sender<Event>) -> Result<Option<File>> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        let mut options = OpenOptions::new();
        let file = options.create(true).write(true).truncate(false).open(path).map_err(Error::io(path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) => {}
            }
            if !std::mem::replace(&mut told, true) {
                events.send(Event::Locked(name.to_string())).ok();
            }
            self.sleep(Duration::from_millis(50))?;
        }
    }

    fn download(
        &self,
        what: &str,
        url: &str,
        head: &Head,
        blob: &Path,
        events: &Sender<Event>,
    ) -> Result<()> {
        let mut part =
            Part::open(blob.with_file_name(format!("{}.incomplete", head.etag)), &head.etag, self)?;
        let mut patience = Patience::new(self);
        while head.size.is_none_or(|size| part.len != size) {
            let before = part.len;
            let result = self.more(what, url, head, &mut part);
            if part.len > before {
                patience = Patience::new(self);
            }
            match result {
                Ok(()) if head.size.is_none() => break,
                Ok(()) => {}
                Err(_) if self.stop.load(Ordering::Relaxed) => return Err(self.stopped()),
                Err(trouble) => patience.after(trouble, events)?,
            }
        }
        part.finish(what, head, blob)
    }

    /// One request for the bytes that are missing.
    fn more(&self, what: &str, url: &str, head: &Head, part: &mut Part) -> std::result::Result<(), Trouble> {
        let size = |got: u64| Error::Hub {
            what: what.to_string(),
            failure: HubFailure::Size { wants: head.size.unwrap_or(0), got },
        };
        if head.size.is_some_and(|size| part.len > size) {
            part.restart(self)?;
        }
        let response = self.client.send(what, url, Ask::From(part.len), self.hub.download_timeout)?;
        let (start, total) = extent(&response);
        if start != part.len {
            // The whole file, although a part was asked for.
            part.restart(self)?;
            if start != 0 {
                return Err(self
                    .client
                    .strange("the bytes that were asked for", format!("those from {start} on")));
            }
        }
        if let (Some(total), Some(wants)) = (total, head.size)
            && total != wants
        {
            return Err(size(total).into());
        }
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = match body.read(&mut chunk) {
                Ok(0) if head.size.is_none_or(|size| part.len == size) => return Ok(()),
                Ok(0) => return Err(Trouble::Passing(Box::new(size(part.len)), None)),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.client.unreachable(url, &error)),
            };
            part.write(&chunk[..n], self, head.size)?;
            if head.size.is_some_and(|size| part.len > size) {
                let got = part.len;
                part.restart(self)?;
                return Err(size(got).into());
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(self.stopped().into());
            }
        }
    }
}

/// Where the bytes of an answer start, and how many the whole file has, if that is said.
fn extent(response: &Response<Body>) -> (u64, Option<u64>) {
    if response.status() != 206 {
        return (0, response.body().content_length());
    }
    let range = header(response.headers(), "content-range").and_then(|range| range.strip_prefix("bytes "));
    let (range, total) = range.and_then(|range| range.split_once('/')).unwrap_or_default();
    let start = range.split('-').next().and_then(|start| start.parse().ok());
    (start.unwrap_or(u64::MAX), total.parse().ok())
}

impl Part {
    /// The file, with what an earlier run left in it.
    fn open(path: PathBuf, etag: &str, run: &Run) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io(&path))?;
        let sha = etag.len() == 64 && etag.chars().all(|c| c.is_ascii_hexdigit());
        let mut part = Part { path, file, len: 0, hash: sha.then(Sha256::new) };
        let mut chunk = vec![0; CHUNK];
        loop {
            match part.file.read(&mut chunk).map_err(Error::io(&part.path))? {
                0 => return Ok(part),
                n => part.count(&chunk[..n], run),
            }
        }
    }

    fn count(&mut self, bytes: &[u8], run: &Run) {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.len += bytes.len() as u64;
        run.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    fn write(&mut self, bytes: &[u8], run: &Run, size: Option<u64>) -> Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            let of = size.map(|size| format!(" of {size}")).unwrap_or_default();
            // A part of the chunk may have gone in.
            let kept = self.file.stream_position().unwrap_or(self.len);
            let kept = format!("{error}; {kept}{of} bytes are kept, and the next run goes on from them");
            return Err(Error::io(&self.path)(std::io::Error::new(error.kind(), kept)));
        }
        self.count(bytes, run);
        Ok(())
    }

    /// Forgets what is there.
    fn restart(&mut self, run: &Run) -> Result<()> {
        run.bytes.fetch_sub(self.len, Ordering::Relaxed);
        self.len = 0;
        self.hash = self.hash.take().map(|_| Sha256::new());
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(Error::io(&self.path))
    }

    /// Makes the file a blob, if it is what the hub announced.
    fn finish(self, what: &str, head: &Head, blob: &Path) -> Result<()> {
        if let Some(hash) = self.hash {
            let got: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if got != head.etag.to_ascii_lowercase() {
                std::fs::remove_file(&self.path).map_err(Error::io(&self.path))?;
                let failure = HubFailure::Checksum { wants: head.etag.clone(), got };
                return Err(Error::Hub { what: what.to_string(), failure });
            }
        }
        self.file.sync_all().map_err(Error::io(&self.path))?;
        std::fs::rename(&self.path, blob).map_err(Error::io(blob))
    }
}

/// Makes `pointer`, the file `name` of a snapshot, the content of a blob; without a second copy where the file
/// system can.
fn link(blob: &Path, pointer: &Path, name: &str) -> std::io::Result<()> {
    let mut target: PathBuf = std::iter::repeat_n("..", name.split('/').count() + 1).collect();
    target.push("blobs");
    target.extend(blob.file_name());
    std::fs::remove_file(pointer).ok();
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(target, pointer);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(target, pointer);
    linked.or_else(|_| std::fs::hard_link(blob, pointer)).or_else(|_| std::fs::rename(blob, pointer))
}
