//! The manifests of the copy: what the project's say, and what the software device needs.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use toml_edit::{Array, DocumentMut, InlineTable, Item, TableLike, value};

use super::patched;

/// The Objective-C runtime that softmetal stands in for, as a feature of objc2 and block2.
const RUNTIME: &str = "gnustep-2-1";

/// The profile that is used unless the command line names one: quick to build, and objc2 verifies each message.
const PROFILE: &str = r#"
inherits = "release"
opt-level = 1
lto = "off"
codegen-units = 16
debug = false
panic = "unwind"
strip = "none"

[package.objc2]
debug-assertions = true
"#;

/// What the manifests are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The version of objc2, if the project reaches it.
    pub objc2: Option<String>,
    /// The version of block2, if the project reaches it.
    pub block2: Option<String>,
    /// The members that reach objc2, by directory.
    pub members: BTreeSet<PathBuf>,
    /// Crates that are copied: name and version.
    pub copies: BTreeSet<(String, String)>,
}

impl Needs {
    /// Reads what `to_text` has written.
    pub fn parse(text: &str) -> Self {
        let mut needs = Self::default();
        for line in text.lines() {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["objc2", version] => needs.objc2 = Some(version.to_owned()),
                ["block2", version] => needs.block2 = Some(version.to_owned()),
                ["member", path] => drop(needs.members.insert(path.into())),
                ["copy", name, version] => drop(needs.copies.insert((name.to_owned(), version.to_owned()))),
                _ => {}
            }
        }
        needs
    }

    /// One line each.
    pub fn to_text(&self) -> String {
        let objc2 = self.objc2.iter().map(|version| format!("objc2\t{version}\n"));
        let block2 = self.block2.iter().map(|version| format!("block2\t{version}\n"));
        let members = self.members.iter().map(|path| format!("member\t{}\n", path.display()));
        let copies = self.copies.iter().map(|(name, version)| format!("copy\t{name}\t{version}\n"));
        objc2.chain(block2).chain(members).chain(copies).collect()
    }
}

/// Where a manifest stands.
pub struct Place<'a> {
    /// The project's root directory.
    pub root: &'a Path,
    /// All members' directories, below the root.
    pub members: &'a BTreeSet<PathBuf>,
    /// This member's.
    pub member: &'a Path,
    /// The directory of copied crates.
    pub copies: &'a Path,
}

/// The manifest of a member, or of the root, from the project's own.
pub fn edit(text: &str, place: &Place, needs: &Needs) -> Result<String> {
    let mut document: DocumentMut = text.parse()?;
    let manifest = document.as_table_mut();
    absolute_paths(manifest, place);
    if needs.members.contains(place.member) && manifest.contains_key("package") {
        for (name, version) in [("objc2", &needs.objc2), ("block2", &needs.block2)] {
            if let Some(version) = version {
                add_runtime(manifest, name, version).with_context(|| format!("dependency {name}"))?;
            }
        }
    }
    if place.member.as_os_str().is_empty() {
        // Without one of its own, cargo would look for the workspace in the directories around.
        manifest.entry("workspace").or_insert_with(toml_edit::table);
        add_copies(manifest, place, needs)?;
        add_profile(manifest)?;
    }
    Ok(document.to_string())
}

/// Makes the paths of all dependencies absolute, but for those of members, which are in the copy too.
fn absolute_paths(manifest: &mut dyn TableLike, place: &Place) {
    for (key, item) in manifest.iter_mut() {
        let Some(table) = item.as_table_like_mut() else { continue };
        match key.get() {
            "dependencies" | "dev-dependencies" | "build-dependencies" => absolute_in(table, place),
            "workspace" => absolute_paths(table, place),
            "target" => table.iter_mut().for_each(|(_, item)| {
                item.as_table_like_mut().into_iter().for_each(|table| absolute_paths(table, place));
            }),
            "patch" => table.iter_mut().for_each(|(_, item)| {
                item.as_table_like_mut().into_iter().for_each(|table| absolute_in(table, place));
            }),
            _ => {}
        }
    }
}

fn absolute_in(dependencies: &mut dyn TableLike, place: &Place) {
    for (_, dependency) in dependencies.iter_mut() {
        let Some(path) = dependency.get_mut("path") else { continue };
        let Some(given) = path.as_str() else { continue };
        let absolute = normal(&place.root.join(place.member).join(given));
        if !absolute.strip_prefix(place.root).is_ok_and(|below| place.members.contains(below)) {
            *path = value(absolute.to_string_lossy().into_owned());
        }
    }
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            _ => out.push(part),
        }
    }
    out
}

/// Turns the runtime's feature on in a package, which is given the dependency if it has none.
fn add_runtime(manifest: &mut dyn TableLike, name: &str, version: &str) -> Result<()> {
    let dependencies = manifest.entry("dependencies").or_insert_with(toml_edit::table);
    let dependencies = dependencies.as_table_like_mut().context("wants `dependencies` to be a table")?;
    let named = |(key, item): (&str, &Item)| {
        let package = item.get("package").and_then(Item::as_str);
        (package.unwrap_or(key) == name).then(|| key.to_owned())
    };
    let key = dependencies.iter().find_map(named).unwrap_or_else(|| name.to_owned());
    let dependency = dependencies.entry(&key).or_insert_with(|| {
        let mut table = InlineTable::new();
        table.insert("version", version.into());
        table.insert("default-features", false.into());
        value(table)
    });
    if let Some(version) = dependency.as_str().map(str::to_owned) {
        let mut table = InlineTable::new();
        table.insert("version", version.into());
        *dependency = value(table);
    }
    let table = dependency.as_table_like_mut().context("wants a version or a table")?;
    let features = table.entry("features").or_insert_with(|| value(Array::new()));
    features.as_array_mut().context("wants `features` to be a list")?.push(RUNTIME);
    Ok(())
}

fn add_copies(manifest: &mut dyn TableLike, place: &Place, needs: &Needs) -> Result<()> {
    if needs.copies.is_empty() {
        return Ok(());
    }
    let patch = manifest.entry("patch").or_insert_with(toml_edit::table);
    let registry = patch.as_table_like_mut().context("patch: wants a table")?.entry("crates-io");
    let registry = registry.or_insert_with(toml_edit::table);
    let registry = registry.as_table_like_mut().context("patch.crates-io: wants a table")?;
    for (name, version) in &needs.copies {
        let key = patched::key(name, version);
        let mut table = InlineTable::new();
        table.insert("package", name.into());
        table.insert("path", place.copies.join(&key).to_string_lossy().into_owned().into());
        registry.insert(&key, value(table));
    }
    Ok(())
}

/// Adds the profile; what the project says of a profile of this name stays.
fn add_profile(manifest: &mut dyn TableLike) -> Result<()> {
    let profiles = manifest.entry("profile").or_insert_with(toml_edit::table);
    let profiles = profiles.as_table_like_mut().context("profile: wants a table")?;
    let profile = profiles.entry("softmetal").or_insert_with(toml_edit::table);
    merge(profile, PROFILE.parse::<DocumentMut>()?.as_item());
    Ok(())
}

/// Inserts what is not there.
fn merge(into: &mut Item, from: &Item) {
    let (Some(into), Some(from)) = (into.as_table_like_mut(), from.as_table_like()) else { return };
    for (key, item) in from.iter() {
        match into.get_mut(key) {
            Some(there) => merge(there, item),
            None => drop(into.insert(key, item.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str) -> String {
        let members = BTreeSet::from(["".into(), "part".into()]);
        let place = Place {
            root: Path::new("/project"),
            members: &members,
            member: Path::new(""),
            copies: Path::new("/copies"),
        };
        let needs = Needs {
            objc2: Some("0.6.5".into()),
            block2: Some("0.6.2".into()),
            members: members.clone(),
            copies: BTreeSet::from([("objc2-metal".into(), "0.3.2".into())]),
        };
        edit(text, &place, &needs).unwrap()
    }

    #[test]
    fn a_manifest_has_what_the_device_needs() {
        let manifest = edited(
            r#"
[package]
name = "p"

[dependencies]
objc2 = "0.6"
part = { path = "part" }
other = { path = "../other" }

[target.'cfg(unix)'.dev-dependencies]
third = { path = "./x/../third" }
"#,
        );
        for line in [
            r#"objc2 = { version = "0.6", features = ["gnustep-2-1"] }"#,
            r#"block2 = { version = "0.6.2", default-features = false, features = ["gnustep-2-1"] }"#,
            r#"part = { path = "part" }"#,
            r#"other = { path = "/other" }"#,
            r#"third = { path = "/project/third" }"#,
            r#"objc2-metal-0_3_2 = { package = "objc2-metal", path = "/copies/objc2-metal-0_3_2" }"#,
            "[workspace]",
            "[profile.softmetal.package.objc2]",
        ] {
            assert!(manifest.contains(&format!("\n{line}\n")), "{line}:\n{manifest}");
        }
    }

    #[test]
    fn an_optional_or_renamed_dependency_stays_so() {
        let manifest = edited(
            r#"
[package]
name = "p"

[dependencies]
objc = { package = "objc2", version = "0.6", optional = true, features = ["std"] }

[dependencies.block2]
workspace = true

[profile.softmetal]
opt-level = 3
"#,
        );
        assert!(manifest.contains(r#"optional = true, features = ["std", "gnustep-2-1"]"#), "{manifest}");
        assert!(manifest.contains("workspace = true\nfeatures = [\"gnustep-2-1\"]"), "{manifest}");
        assert!(manifest.contains("opt-level = 3") && !manifest.contains("opt-level = 1"), "{manifest}");
    }
}
