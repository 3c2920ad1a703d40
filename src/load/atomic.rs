//! Files that are whole or absent: written under a temporary name beside the target, synced, then renamed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

mod directory;

pub use directory::NewDirectory;

/// Replaces `path` with what `fill` writes to the temporary path it is given.
///
/// When `fill` fails, the temporary file is removed and an existing `path` is as it was.
pub fn replace(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    stage(path, fill)?.commit()
}

/// Does all of [`replace`] but the renaming: several files staged first change together, or nearly so.
pub fn stage(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Staged> {
    // In the same directory, so that the rename cannot cross file systems.
    let staged = Staged { temporary: beside(path)?, path: path.to_path_buf() };
    // What the user's umask makes of a new file, whatever mode `fill` leaves.
    let permissions =
        File::create(&staged.temporary).and_then(|f| f.metadata()).map_err(Error::io(path))?.permissions();
    fill(&staged.temporary)?;
    let file = File::open(&staged.temporary).map_err(Error::io(&staged.temporary))?;
    file.set_permissions(permissions).map_err(Error::io(&staged.temporary))?;
    file.sync_all().map_err(Error::io(&staged.temporary))?;
    Ok(staged)
}

/// A file written in full under a temporary name; dropped without [`commit`](Staged::commit), it is removed.
pub struct Staged {
    temporary: PathBuf,
    path: PathBuf,
}

impl Staged {
    /// Gives the file its name.
    pub fn commit(self) -> Result<()> {
        fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path))?;
        // The rename is durable only once the directory is; not every system can sync one.
        if let Some(Ok(directory)) = self.path.parent().map(File::open) {
            directory.sync_all().ok();
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        fs::remove_file(&self.temporary).ok();
    }
}

/// Writes `bytes` to `path`, which is either the old file or the whole new one at every moment.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    replace(path, |temporary| fs::write(temporary, bytes).map_err(Error::io(path)))
}

/// A free hidden name in the directory of `path`.
fn beside(path: &Path) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(Error::wants(path.display().to_string(), "the path of a file", "no file name"));
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write(&path, "old").unwrap();
        let failed = replace(&path, |temporary| {
            fs::write(temporary, "half").map_err(Error::io(temporary))?;
            Err(Error::wants("state.json", "a whole write", "a power cut"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        write(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
