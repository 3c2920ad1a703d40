//! The cache that Python's huggingface_hub writes; `tests/fixtures/check_hub_cache.py` recorded one, and lets the
//! real package read ours.

use super::*;
use crate::cli::{Place, ended};
use serde_json::Value;

/// The recorded cache: its `links` (path and target, with the name of the file in place of its ETag), its `texts`.
fn recorded() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("hub_cache.json")).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
#[cfg(unix)]
fn a_cache_of_pythons_is_read() {
    let place = Place::new();
    let recorded = recorded();
    for (path, content) in recorded["texts"].as_object().unwrap() {
        place.write(&format!("hub/{path}"), text(content));
    }
    for (path, target) in recorded["links"].as_object().unwrap() {
        let link = place.path(&format!("hub/{path}"));
        let directory = link.parent().unwrap();
        std::fs::create_dir_all(directory).unwrap();
        std::os::unix::fs::symlink(text(target), &link).unwrap();
        let source = fixture("models/llama").join(link.file_name().unwrap());
        let blob = directory.join(text(target));
        std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
        std::fs::write(blob, std::fs::read(source).unwrap_or_default()).unwrap();
    }
    let line = "generate --model org/name --prompt hi --max-tokens 3 --json";
    ended(place.command(&line.split(' ').collect::<Vec<_>>()).spawn().unwrap()).ok();

    // The listing that Python keeps tells what else belongs to the model.
    let hub = hub(&llama(), place.path("").as_path(), &[("HF_HUB_OFFLINE", "1")]);
    let snapshot = hub.cached(&at("main")).unwrap();
    std::fs::remove_file(snapshot.join("generation_config.json")).unwrap();
    let error = hub.cached(&at("main")).unwrap_err().to_string();
    assert!(error.contains("without generation_config.json"), "{error}");
}

#[test]
#[cfg(unix)]
fn our_cache_is_what_python_would_have_written() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    let snapshot = got(&hub(&server, home.path(), &[]));
    let recorded = recorded();
    let commit = text(&recorded["commit"]);
    for name in NEEDED {
        let path = format!("models--org--name/snapshots/{commit}/{name}");
        let theirs = Path::new(text(&recorded["links"][&path]));
        let ours = std::fs::read_link(snapshot.join(name)).unwrap();
        assert_eq!(ours.parent(), theirs.parent(), "{name}");
        assert_eq!(ours.file_name().unwrap(), server.file(name).etag.as_str(), "{name}");
    }
    let reference = std::fs::read_to_string(home.path().join("hub/models--org--name/refs/main")).unwrap();
    assert!(snapshot.ends_with(&reference) && reference == reference.trim(), "{reference:?}");
    // Its SHA-256 is the name of a large file, theirs and ours.
    let path = format!("models--org--name/snapshots/{commit}/model.safetensors");
    assert!(text(&recorded["links"][&path]).ends_with(&server.file("model.safetensors").etag));
}
