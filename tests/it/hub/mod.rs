//! The Hugging Face hub: downloads from a server on this machine, and the cache that Python shares.

mod command;
mod python;
mod refuse;
mod server;

use crate::fixture;
use metal_candle::Error;
use metal_candle::load::hub::{Event, Files, Hub, Repository};
use server::{COMMIT, Fault, Server};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What there is of the tiny llama, and is needed.
const NEEDED: [&str; 5] =
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

fn llama() -> Server {
    Server::of(&fixture("models/llama"))
}

/// The hub of these variables, with a cache in `home`, that is not patient.
fn hub(server: &Server, home: &Path, vars: &[(&str, &str)]) -> Hub {
    // As users write it, with a slash at the end.
    let url = format!("{}/", server.url);
    let set = [&[("HF_ENDPOINT", url.as_str()), ("HF_HOME", home.to_str().unwrap())], vars].concat();
    let var = |name: &str| set.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
    Hub { backoff: Duration::from_millis(5), ..Hub::from_vars(var).unwrap() }
}

fn at(revision: &str) -> Repository {
    Repository::new("org/name", Some(revision), Files::Model).unwrap()
}

/// Fetches, and what was told but the counts of bytes.
fn fetch(hub: &Hub, repository: &Repository) -> (metal_candle::Result<PathBuf>, Vec<String>) {
    let mut told = Vec::new();
    let result = hub.fetch(repository, |event| {
        match event {
            Event::Bytes(_) => {}
            Event::Retry { error, .. } => told.push(format!("again: {error}")),
            Event::Cached(error) => told.push(format!("cached: {error}")),
            other => told.push(format!("{other:?}")),
        }
        ControlFlow::Continue(())
    });
    (result, told)
}

fn got(hub: &Hub) -> PathBuf {
    fetch(hub, &at("main")).0.unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn same(snapshot: &Path, server: &Server, name: &str) {
    assert!(std::fs::read(snapshot.join(name)).unwrap() == server.file(name).bytes, "{name} differs");
}

#[test]
fn a_snapshot_has_the_needed_files_laid_out_as_pythons() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    let hub = hub(&server, home.path(), &[]);
    let (snapshot, told) = fetch(&hub, &at("main"));
    let snapshot = snapshot.unwrap();
    let folder = home.path().join("hub/models--org--name");
    assert_eq!(snapshot, folder.join("snapshots").join(COMMIT));
    assert_eq!(names(&snapshot), NEEDED);
    assert_eq!(std::fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let etags: BTreeSet<String> = NEEDED.iter().map(|name| server.file(name).etag).collect();
    assert_eq!(names(&folder.join("blobs")), Vec::from_iter(etags));
    for name in NEEDED {
        same(&snapshot, &server, name);
        #[cfg(unix)]
        assert_eq!(
            std::fs::read_link(snapshot.join(name)).unwrap(),
            Path::new("../../blobs").join(server.file(name).etag)
        );
        assert!(
            home.path()
                .join(format!("hub/.locks/models--org--name/{}.lock", server.file(name).etag))
                .is_file()
        );
        assert!(told.contains(&format!("File({name:?})")), "{told:?}");
    }
    assert!(told[0].starts_with("Begin { files: 4"), "{told:?}");
    for request in server.requests() {
        assert!(!request.headers.contains_key("authorization"), "{request:?}");
        assert!(request.headers["user-agent"].starts_with("metal-candle/"));
        for other in ["README", "pytorch_model", "gguf", "consolidated"] {
            assert!(!request.path.contains(other), "{request:?}");
        }
    }

    // Now it is known: a look at the listing, or none for a commit.
    assert_eq!(got(&hub), snapshot);
    let requests = server.requests();
    assert!(requests.len() == 1 && requests[0].path.starts_with("/api/"), "{requests:?}");
    assert_eq!(fetch(&hub, &at(COMMIT)).0.unwrap(), snapshot);
    assert_eq!(hub.cached(&at("main")).unwrap(), snapshot);
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    server.guard("hf_secret");
    let hub = hub(&server, home.path(), &[("HF_TOKEN", "hf_secret")]);
    // The repository's old name: redirects within the hub keep the token.
    let old = Repository::new("org/old", None, Files::Model).unwrap();
    let snapshot = fetch(&hub, &old).0.unwrap();
    same(&snapshot, &server, "model.safetensors");
    let requests = server.requests();
    assert!(requests.iter().any(|request| request.stored));
    assert!(requests.iter().any(|request| request.path.starts_with("/org/name/resolve/")));
    for request in requests {
        let token = request.headers.get("authorization").map(String::as_str);
        assert_eq!(token, (!request.stored).then_some("Bearer hf_secret"), "{request:?}");
    }
}

#[test]
fn a_cut_download_goes_on_where_it_was() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    let size = server.file("model.safetensors").bytes.len();
    server.fault("/storage/", Fault::Cut(100_000), 1).fault("/storage/", Fault::Cut(30_000), 1);
    server.fault("tokenizer.json", Fault::Cut(1000), 1);
    let (snapshot, told) = fetch(&hub(&server, home.path(), &[]), &at("main"));
    let snapshot = snapshot.unwrap();
    NEEDED.iter().for_each(|name| same(&snapshot, &server, name));
    assert_eq!(told.iter().filter(|event| event.starts_with("again: ")).count(), 3, "{told:?}");
    // No byte came twice.
    assert_eq!(server.sent("model.safetensors"), size);
    assert_eq!(server.sent("tokenizer.json"), server.file("tokenizer.json").bytes.len());
    let ranges: Vec<_> = server.requests().into_iter().filter(|request| request.stored).collect();
    let ranges: Vec<_> =
        ranges.iter().map(|request| request.headers.get("range").map(String::as_str)).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-"), Some("bytes=130000-")]);
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    server.fault("/storage/", Fault::Cut(100_000), 1).fault("/storage/", Fault::NoRange, 1);
    same(&got(&hub(&server, home.path(), &[])), &server, "model.safetensors");
}

#[test]
fn a_stopped_download_goes_on_in_the_next_run() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    server.fault("/storage/", Fault::Slow, 1);
    let hub = hub(&server, home.path(), &[]);
    let mut weights = false;
    let stopped = hub.fetch(&at("main"), |event| {
        weights |= matches!(event, Event::Begin { files: 1, .. });
        match event {
            Event::Bytes(20_000..) if weights => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(matches!(stopped, Err(Error::Stopped { .. })), "{stopped:?}");
    let blobs = home.path().join("hub/models--org--name/blobs");
    let part = blobs.join(format!("{}.incomplete", server.file("model.safetensors").etag));
    let here = std::fs::metadata(&part).unwrap().len();
    assert!(here >= 20_000, "{here}");
    let error = hub.cached(&at("main")).unwrap_err().to_string();
    assert!(error.contains("no such directory"), "{error}");
    let commit = Repository::new("org/name", Some(COMMIT), Files::Model).unwrap();
    let error = hub.cached(&commit).unwrap_err().to_string();
    assert!(error.contains("incomplete") && error.contains("without model.safetensors"), "{error}");

    server.requests();
    let snapshot = got(&hub);
    same(&snapshot, &server, "model.safetensors");
    let request = server.requests().into_iter().find(|request| request.stored).unwrap();
    assert_eq!(request.headers["range"], format!("bytes={here}-"));
    assert!(!part.exists());
}

#[test]
fn a_new_commit_brings_what_changed() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    let hub = hub(&server, home.path(), &[]);
    let old = got(&hub);
    let commit = "a".repeat(40);
    server.add("generation_config.json", r#"{"temperature": 0.5}"#).commit(&commit).requests();
    let new = got(&hub);
    assert_eq!(new.file_name().unwrap(), commit.as_str());
    NEEDED.iter().for_each(|name| same(&new, &server, name));
    assert_eq!(server.sent("model.safetensors") + server.sent("tokenizer.json"), 0);
    assert_ne!(std::fs::read(old.join(NEEDED[1])).unwrap(), std::fs::read(new.join(NEEDED[1])).unwrap());
    for revision in ["v1.0", "refs/pr/1"] {
        assert_eq!(fetch(&hub, &at(revision)).0.unwrap(), new);
        let noted = home.path().join("hub/models--org--name/refs").join(revision);
        assert_eq!(std::fs::read_to_string(noted).unwrap(), commit);
    }
}

#[test]
fn shards_are_those_of_the_index() {
    let (server, home) = (Server::of(&fixture("models/llama2")), tempfile::tempdir().unwrap());
    server.add("model-00003-of-00003.safetensors", "not in the index");
    let snapshot = got(&hub(&server, home.path(), &[]));
    let shards: Vec<_> = names(&snapshot).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
    assert_eq!(shards, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    server.remove("model-00002-of-00002.safetensors");
    let other = tempfile::tempdir().unwrap();
    let error = fetch(&hub(&server, other.path(), &[]), &at("main")).0.unwrap_err().to_string();
    assert_eq!(error, "org/name: model-00002-of-00002.safetensors: no such file in revision main");
}

#[test]
fn an_adapter_comes_with_its_own_files_only() {
    let (server, home) = (Server::of(&fixture("models/llama/adapter")), tempfile::tempdir().unwrap());
    server.add("optimizer.pt", "x").add("tokenizer.json", "{}");
    let adapter = Repository::new("org/name", None, Files::Adapter).unwrap();
    let snapshot = fetch(&hub(&server, home.path(), &[]), &adapter).0.unwrap();
    assert_eq!(names(&snapshot), ["adapter_config.json", "adapter_model.safetensors"]);
    metal_candle::load::adapter::read(&snapshot).unwrap();
    let error = fetch(&hub(&server, home.path(), &[]), &at("main")).0.unwrap_err().to_string();
    assert!(error.contains("got an adapter"), "{error}");
}
