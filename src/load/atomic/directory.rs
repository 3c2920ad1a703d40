//! A directory that a command makes: whole or absent, and never in the place of something else.

use std::fs;
use std::path::{Path, PathBuf};

use super::beside;
use crate::{Error, Result};

/// A directory that is filled under a temporary name beside its own; dropped without
/// [`commit`](NewDirectory::commit), it is removed.
#[derive(Debug)]
pub struct NewDirectory {
    temporary: PathBuf,
    path: PathBuf,
    /// Where a directory that is replaced is kept until the new one has its name.
    old: PathBuf,
}

impl NewDirectory {
    /// Begins a directory that will be `path`, which must not be there, or be empty.
    ///
    /// With `replaces`, it may also be a directory that has a file of that name and no directories in it, so that
    /// what goes is what the command itself might have made. `inputs` are never replaced.
    ///
    /// # Errors
    ///
    /// When something else is there, or the place cannot be written.
    pub fn begin(path: &Path, replaces: Option<&str>, inputs: &[&Path]) -> Result<Self> {
        let name = path.display().to_string();
        // A link to a directory is followed, as elsewhere.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let old = set_aside(&path)?;
        if old.exists() {
            // A process was killed within `commit`: what was there before comes back, or has been replaced.
            match path.exists() {
                true => fs::remove_dir_all(&old).map_err(Error::io(&old))?,
                false => fs::rename(&old, &path).map_err(Error::io(&path))?,
            }
        }
        if path.exists() {
            let same = |input: &&&Path| fs::canonicalize(input).is_ok_and(|input| input == path);
            if inputs.iter().any(|input| same(&input)) {
                return Err(Error::wants(name, "a directory of its own", "the one that is read from"));
            }
            replaceable(&name, &path, replaces)?;
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        let temporary = beside(&path)?;
        fs::create_dir(&temporary).map_err(Error::io(&path))?;
        Ok(NewDirectory { temporary, path, old })
    }

    /// The directory to fill.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// The same error with the name that a file would have had.
    pub fn named(&self, error: Error) -> Error {
        match error {
            Error::Io { path, source } => {
                let path = match path.strip_prefix(&self.temporary) {
                    Ok(rest) => self.path.join(rest),
                    Err(_) => path,
                };
                Error::Io { path, source }
            }
            other => other,
        }
    }

    /// Gives the directory its name.
    pub fn commit(self) -> Result<()> {
        let sync = |path: &Path| fs::File::open(path).and_then(|directory| directory.sync_all());
        sync(&self.temporary).ok();
        // Of the two steps only the second could fail, and then the first is taken back.
        let replaced = self.path.exists();
        if replaced {
            fs::rename(&self.path, &self.old).map_err(Error::io(&self.path))?;
        }
        if let Err(error) = fs::rename(&self.temporary, &self.path) {
            if replaced {
                fs::rename(&self.old, &self.path).ok();
            }
            return Err(Error::io(&self.path)(error));
        }
        if let Some(parent) = self.path.parent() {
            sync(parent).ok();
        }
        if replaced { fs::remove_dir_all(&self.old).map_err(Error::io(&self.old)) } else { Ok(()) }
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.temporary).ok();
    }
}

/// Where a directory that is replaced is until the new one has its name: the same for every process, which finds it.
fn set_aside(path: &Path) -> Result<PathBuf> {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) => Ok(path.with_file_name(format!(".{name}.replaced"))),
        None => Err(Error::wants(path.display().to_string(), "the path of a directory", "no name")),
    }
}

/// Refuses what must not be replaced.
fn replaceable(name: &str, path: &Path, replaces: Option<&str>) -> Result<()> {
    let wants = "a directory that is not there yet, or is empty";
    if !path.is_dir() {
        return Err(Error::wants(name, wants, "a file"));
    }
    let entries: Vec<_> =
        fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<_>>).map_err(Error::io(path))?;
    if entries.is_empty() {
        return Ok(());
    }
    let Some(marker) = replaces else {
        let files = if entries.len() == 1 { "file" } else { "files" };
        let got = format!("one with {} {files} (--force replaces it)", entries.len());
        return Err(Error::wants(name, wants, got));
    };
    let directory = entries.iter().find(|entry| entry.path().is_dir());
    let got = match directory {
        Some(directory) => format!("one with the directory {}", directory.file_name().to_string_lossy()),
        None if !path.join(marker).is_file() => format!("one without {marker}"),
        None => return Ok(()),
    };
    Err(Error::wants(name, format!("a directory with {marker} and files alone to replace"), got))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_whole_or_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("new/out");
        let fill = |replaces, text: &str| -> Result<NewDirectory> {
            let new = NewDirectory::begin(&out, replaces, &[])?;
            fs::write(new.temporary().join("config.json"), text).unwrap();
            Ok(new)
        };
        let read = || fs::read_to_string(out.join("config.json")).unwrap();
        drop(fill(None, "never").unwrap());
        assert!(!out.exists());
        fill(None, "one").unwrap().commit().unwrap();
        assert_eq!(read(), "one");
        let error = fill(None, "two").unwrap_err().to_string();
        assert!(error.contains("got one with 1 file (--force replaces it)"), "{error}");
        drop(fill(Some("config.json"), "never").unwrap());
        assert_eq!(read(), "one");
        fs::write(out.join("stale"), "").unwrap();
        fill(Some("config.json"), "two").unwrap().commit().unwrap();
        assert_eq!((read().as_str(), out.join("stale").exists()), ("two", false));

        // Killed between the two renames of a commit.
        fs::rename(&out, out.with_file_name(".out.replaced")).unwrap();
        drop(fill(Some("config.json"), "never").unwrap());
        assert_eq!(read(), "two");
        let names: Vec<_> = fs::read_dir(place.path().join("new")).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn what_is_not_a_result_is_not_replaced() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let begin = |path: &Path| NewDirectory::begin(path, Some("config.json"), &[&at("model")]);
        fs::create_dir_all(at("home/papers")).unwrap();
        fs::write(at("home/config.json"), "").unwrap();
        fs::create_dir_all(at("other")).unwrap();
        fs::write(at("other/letter"), "").unwrap();
        fs::create_dir_all(at("model")).unwrap();
        fs::write(at("model/config.json"), "").unwrap();
        for (name, words) in [
            ("home", "got one with the directory papers"),
            ("other", "got one without config.json"),
            ("other/letter", "got a file"),
            ("model", "got the one that is read from"),
            ("other/../model", "got the one that is read from"),
        ] {
            let error = begin(&at(name)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        fs::create_dir(at("empty")).unwrap();
        begin(&at("empty")).unwrap().commit().unwrap();
    }
}
