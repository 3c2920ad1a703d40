//! The layers of the crate: nothing imports to the right. And what softmetal's reports may be of.

use std::path::Path;

/// From the bottom up; a module may use those before it. `load` stands beside `nn`.
const LAYERS: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("ops", &["kernels", "error"]),
    ("nn", &["ops", "kernels", "error"]),
    ("load", &["error"]),
    ("models", &["nn", "ops", "load", "error"]),
    ("train", &["models", "nn", "ops", "load", "generate", "error", "kernels"]),
    ("generate", &["models", "nn", "ops", "load", "error"]),
];

fn sources(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        match entry.is_dir() {
            true => sources(&entry, out),
            false => out.push(entry),
        }
    }
}

#[test]
fn nothing_imports_to_the_right() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (layer, below) in LAYERS {
        let mut files = Vec::new();
        sources(&src.join(layer), &mut files);
        assert!(!files.is_empty(), "{layer} has no files");
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "rs")) {
            let text = std::fs::read_to_string(file).unwrap();
            for (i, line) in text.lines().enumerate() {
                for part in line.split("crate::").skip(1) {
                    let name: String =
                        part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    let known = LAYERS.iter().any(|(l, _)| *l == name) || name == "cli";
                    let allowed = !known || name == *layer || below.contains(&name.as_str());
                    assert!(allowed, "{}:{}: {layer} must not use {name}", file.display(), i + 1);
                }
            }
        }
    }
}

/// The kernels of the crate, by the names that reports have.
fn kernels() -> Vec<String> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut names = Vec::new();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "h")) {
        let text = std::fs::read_to_string(file).unwrap();
        let after = text.lines().filter_map(|line| line.trim_start().strip_prefix("KERNEL void "));
        names.extend(after.map(|rest| rest.split('(').next().unwrap().to_owned()));
    }
    names
}

/// A report on one of our kernels is a failure: what softmetal is told to accept is of others.
#[test]
fn accepted_reports_are_of_no_kernel_of_ours() {
    let kernels = kernels();
    for known in ["softmax_fwd", "cast_all", "product", "attention_fwd", "cross_entropy_fwd"] {
        assert!(kernels.iter().any(|name| name == known), "{known} of {kernels:?}");
    }
    let lists = Path::new(env!("CARGO_MANIFEST_DIR")).join("softmetal/candle");
    for (list, exact) in [("known-reports.txt", false), ("crate-reports.txt", true)] {
        let text = std::fs::read_to_string(lists.join(list)).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split('#').next().unwrap().trim()).collect();
        let entries = lines.iter().filter(|line| !line.is_empty());
        assert!(entries.clone().count() > 10, "{list}");
        for entry in entries {
            let (_, place) = entry.split_once(' ').unwrap_or_else(|| panic!("{list}: {entry}: any place"));
            let covers = |name: &str| match place.trim().strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == place.trim(),
            };
            assert!(!exact || !place.ends_with('*'), "{list}: {entry}: wants one kernel's name");
            // Methods are called by candle and by us.
            let of_any_method = place.ends_with('*') && place.trim().starts_with(['-', '+', '*']);
            assert!(!of_any_method, "{list}: {entry}: wants one method's name");
            let ours: Vec<&String> = kernels.iter().filter(|name| covers(name)).collect();
            assert!(ours.is_empty(), "{list}: {entry}: {ours:?}");
        }
    }
}
