//! One run at a time in a directory: a locked file, which the system unlocks when the process ends, however it ends.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const NAME: &str = ".lock";

/// Holds a directory until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes a directory, which is made if need be.
    ///
    /// # Errors
    ///
    /// When another process holds it, which the error names, or nothing can be written there.
    pub fn take(dir: &Path) -> Result<Lock> {
        std::fs::create_dir_all(dir).map_err(|error| not_writable(dir, error))?;
        let path = dir.join(NAME);
        loop {
            let mut options = OpenOptions::new();
            let mut file = (options.read(true).write(true).create(true).truncate(false).open(&path))
                .map_err(|error| not_writable(dir, error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    file.read_to_string(&mut holder).ok();
                    let got = match holder.trim() {
                        "" => "one that is still going".to_string(),
                        pid => {
                            format!("process {pid}, which is still going: wait for it, or write elsewhere")
                        }
                    };
                    return Err(Error::wants(dir.display().to_string(), "no other run writing to it", got));
                }
                // Some network file systems have no locks: better to run than to refuse.
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(Error::io(&path)(error)),
            }
            if !is_at(&file, &path) {
                continue;
            }
            let pid = std::process::id().to_string();
            file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(Error::io(&path))?;
            return Ok(Lock { file, path });
        }
    }
}

fn not_writable(dir: &Path, error: std::io::Error) -> Error {
    Error::wants(dir.display().to_string(), "a directory that can be written", error.to_string())
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is held: whoever opened it before finds, once it is unlocked, that it is no more there.
        if cfg!(unix) {
            std::fs::remove_file(&self.path).ok();
        }
        self.file.unlock().ok();
    }
}

/// Whether the file is still the one of that name: its last holder may have removed it since it was opened.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (ours, there) = (file.metadata().map(identity), std::fs::metadata(path).map(identity));
    matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_by_one_and_free_after() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("out");
        let held = Lock::take(&dir).unwrap();
        let error = Lock::take(&dir).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(held);
        Lock::take(&dir).unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }
}
