//! Compiled kernels on disk, so that a second process starts without compiling.
//!
//! A file holds the whole key it was made for (source, options, architecture, driver) and a checksum: a file that is
//! torn or of another key is compiled again, and a directory that cannot be written costs time only.

use super::directory::{directory, fnv};
use std::path::PathBuf;
use std::{fs, process};

fn path(key: &str, extension: &str) -> Option<PathBuf> {
    // The name need only differ, the file holds the key.
    Some(directory()?.join("kernels").join(format!("{:016x}.{extension}", fnv(key))))
}

/// What was compiled for `key`.
pub(super) fn get(key: &str, extension: &str) -> Option<Vec<u8>> {
    let file = fs::read(path(key, extension)?).ok()?;
    let rest = file.strip_prefix(&(key.len() as u64).to_le_bytes())?.strip_prefix(key.as_bytes())?;
    let (sum, code) = rest.split_first_chunk::<4>()?;
    (crc32fast::hash(code) == u32::from_le_bytes(*sum)).then(|| code.to_vec())
}

/// Keeps what was compiled for `key`.
pub(super) fn put(key: &str, extension: &str, code: &[u8]) {
    let Some(path) = path(key, extension) else { return };
    let mut file = (key.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(key.as_bytes());
    file.extend_from_slice(&crc32fast::hash(code).to_le_bytes());
    file.extend_from_slice(code);
    let temporary = path.with_extension(format!("{}.tmp", process::id()));
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&temporary, file));
    if written.and_then(|()| fs::rename(&temporary, &path)).is_err() {
        fs::remove_file(temporary).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_only_whole_and_for_its_own_key() {
        let key = format!("a kernel of process {}", process::id());
        assert_eq!(get(&key, "test"), None);
        put(&key, "test", b"code");
        let Some(code) = get(&key, "test") else { return };
        assert_eq!(code, b"code");
        let path = path(&key, "test").unwrap();
        let whole = fs::read(&path).unwrap();
        for (at, len) in [(0, whole.len() - 1), (whole.len() - 1, whole.len()), (9, whole.len())] {
            let mut file = whole[..len].to_vec();
            if len == whole.len() {
                file[at] ^= 1;
            }
            fs::write(&path, file).unwrap();
            assert_eq!(get(&key, "test"), None);
        }
        fs::remove_file(path).unwrap();
    }
}
