//! A copy of a project, of symbolic links: only manifests and the lock file are its own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::manifest::{self, Needs, Place};
use super::project::Project;

/// The copy of a project.
pub struct Tree<'a> {
    /// What it is a copy of.
    pub project: &'a Project,
    /// Where it is.
    pub directory: PathBuf,
    /// Where copies of crates are.
    pub copies: PathBuf,
}

impl Tree<'_> {
    /// Makes or renews the links, and writes the manifests.
    pub fn write(&self, needs: &Needs) -> Result<()> {
        self.link(Path::new(""))?;
        for member in self.project.members.iter().map(PathBuf::as_path).chain([Path::new("")]) {
            let path = self.project.root.join(member).join("Cargo.toml");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let place = Place {
                root: &self.project.root,
                members: &self.project.members,
                member,
                copies: &self.copies,
            };
            let text = manifest::edit(&text, &place, needs).with_context(|| path.display().to_string())?;
            write_if_new(&self.directory.join(member).join("Cargo.toml"), text.as_bytes())?;
        }
        Ok(())
    }

    /// Copies the lock file when the project's is not the one that was copied last; cargo's additions stay otherwise.
    pub fn lock(&self) -> Result<()> {
        let last = self.directory.with_extension("lock");
        let lock = match fs::read(self.project.root.join("Cargo.lock")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            lock => lock?,
        };
        let copy = self.directory.join("Cargo.lock");
        if !copy.exists() || fs::read(&last).ok().as_ref() != Some(&lock) {
            fs::write(&copy, &lock)?;
            fs::write(&last, &lock)?;
        }
        Ok(())
    }

    /// Links what is in a directory of the project. One that a member is below is a directory in the copy.
    fn link(&self, below: &Path) -> Result<()> {
        let (from, to) = (self.project.root.join(below), self.directory.join(below));
        fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&from).with_context(|| from.display().to_string())? {
            let name = entry?.file_name();
            let path = below.join(&name);
            if self.is_left_out(&path) {
                continue;
            }
            if self.project.members.iter().any(|member| member.starts_with(&path)) {
                if to.join(&name).is_symlink() {
                    fs::remove_file(to.join(&name))?;
                }
                self.link(&path)?;
            } else {
                link_to(&from.join(&name), &to.join(&name))?;
            }
            names.insert(name);
        }
        names.extend(["Cargo.toml", "Cargo.lock"].map(OsString::from));
        remove_others(&to, &names)
    }

    /// What has no place in the copy: the manifests, which it has its own of, and what cargo built.
    fn is_left_out(&self, path: &Path) -> bool {
        let absolute = self.project.root.join(path);
        let name = path.file_name().unwrap_or_default();
        let is_manifest = name == "Cargo.toml"
            && self.project.members.iter().any(|member| Some(member.as_path()) == path.parent());
        let is_root = path.components().count() == 1;
        is_manifest
            || is_root && ["Cargo.toml", "Cargo.lock", ".git"].iter().any(|left_out| name == *left_out)
            // Cargo reads the configuration of the directories around.
            || is_root && name == ".cargo" && self.directory.starts_with(&self.project.root)
            || self.directory.starts_with(&absolute)
            || absolute.join("CACHEDIR.TAG").exists()
    }
}

fn link_to(from: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|there| there == from) {
        return Ok(());
    }
    if link.is_symlink() {
        fs::remove_file(link)?;
    } else if link.is_dir() {
        fs::remove_dir_all(link)?;
    } else if link.exists() {
        bail!("{}: wants to be a link that softmetal made, got a file", link.display());
    }
    symlink(from, link).with_context(|| link.display().to_string())
}

/// Removes the links to what the project no longer has.
fn remove_others(directory: &Path, names: &BTreeSet<OsString>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !names.contains(&entry.file_name()) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Leaves a file of the same content alone, so that cargo does not build again.
fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| path.display().to_string())
}
