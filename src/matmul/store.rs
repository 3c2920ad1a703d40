//! Tables on disk: one file for each key, in the user's cache directory.

use super::Table;
use super::site::Key;
use crate::error::{Error, Result};
use crate::kernels::directory::{directory, fnv};
use crate::load::atomic;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Where the table of a key is, in the cache directory.
pub(super) fn path(key: &Key) -> Option<PathBuf> {
    Some(directory()?.join(name(key)))
}

/// Of the device's name, which people read, and a hash of the key: what is measured with another version or system, or in a debug
/// build, replaces nothing.
pub(super) fn name(key: &Key) -> String {
    let Key { system, versions, .. } = key;
    // The name need only differ, the file holds the key.
    let hash = fnv(&format!("{}\n{system}\n{versions}", key.device));
    format!("{}{hash:016x}.json", stem(key))
}

/// What the names of a device's tables begin with.
fn stem(key: &Key) -> String {
    let device: String = key
        .device
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    format!("matmul-{}-{device}-", key.kind)
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
        Ok(None) => (None, other(path, key).map(|there| format!("is not there; there is {there}"))),
        Err(error) => (None, Some(format!("is no table: {error}"))),
    }
}

/// What a table of the same device, beside one that is missing, was measured with.
fn other(path: &Path, key: &Key) -> Option<String> {
    let beside = fs::read_dir(path.parent()?).ok()?.flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with(&stem(key)) && name.ends_with(".json"))
    };
    let mut tables = beside.filter(named).filter_map(|path| read(&path).ok().flatten());
    tables
        .find(|table| table.key.device == key.device)
        .map(|table| format!("one of {}", differs(&table.key, key)))
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
