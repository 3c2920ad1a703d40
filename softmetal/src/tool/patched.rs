//! Copies of crates with Apple's frameworks linked on Apple's systems only.
//!
//! Bindings such as objc2-metal have `#[link(name = "Metal", kind = "framework")]` without a condition, which rustc
//! refuses for Linux. That attribute is all that is changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml_edit::DocumentMut;

use super::project::Package;

const LINK: &str = "#[link(";

/// The text with each unconditional framework attribute made conditional, if it has any.
pub fn conditional(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while let Some(start) = rest.find(LINK) {
        let line = rest[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let Some(length) = rest[start..].find(")]") else { break };
        let attribute = &rest[start + LINK.len()..start + length];
        let is_framework = attribute.contains("\"framework\"") && rest[line..start].trim().is_empty();
        out.push_str(&rest[..start]);
        if is_framework {
            changed = true;
            out.push_str("#[cfg_attr(target_vendor = \"apple\", link(");
            out.push_str(attribute);
            out.push_str("))]");
        } else {
            out.push_str(&rest[start..start + length + 2]);
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    changed.then_some(out)
}

/// The Rust files of a crate that need a change.
pub fn files(package: &Package) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![package.directory.join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                if conditional(&text).is_some() {
                    found.push(path);
                }
            }
        }
    }
    Ok(found)
}

/// Where the copy of a crate is: its name and version, in the form of a dependency's key.
pub fn key(name: &str, version: &str) -> String {
    format!("{name}-{}", version.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_"))
}

/// Makes the copy of a crate in a directory of copies, if it is not there.
pub fn copy(package: &Package, files: &[PathBuf], copies: &Path) -> Result<()> {
    let name = format!("{} {}", package.name, package.version);
    if !package.source.as_ref().is_some_and(|source| source.starts_with("registry+")) {
        let source = package.source.as_deref().unwrap_or("a directory");
        bail!("{name}: links a framework, and wants to come from crates.io, got {source}");
    }
    let directory = copies.join(key(&package.name, &package.version));
    let unfinished = directory.with_extension("new");
    let _ = fs::remove_dir_all(&unfinished);
    copy_tree(&package.directory, &unfinished).with_context(|| format!("copy of {name}"))?;
    for path in files {
        let text = fs::read_to_string(path)?;
        let changed = conditional(&text).unwrap_or(text);
        fs::write(unfinished.join(path.strip_prefix(&package.directory)?), changed)?;
    }
    quiet(&unfinished.join("Cargo.toml"))?;
    let _ = fs::remove_dir_all(&directory);
    fs::rename(&unfinished, &directory).with_context(|| directory.display().to_string())
}

/// A crate of a registry is compiled without warnings; its copy shall be, too.
fn quiet(manifest: &Path) -> Result<()> {
    let mut document: DocumentMut = fs::read_to_string(manifest)?.parse()?;
    document["lints"] = toml_edit::table();
    document["lints"]["rust"] = toml_edit::table();
    document["lints"]["rust"]["warnings"] = toml_edit::value("allow");
    Ok(fs::write(manifest, document.to_string())?)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            // A vendored file may be read-only, and a copy of it too.
            fs::write(to, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unconditional_frameworks_change() {
        let changed = conditional(
            "//! #[link(name = \"A\", kind = \"framework\")]\n#[link(name = \"Metal\", kind = \"framework\")]\n#[link(name = \"z\")]\nextern \"C\" {}\n",
        );
        let wants = "//! #[link(name = \"A\", kind = \"framework\")]\n#[cfg_attr(target_vendor = \"apple\", link(name = \"Metal\", kind = \"framework\"))]\n#[link(name = \"z\")]\nextern \"C\" {}\n";
        assert_eq!(changed.as_deref(), Some(wants));
        assert_eq!(conditional(wants), None);
    }
}
