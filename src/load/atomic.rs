//! Files and directories that are whole or absent: written under a temporary name beside the target, synced, then
//! renamed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

mod directory;

pub use directory::NewDirectory;

/// Replaces `path` with what `fill` writes to the temporary path it is given.
///
/// When `fill` fails, the temporary file is removed and an existing `path` is as it was.
///
/// # Errors
///
/// When `fill` fails, or the directory cannot be written.
pub fn replace(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    stage(path, fill)?.commit()
}

/// Does all of [`replace`] but the renaming: several files staged first change together, or nearly so.
///
/// # Errors
///
/// When `fill` fails, or the directory cannot be written; nothing is left of it.
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
    ///
    /// # Errors
    ///
    /// When the file cannot be renamed; it is then removed.
    pub fn commit(self) -> Result<()> {
        fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path))?;
        // The rename is durable only once the directory is.
        self.path.parent().into_iter().for_each(sync_dir);
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        fs::remove_file(&self.temporary).ok();
    }
}

/// Writes `bytes` to `path`, which is either the old file or the whole new one at every moment.
///
/// # Errors
///
/// When the directory cannot be written.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    replace(path, |temporary| fs::write(temporary, bytes).map_err(Error::io(path)))
}

/// Replaces the directory `path` with what `fill` writes into the empty one it is given, `path` with `.tmp` after it.
///
/// A directory cannot be renamed over another, so one that is there is first set aside as `.old`: killed in between,
/// [`recover`] puts it back. When `fill` fails, the temporary directory is removed and `path` is as it was.
///
/// # Errors
///
/// When `fill` fails, or the directory around it cannot be written.
pub fn replace_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (temporary, old) = (with_end(path, TEMPORARY), with_end(path, OLD));
    remove_all(&temporary)?;
    fs::create_dir_all(&temporary).map_err(Error::io(&temporary))?;
    if let Err(error) = fill(&temporary) {
        fs::remove_dir_all(&temporary).ok();
        return Err(error);
    }
    sync_dir(&temporary);
    let replaced = path.exists();
    if replaced {
        remove_all(&old)?;
        fs::rename(path, &old).map_err(Error::io(path))?;
    }
    fs::rename(&temporary, path).map_err(Error::io(path))?;
    path.parent().into_iter().for_each(sync_dir);
    if replaced { remove_all(&old) } else { Ok(()) }
}

/// Clears what a killed process left in `dir`: temporary files and directories go, and a directory that was set
/// aside when its replacement had not yet taken its name comes back. Only those of the directories and files whose
/// names `directories` and `files` know are touched. Only for a directory that no other process writes to.
///
/// # Errors
///
/// When the directory cannot be read, or something in it can neither be removed nor renamed.
pub fn recover(dir: &Path, directories: impl Fn(&str) -> bool, files: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else { continue };
        if !path.is_dir() {
            if staged_for(name).is_some_and(&files) {
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        } else if name.strip_suffix(TEMPORARY).is_some_and(&directories) {
            remove_all(&path)?;
        } else if let Some(name) = name.strip_suffix(OLD).filter(|name| directories(name)) {
            let original = path.with_file_name(name);
            match original.exists() {
                true => remove_all(&path)?,
                false => fs::rename(&path, &original).map_err(Error::io(&path))?,
            }
        }
    }
    Ok(())
}

/// The name that a file of this name would have had, if it is one of [`beside`].
fn staged_for(name: &str) -> Option<&str> {
    let (name, numbers) = name.strip_prefix('.')?.strip_suffix(TEMPORARY)?.rsplit_once('.')?;
    let (pid, count) = numbers.split_once('-')?;
    [pid, count]
        .iter()
        .all(|number| number.parse::<u64>().is_ok_and(|n| n.to_string() == *number))
        .then_some(name)
}

const TEMPORARY: &str = ".tmp";
const OLD: &str = ".old";

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(end);
    name.into()
}

/// Removes a directory, which is whole or gone at every moment: [`recover`] removes what a killed process left of it.
///
/// # Errors
///
/// When it can neither be renamed nor removed.
pub fn remove_dir(path: &Path) -> Result<()> {
    let temporary = with_end(path, TEMPORARY);
    remove_all(&temporary)?;
    fs::rename(path, &temporary).map_err(Error::io(path))?;
    remove_all(&temporary)
}

fn remove_all(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable; not every system can.
fn sync_dir(path: &Path) {
    if let Ok(directory) = File::open(path) {
        directory.sync_all().ok();
    }
}

/// A free hidden name in the directory of `path`.
fn beside(path: &Path) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(Error::wants(path.display().to_string(), "the path of a file", "no file name"));
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(path.with_file_name(format!(".{name}.{}-{count}{TEMPORARY}", std::process::id())))
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

    #[test]
    fn a_directory_is_the_old_one_or_the_new_one_wherever_a_process_was_killed() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("best");
        let put = |text: &'static str| move |at: &Path| write(&at.join("file"), text);
        let read = || fs::read_to_string(dir.join("file")).unwrap();
        replace_dir(&dir, put("one")).unwrap();
        replace_dir(&dir, put("two")).unwrap();
        assert_eq!(read(), "two");
        let failed = replace_dir(&dir, |_| Err(Error::wants("best", "a whole write", "a full disk")));
        assert!(failed.is_err());

        // Killed between the two renames, and within a write.
        fs::rename(&dir, place.path().join("best.old")).unwrap();
        fs::create_dir(place.path().join("best.tmp")).unwrap();
        fs::write(place.path().join(".state.json.7-1.tmp"), "half").unwrap();
        // What others have named.
        let foreign =
            ["x", "x.old", "y.tmp", ".env.tmp", ".env.7-1.tmp", ".state.json.tmp", ".state.json.7-x.tmp"];
        for (i, name) in foreign.iter().enumerate() {
            let path = place.path().join(name);
            if i < 3 { fs::create_dir(path).unwrap() } else { fs::write(path, "theirs").unwrap() }
        }
        recover(place.path(), |name| name == "best", |name| name == "state.json").unwrap();
        assert_eq!(read(), "two");
        assert!(foreign.iter().all(|name| place.path().join(name).exists()));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1 + foreign.len());
    }
}
