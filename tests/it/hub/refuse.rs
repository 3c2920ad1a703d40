//! What can go wrong, and what is said of it.

use super::server::{COMMIT, Fault};
use super::*;

/// The one line of a fetch that must fail.
fn refused(hub: &Hub, repository: &Repository) -> String {
    let error = fetch(hub, repository).0.unwrap_err().to_string();
    assert!(!error.contains('\n') && error.starts_with("org/n"), "{error}");
    error
}

#[test]
fn each_refusal_says_what_to_do() {
    const GATED: &str = "X-Error-Code: GatedRepo\r\n";
    let cases: &[(&str, u16, &str, &str, &[&str])] = &[
        (
            "/api/",
            401,
            "X-Error-Code: RepoNotFound\r\n",
            "",
            &["no such directory", "no such repository", "HF_TOKEN"],
        ),
        ("/api/", 404, "", "", &["no such repository"]),
        (
            "/config.json",
            401,
            GATED,
            "",
            &["org/name: config.json: gated: accept its licence on http", "/org/name, then set HF_TOKEN"],
        ),
        ("/config.json", 403, GATED, "t", &["gated", "the token of HF_TOKEN must be of the account"]),
        (
            "/api/",
            401,
            "X-Error-Message: Invalid credentials in Authorization header\r\n",
            "t",
            &["refuses the token of HF_TOKEN"],
        ),
        (
            "/api/",
            403,
            "X-Error-Message: Access to this resource is disabled.\r\n",
            "",
            &["Access to this resource is disabled."],
        ),
        ("/api/", 403, "", "t", &["the token of HF_TOKEN may not read it"]),
        (
            "tokenizer.json",
            404,
            "X-Error-Code: EntryNotFound\r\n",
            "",
            &["org/name: tokenizer.json: no such file in revision main"],
        ),
        ("/api/", 429, "", "", &["too many requests; try again later"]),
        ("/api/", 429, "Retry-After: 4000\r\n", "", &["try again in 4000 s"]),
        (
            "model.safetensors",
            503,
            "",
            "",
            &["model.safetensors: http://127.0.0.1", "answered 503; try again later"],
        ),
        ("/api/", 418, "", "", &["answered 418"]),
        ("/api/", 302, "", "", &["wants a Location with a redirect"]),
        ("/api/", 200, "", "", &["wants a listing", "is HF_ENDPOINT a hub?"]),
        ("/config.json", 200, "", "", &["wants an ETag"]),
        ("/config.json", 200, "ETag: \"../../x\"\r\n", "", &["wants an ETag"]),
    ];
    for (part, status, headers, token, words) in cases {
        let (server, home) = (llama(), tempfile::tempdir().unwrap());
        server.fault(part, Fault::Status(*status, headers), usize::MAX);
        let error = refused(&hub(&server, home.path(), &[("HF_TOKEN", token)]), &at("main"));
        for word in *words {
            assert!(error.contains(word), "{part} {status} {headers:?}: {error}");
        }
        let tries = server.requests().iter().filter(|request| request.path.contains(part)).count();
        let passing = [429, 503].contains(status) && !headers.contains("4000");
        assert_eq!(tries, if passing { 5 } else { 1 }, "{part} {status} {headers:?}");
    }
}

#[test]
fn what_is_not_there_is_named() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    let hub = hub(&server, home.path(), &[]);
    let error = refused(&hub, &at("v9"));
    assert_eq!(
        error,
        "org/name at v9: wants a branch, tag or commit, got \"v9\", which the repository does not have"
    );
    let none = Repository::new("org/none", None, Files::Model).unwrap();
    assert!(refused(&hub, &none).starts_with("org/none: no such directory, and no such repository on http"));
    server.remove("model.safetensors").remove("consolidated.safetensors").requests();
    let error = refused(&hub, &at("main"));
    assert!(error.contains("wants model.safetensors or model.safetensors.index.json"), "{error}");
    assert!(error.ends_with("got only model.gguf, pytorch_model.bin"), "{error}");
    assert_eq!(server.requests().len(), 1);
    for revision in ["../x", "/x", "a//b", ""] {
        assert!(Repository::new("org/name", Some(revision), Files::Model).is_err(), "{revision}");
    }
}

#[test]
fn what_passes_is_tried_again() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    server.fault("/api/", Fault::Status(429, "Retry-After: 0\r\n"), 1).fault(
        "/storage/",
        Fault::Status(503, ""),
        3,
    );
    server.fault("/config.json", Fault::Status(500, "RateLimit: \"resolvers\";r=0;t=0\r\n"), 1);
    let (snapshot, told) = fetch(&hub(&server, home.path(), &[]), &at("main"));
    NEEDED.iter().for_each(|name| same(snapshot.as_ref().unwrap(), &server, name));
    assert_eq!(told.iter().filter(|event| event.starts_with("again: ")).count(), 5, "{told:?}");
    // The hub's wait is kept to.
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    server.fault("/api/", Fault::Status(429, "Retry-After: 1\r\n"), 1);
    let since = std::time::Instant::now();
    got(&hub(&server, home.path(), &[]));
    assert!(since.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_file_of_the_wrong_size_or_content_is_no_blob() {
    let size = llama().file("model.safetensors").bytes.len();
    let cases = [
        (Fault::Truncated(0), format!("wants {size} bytes, got 0")),
        (Fault::Truncated(1000), "the connection to http://127.0.0.1".to_string()),
        (Fault::Longer(10), format!("wants {size} bytes, got {}", size + 10)),
        (Fault::Damaged, "wants content of SHA-256".to_string()),
        (Fault::Cut(0), "the connection to http://127.0.0.1".to_string()),
    ];
    for (fault, words) in cases {
        let (server, home) = (llama(), tempfile::tempdir().unwrap());
        server.fault("/storage/", fault.clone(), 1);
        if matches!(fault, Fault::Truncated(_) | Fault::Cut(_)) {
            // What is tried again does no better.
            let again = if matches!(fault, Fault::Truncated(1..)) { Fault::Cut(0) } else { fault.clone() };
            server.fault("/storage/", again, usize::MAX);
        }
        let hub = hub(&server, home.path(), &[]);
        let error = refused(&hub, &at("main"));
        assert!(error.contains(&words), "{fault:?}: {error}");
        let folder = home.path().join("hub/models--org--name");
        assert!(!folder.join("blobs").join(server.file("model.safetensors").etag).exists());
        assert!(!folder.join("refs/main").exists());
        // The fault gone, the next run makes it whole.
        server.fault_free();
        same(&got(&hub), &server, "model.safetensors");
    }
}

#[test]
fn a_damaged_part_of_an_earlier_run_is_not_trusted() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    let hub = hub(&server, home.path(), &[]);
    let blobs = home.path().join("hub/models--org--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", server.file("model.safetensors").etag));
    std::fs::write(&part, vec![0; 5000]).unwrap();
    assert!(refused(&hub, &at("main")).contains("SHA-256"));
    assert!(!part.exists());
    // More than the whole file.
    std::fs::write(&part, vec![0; 500_000]).unwrap();
    same(&got(&hub), &server, "model.safetensors");
}

#[test]
fn a_truncated_file_of_the_cache_is_replaced() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    let hub = hub(&server, home.path(), &[]);
    let snapshot = got(&hub);
    let blob = snapshot.join("model.safetensors").canonicalize().unwrap();
    std::fs::OpenOptions::new().write(true).open(&blob).unwrap().set_len(1000).unwrap();
    same(&got(&hub), &server, "model.safetensors");
    // A link whose blob is gone.
    std::fs::remove_file(&blob).unwrap();
    same(&got(&hub), &server, "model.safetensors");
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    let offline = hub(&server, home.path(), &[("HF_HUB_OFFLINE", "1")]);
    let error = refused(&offline, &at("main"));
    let words =
        ["no such directory, and nothing of that name in the cache", "HF_HUB_OFFLINE is set: unset it"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    let snapshot = got(&hub(&server, home.path(), &[]));
    server.requests();
    let transformers = hub(&server, home.path(), &[("TRANSFORMERS_OFFLINE", "true")]);
    for revision in ["main", COMMIT] {
        assert_eq!(fetch(&offline, &at(revision)).0.unwrap(), snapshot);
        assert_eq!(fetch(&transformers, &at(revision)).0.unwrap(), snapshot);
    }
    assert!(refused(&offline, &at("v1.0")).contains("nothing of that name"));
    std::fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    assert!(refused(&offline, &at("main")).contains("without tokenizer.json"));
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn without_a_network_the_cache_will_do() {
    let (server, home) = (llama(), tempfile::tempdir().unwrap());
    // A port that no one listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = format!("http://127.0.0.1:{port}");
    let unreachable = hub(&server, home.path(), &[("HF_ENDPOINT", &nowhere)]);
    let error = refused(&unreachable, &at("main"));
    let words = [
        "the connection to http://127.0.0.1 failed (Connection refused",
        "no such directory, and nothing of that name",
    ];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    let snapshot = got(&hub(&server, home.path(), &[]));
    let (result, told) = fetch(&unreachable, &at("main"));
    assert_eq!(result.unwrap(), snapshot);
    assert!(told.len() == 1 && told[0].starts_with("cached: org/name: the connection to"), "{told:?}");
    // Nor does a hub that fails, or refuses a token, keep anyone from a model that is there.
    for (status, headers) in [(503, ""), (401, "X-Error-Code: RepoNotFound\r\n"), (429, "")] {
        server.fault("/api/", Fault::Status(status, headers), 1).requests();
        let (result, told) = fetch(&hub(&server, home.path(), &[]), &at("main"));
        assert_eq!(result.unwrap(), snapshot);
        assert!(told.len() == 1 && told[0].starts_with("cached: "), "{told:?}");
        assert_eq!(server.requests().len(), 1);
    }
    // A hub that accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let vars = [("HF_ENDPOINT", address.as_str()), ("HF_HUB_ETAG_TIMEOUT", "1")];
    let since = std::time::Instant::now();
    assert_eq!(fetch(&hub(&server, home.path(), &vars), &at("main")).0.unwrap(), snapshot);
    assert!(since.elapsed() < Duration::from_secs(5));
}
