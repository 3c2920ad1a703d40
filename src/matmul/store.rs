//! Tables on disk: one file for each device, in the user's cache directory.

use super::Table;
use super::site::Key;
use crate::error::{Error, Result};
use crate::load::atomic;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Where the table of a key is: a device's has its name in it, so that machines may share the directory.
pub(super) fn path(key: &Key) -> Option<PathBuf> {
    let device: String = key
        .device
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let name = format!("matmul-{}-{device}.json", key.kind);
    Some(crate::kernels::directory::directory()?.join(name))
}

/// The table of a key; none if there is none. A file that is no table, or another machine's, is named and left alone.
pub(super) fn load(key: &Key) -> Option<Table> {
    let path = path(key)?;
    let (table, notice) = load_from(&path, key);
    static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    // Once a process, however often the file is read.
    if let Some(notice) = notice
        && TOLD.lock().unwrap_or_else(|e| e.into_inner()).insert(path.clone())
    {
        eprintln!("note: {} {notice}; `metal-candle bench matmul` measures anew", path.display());
    }
    table
}

/// The table of a file, or what is to be told of it.
pub(super) fn load_from(path: &Path, key: &Key) -> (Option<Table>, Option<String>) {
    match read(path) {
        Ok(Some(table)) if table.key == *key => (Some(table), None),
        Ok(Some(table)) => (None, Some(format!("was measured with {}", differs(&table.key, key)))),
        Ok(None) => (None, None),
        Err(error) => (None, Some(format!("is no table: {error}"))),
    }
}

/// What a table's key has that this machine's has not.
fn differs(there: &Key, here: &Key) -> String {
    let pairs =
        [(&there.device, &here.device), (&there.system, &here.system), (&there.versions, &here.versions)];
    let other = pairs.iter().find(|(a, b)| a != b);
    other.map_or_else(String::new, |(there, here)| format!("{there}, and here is {here}"))
}

/// The table of a file; none if there is no file.
fn read(path: &Path) -> Result<Option<Table>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path)(error)),
    };
    let table: Table = serde_json::from_slice(&text).map_err(|source| Error::Json {
        path: path.into(),
        wants: "a table of products",
        source,
    })?;
    if table.schema != Table::SCHEMA {
        return Err(Error::wants("schema", Table::SCHEMA.to_string(), table.schema.to_string()));
    }
    // In order, whoever wrote it: entries are found by it.
    Ok(Some(Table::new(table.key, table.date, table.entries)))
}

/// Adds what was measured to the file: what other processes have written of the same key stays, but for the same shapes.
pub(super) fn save(new: &Table) -> Result<PathBuf> {
    let Some(path) = path(&new.key) else {
        return Err(Error::wants("METAL_CANDLE_CACHE", "a directory, or HOME", "neither"));
    };
    save_to(&path, new)?;
    Ok(path)
}

pub(super) fn save_to(path: &Path, new: &Table) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(Error::io(directory))?;
    // Held until the file has its name: a process that reads before another has written would lose what that wrote.
    let lock = path.with_extension("lock");
    let lock = File::create(&lock).and_then(|file| file.lock().map(|()| file)).map_err(Error::io(&lock))?;
    let old = read(path).ok().flatten().filter(|old| old.key == new.key);
    let entries = old.into_iter().flat_map(|old| old.entries).chain(new.entries.iter().cloned());
    let table = Table::new(new.key.clone(), new.date.clone(), entries);
    let text = serde_json::to_vec_pretty(&table).map_err(|source| Error::Json {
        path: path.into(),
        wants: "a table of products",
        source,
    })?;
    atomic::replace(path, |temporary| fs::write(temporary, &text).map_err(Error::io(temporary)))?;
    drop(lock);
    Ok(())
}
