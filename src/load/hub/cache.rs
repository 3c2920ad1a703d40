//! The cache's directories: what is in them, and how a file gets there.

use std::path::PathBuf;

use super::{Hub, Repository};

/// What the cache has of a repository.
pub(super) enum Lookup {
    /// All that is needed, here.
    Whole(PathBuf),
    /// A part; these files are missing.
    Without(Vec<String>),
    /// Nothing.
    Absent,
}

impl Hub {
    /// `models--org--name`.
    pub(super) fn folder(&self, repository: &Repository) -> PathBuf {
        self.cache.join(format!("models--{}", repository.id.replace('/', "--")))
    }

    pub(super) fn lookup(&self, repository: &Repository) -> Lookup {
        let folder = self.folder(repository);
        let commit = match repository.is_commit() {
            true => repository.revision.clone(),
            false => {
                let read = std::fs::read_to_string(folder.join("refs").join(&repository.revision));
                match read.map(|commit| commit.trim().to_string()) {
                    Ok(commit) if safe(&commit) => commit,
                    _ => return Lookup::Absent,
                }
            }
        };
        let snapshot = folder.join("snapshots").join(&commit);
        if !snapshot.is_dir() {
            return Lookup::Absent;
        }
        let mut missing = repository.files.missing(&snapshot);
        // Python keeps the whole listing of a commit; by it, an optional file that is missing is seen, too.
        if missing.is_empty()
            && let Some(listed) = listing(&folder.join("trees").join(format!("{commit}.json")))
        {
            let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
            if let Ok((beside, weights)) = repository.files.of(&repository.id, &listed) {
                missing.extend(beside.into_iter().chain(weights));
                missing.retain(|name| !snapshot.join(name).is_file());
            }
        }
        if missing.is_empty() { Lookup::Whole(snapshot) } else { Lookup::Without(missing) }
    }
}

/// The names in a listing that Python's snapshot_download keeps.
fn listing(path: &std::path::Path) -> Option<Vec<String>> {
    let tree: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    Some(tree.get("files")?.as_object()?.keys().cloned().collect())
}

/// Whether a text from elsewhere can be the name of a file of the cache.
pub(super) fn safe(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
}
