//! Models and adapters of the Hugging Face hub, in the cache that `huggingface_hub` keeps.
//!
//! [`Hub::cached`] reads the cache alone. `Hub::fetch` (feature `hub`) asks the hub what is newest, and
//! downloads what is not there: files are resumed where a download broke off, checked for size and SHA-256,
//! and locked against other processes, ours or Python's.
//!
//! The layout is `models--org--name/` with `refs/<revision>` (a commit), `blobs/<etag>`, and
//! `snapshots/<commit>/<file>`, which link to blobs.

mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
mod env;
#[cfg(feature = "hub")]
mod fetch;
mod files;

use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "hub")]
pub use fetch::Event;
pub use files::Files;

use crate::error::{Error, HubFailure, Result};

/// Where the hub and its cache are, and how they are used.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The hub, without a slash at its end.
    pub endpoint: String,
    /// The directory that has `models--org--name`.
    pub cache: PathBuf,
    /// What private and gated repositories are read with.
    pub token: Option<Token>,
    /// A file of certificates (PEM) to trust instead of Mozilla's.
    pub certificates: Option<PathBuf>,
    /// The variable that says to ask nothing of the hub.
    pub offline: Option<String>,
    /// The longest silence when the hub is asked about files.
    pub etag_timeout: Duration,
    /// The longest silence in a download.
    pub download_timeout: Duration,
    /// Tries in a row that bring nothing, before a download is given up.
    pub tries: u32,
    /// The wait after the first such try; it doubles each time.
    pub backoff: Duration,
}

/// A secret that opens repositories.
#[derive(Clone)]
pub struct Token {
    secret: String,
    /// The variable or the file it came from.
    pub source: String,
}

impl Token {
    /// A token, and where it came from; `None` if it is blank.
    pub fn new(secret: &str, source: impl Into<String>) -> Option<Self> {
        let secret = secret.trim().to_string();
        (!secret.is_empty()).then(|| Token { secret, source: source.into() })
    }

    /// What is sent to the hub.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token of {}", self.source)
    }
}

/// What is asked of the hub: a repository in a revision, and which of its files.
#[derive(Clone, Debug)]
pub struct Repository {
    id: String,
    revision: String,
    files: Files,
}

impl Repository {
    /// `id` is `org/name`; `revision` a branch, a tag or a commit, `main` if not given.
    ///
    /// # Errors
    ///
    /// When either is nothing that the hub could have.
    pub fn new(id: &str, revision: Option<&str>, files: Files) -> Result<Self> {
        if !Self::is_id(id) {
            return Err(Error::wants(id, "the name of a repository, org/name", "no such directory"));
        }
        let revision = revision.unwrap_or("main");
        let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ':']);
        if !revision.split('/').all(part) {
            let wants = "a branch, tag or commit as revision";
            return Err(Error::wants(id, wants, format!("{revision:?}")));
        }
        Ok(Repository { id: id.to_string(), revision: revision.to_string(), files })
    }

    /// Whether a text could be the name of a repository: `org/name`, by the rules of the hub.
    pub fn is_id(text: &str) -> bool {
        let part = |part: &str| {
            let named = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            let ends = |c: char| "-.".contains(c);
            !part.is_empty() && named && !part.starts_with(ends) && !part.ends_with(ends)
        };
        let odd = text.contains("--") || text.contains("..") || text.len() > 96;
        !odd && text.split('/').count() == 2 && text.split('/').all(part)
    }

    /// Whether the revision is a whole commit hash, whose files never change.
    fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }
}

/// `org/name`, with the revision if it is not `main`.
impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.id),
            revision => write!(f, "{} at {revision}", self.id),
        }
    }
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit())
}

impl Hub {
    /// The directory of a repository that is whole in the cache. Nothing is asked of the hub.
    ///
    /// # Errors
    ///
    /// When it is not there, or not whole: the missing files are named.
    pub fn cached(&self, repository: &Repository) -> Result<PathBuf> {
        let missing = match self.lookup(repository) {
            cache::Lookup::Whole(path) => return Ok(path),
            cache::Lookup::Without(missing) => missing,
            cache::Lookup::Absent => Vec::new(),
        };
        let reason = match &self.offline {
            Some(variable) => format!("{variable} is set: unset it to download"),
            None => format!("nothing is downloaded here (hf download {})", repository.id),
        };
        let failure = HubFailure::NotCached { cache: self.cache.clone(), missing, reason };
        Err(Error::Hub { what: repository.to_string(), failure })
    }
}
