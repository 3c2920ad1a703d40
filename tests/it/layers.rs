//! The layers of the crate: nothing imports to the right.

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
