//! `softmetal cargo`: a project's copy, and cargo in it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use super::manifest::Needs;
use super::project::{Graph, Package, Project};
use super::tree::Tree;
use super::{library, patched};

/// The subcommands of cargo that build, and so take a profile.
const BUILDING: [&str; 12] =
    ["build", "b", "check", "c", "test", "t", "run", "r", "bench", "clippy", "rustc", "doc"];

/// Runs cargo; on success this process becomes it.
pub fn run(args: &[OsString]) -> Result<ExitCode> {
    let args = Arguments::parse(args)?;
    let manifest = match &args.manifest {
        Some(manifest) => manifest.canonicalize().with_context(|| manifest.display().to_string())?,
        None => nearest_manifest(&std::env::current_dir()?)?,
    };
    let project = Project::read(&manifest)?;
    let work = project.target.join("softmetal");
    fs::create_dir_all(&work).with_context(|| work.display().to_string())?;

    // Two commands in one project make its copy one after the other.
    let lock = File::create(work.join("lock"))?;
    lock.lock()?;
    library::prepare(&work.join("lib"))?;
    let tree = Tree { project: &project, directory: work.join("tree"), copies: work.join("crates") };
    prepare(&tree, args.offline)?;
    drop(lock);

    let manifest = tree.directory.join(manifest.strip_prefix(&project.root)?);
    let error = args.command(&manifest, &work).exec();
    Err(error).context("cargo")
}

/// Writes the copy with what it needs; that is known when cargo, asked again, tells of nothing new.
fn prepare(tree: &Tree, offline: bool) -> Result<()> {
    let remembered = tree.directory.with_extension("needs");
    let mut needs =
        fs::read_to_string(&remembered).map_or_else(|_| Needs::default(), |text| Needs::parse(&text));
    needs.copies.retain(|(name, version)| tree.copies.join(patched::key(name, version)).is_dir());
    loop {
        tree.write(&needs)?;
        tree.lock()?;
        let graph = Graph::read(&tree.directory.join("Cargo.toml"), offline)?;
        let found = look(&graph, tree)?;
        if found == needs {
            return Ok(fs::write(&remembered, needs.to_text())?);
        }
        needs = found;
    }
}

/// What a graph needs; copies the crates among it.
fn look(graph: &Graph, tree: &Tree) -> Result<Needs> {
    let root = &tree.project.root;
    let Some(objc2) = graph.version("objc2") else {
        bail!("{}: wants a dependency on objc2, got none with all features", root.display());
    };
    let mut needs = Needs { objc2: Some(objc2), block2: graph.version("block2"), ..Needs::default() };
    for package in graph.reaching("objc2") {
        let Package { name, version, directory, .. } = package;
        if let Ok(member) = directory.strip_prefix(&tree.directory) {
            needs.members.insert(member.to_path_buf());
        } else if directory.starts_with(&tree.copies) {
            needs.copies.insert((name.clone(), version.clone()));
        } else {
            let files = patched::files(package)?;
            if !files.is_empty() {
                patched::copy(package, &files, &tree.copies)?;
                needs.copies.insert((name.clone(), version.clone()));
            }
        }
    }
    Ok(needs)
}

/// The manifest of the directory, or of the nearest one above.
fn nearest_manifest(directory: &Path) -> Result<PathBuf> {
    let found = directory.ancestors().map(|above| above.join("Cargo.toml")).find(|path| path.is_file());
    found.with_context(|| format!("{}: wants a Cargo.toml here or above, got none", directory.display()))
}

/// Cargo's arguments, as far as they matter here.
struct Arguments {
    /// `+toolchain`.
    toolchain: Option<OsString>,
    /// With its own subcommand: `nextest run`.
    subcommand: Vec<OsString>,
    /// All others, without `--manifest-path`.
    rest: Vec<OsString>,
    manifest: Option<PathBuf>,
    has_profile: bool,
    offline: bool,
}

impl Arguments {
    fn parse(args: &[OsString]) -> Result<Self> {
        let mut args = args.iter().cloned().peekable();
        let toolchain = args.next_if(|arg| arg.to_string_lossy().starts_with('+'));
        let Some(first) = args.next_if(|arg| !arg.to_string_lossy().starts_with('-')) else {
            bail!(
                "softmetal cargo: wants cargo's subcommand first, got {}",
                args.next().unwrap_or_default().display()
            );
        };
        let mut subcommand = vec![first];
        if subcommand[0] == "nextest" {
            subcommand.extend(args.next_if(|arg| !arg.to_string_lossy().starts_with('-')));
        }
        let mut parsed = Self {
            toolchain,
            subcommand,
            rest: Vec::new(),
            manifest: None,
            has_profile: false,
            offline: false,
        };
        while let Some(arg) = args.next() {
            let text = arg.to_string_lossy();
            if text == "--" {
                parsed.rest.push(arg);
                parsed.rest.extend(args);
                break;
            }
            if text == "--manifest-path" {
                parsed.manifest =
                    Some(args.next().context("--manifest-path: wants a path, got nothing")?.into());
                continue;
            }
            if let Some(path) = text.strip_prefix("--manifest-path=") {
                parsed.manifest = Some(path.into());
                continue;
            }
            let names = ["--release", "-r", "--profile", "--cargo-profile"];
            parsed.has_profile |= names.contains(&&*text) || text.starts_with("--profile=");
            parsed.offline |= text == "--offline" || text == "--frozen";
            parsed.rest.push(arg);
        }
        Ok(parsed)
    }

    fn command(&self, manifest: &Path, work: &Path) -> Command {
        let mut command = Command::new("cargo");
        command.args(&self.toolchain).args(&self.subcommand).arg("--manifest-path").arg(manifest);
        if !self.has_profile {
            if self.subcommand[0] == "nextest" {
                command.args(["--cargo-profile", "softmetal"]);
            } else if BUILDING.iter().any(|name| self.subcommand[0] == *name) {
                command.args(["--profile", "softmetal"]);
            }
        }
        let library = work.join("lib");
        let flags = [
            "-L".to_owned(),
            format!("native={}", library.display()),
            "-C".to_owned(),
            format!("link-arg=-Wl,-rpath,{}", library.display()),
        ];
        // Of these cargo takes the first that is set, so the project's own configuration counts where it can.
        add_flags(&mut command, "RUSTFLAGS", "target.'cfg(target_os = \"linux\")'.rustflags", &flags);
        add_flags(&mut command, "RUSTDOCFLAGS", "build.rustdocflags", &flags);
        command.env("CARGO_TARGET_DIR", work.join("build"));
        command.args(&self.rest);
        command
    }
}

/// Adds flags to the variable that has some, or to cargo's configuration.
fn add_flags(command: &mut Command, variable: &str, key: &str, flags: &[String]) {
    let encoded = format!("CARGO_ENCODED_{variable}");
    for (variable, separator) in [(encoded.as_str(), "\u{1f}"), (variable, " ")] {
        if let Some(mut value) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
            value.push(separator);
            value.push(flags.join(separator));
            command.env(variable, value);
            return;
        }
    }
    let list: toml_edit::Array = flags.iter().map(String::as_str).collect();
    command.arg("--config").arg(OsStr::new(&format!("{key}={list}")));
}
