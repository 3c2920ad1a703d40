//! What cargo knows of a project: its members, and the crates that they reach.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A workspace, or a package that is alone.
pub struct Project {
    /// The directory of the root manifest.
    pub root: PathBuf,
    /// Where cargo builds it.
    pub target: PathBuf,
    /// The members' directories, below the root. The root package's is empty.
    pub members: BTreeSet<PathBuf>,
}

impl Project {
    /// Reads the project of a manifest, without its dependencies: the lock file is neither read nor written.
    pub fn read(manifest: &Path) -> Result<Self> {
        let data = metadata(manifest, &["--no-deps"])?;
        let root = path(&data["workspace_root"])?;
        let mut members = BTreeSet::new();
        for package in data["packages"].as_array().into_iter().flatten() {
            let manifest = path(&package["manifest_path"])?;
            let directory = manifest.parent().unwrap_or(&root);
            let Ok(below) = directory.strip_prefix(&root) else {
                bail!(
                    "{}: wants all members in the workspace's directory, got {}",
                    root.display(),
                    directory.display()
                );
            };
            members.insert(below.to_path_buf());
        }
        Ok(Self { target: path(&data["target_directory"])?, root, members })
    }
}

/// A crate that is built.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where its source lies.
    pub directory: PathBuf,
    /// The registry or repository it is from, if it is not a directory.
    pub source: Option<String>,
    /// What it depends on, by cargo's id.
    dependencies: Vec<String>,
}

/// All crates that are built on this machine with every feature, by cargo's id.
pub struct Graph(BTreeMap<String, Package>);

impl Graph {
    /// Reads the graph; cargo brings the lock file beside the manifest up to date, and downloads what is missing.
    pub fn read(manifest: &Path, offline: bool) -> Result<Self> {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut args = vec!["--all-features", "--filter-platform", &host];
        if offline {
            args.push("--offline");
        }
        let data = metadata(manifest, &args)?;
        let mut graph = BTreeMap::new();
        for package in data["packages"].as_array().into_iter().flatten() {
            let manifest = path(&package["manifest_path"])?;
            graph.insert(
                text(&package["id"])?,
                Package {
                    name: text(&package["name"])?,
                    version: text(&package["version"])?,
                    directory: manifest.parent().unwrap_or(Path::new("/")).to_path_buf(),
                    source: package["source"].as_str().map(str::to_owned),
                    dependencies: Vec::new(),
                },
            );
        }
        for node in data["resolve"]["nodes"].as_array().into_iter().flatten() {
            if let Some(package) = graph.get_mut(&text(&node["id"])?) {
                let dependencies = node["dependencies"].as_array().into_iter().flatten();
                package.dependencies = dependencies.map(text).collect::<Result<_>>()?;
            }
        }
        Ok(Self(graph))
    }

    /// The newest version of a crate.
    pub fn version(&self, name: &str) -> Option<String> {
        let versions = self.0.values().filter(|package| package.name == name).map(|package| &package.version);
        let number = |version: &&String| {
            version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect::<Vec<u64>>()
        };
        versions.max_by_key(number).cloned()
    }

    /// The crates that have a crate of this name among what they depend on, and that crate.
    pub fn reaching(&self, name: &str) -> Vec<&Package> {
        let named = self.0.iter().filter(|(_, package)| package.name == name);
        let mut reached: BTreeSet<&str> = named.map(|(id, _)| id.as_str()).collect();
        loop {
            let before = reached.len();
            for (id, package) in &self.0 {
                if package.dependencies.iter().any(|dependency| reached.contains(dependency.as_str())) {
                    reached.insert(id);
                }
            }
            if reached.len() == before {
                return reached.into_iter().map(|id| &self.0[id]).collect();
            }
        }
    }
}

/// `cargo metadata` of a manifest.
fn metadata(manifest: &Path, args: &[&str]) -> Result<Value> {
    let fixed = ["metadata", "--format-version", "1", "--manifest-path"].map(OsStr::new);
    let mut command = Command::new("cargo");
    command.args(fixed).arg(manifest).args(args);
    let output = command.output().context("cargo: wants to be in PATH")?;
    if !output.status.success() {
        bail!(
            "cargo metadata of {}:\n{}",
            manifest.display(),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("cargo metadata: wants a string, got another value")?.to_owned())
}

fn path(value: &Value) -> Result<PathBuf> {
    text(value).map(PathBuf::from)
}
