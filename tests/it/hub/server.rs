//! A hub on this machine: the listing, `resolve` with its headers, a second host for large files, and faults.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The commit that `main` is.
pub const COMMIT: &str = "5f0e9b4c7a6d3f21e8b9c0d1a2f3e4d5c6b7a809";

/// A file of the repository.
#[derive(Clone)]
pub struct File {
    pub bytes: Vec<u8>,
    pub etag: String,
    /// Stored elsewhere, as large files are.
    pub large: bool,
}

/// What the hub does instead of what it should.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The answer to any request whose address contains the text: a status, and headers.
    Status(u16, &'static str),
    /// The connection is cut after this many bytes of the file.
    Cut(usize),
    /// This many bytes of the file, and it ends as if that were all.
    Truncated(usize),
    /// A file that is longer, and says so.
    Longer(usize),
    /// Other bytes, as many.
    Damaged,
    /// A part was asked for; the whole file comes.
    NoRange,
    /// Bytes come slowly.
    Slow,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// Bytes of a file that were sent for it.
    pub sent: usize,
    /// Whether it went to the host of large files.
    pub stored: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, File>,
    /// What part of an address a fault is for, the fault, and how many times it happens.
    faults: Vec<(String, Fault, usize)>,
    requests: Vec<Request>,
    storage: String,
    /// The token without which nothing is given.
    token: Option<String>,
    /// What `main` is.
    commit: String,
}

/// The hub; it ends with the test's process.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// A hub whose one repository, `org/name`, has the files of a directory. Tensors are stored elsewhere.
    pub fn of(directory: &Path) -> Self {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
            if entry.path().is_file() && entry.file_name() != "golden.safetensors" {
                let name = entry.file_name().into_string().unwrap();
                files.insert(name.clone(), file(&name, std::fs::read(entry.path()).unwrap()));
            }
        }
        // What no one needs.
        for name in ["README.md", "pytorch_model.bin", "model.gguf", "consolidated.safetensors"] {
            files.insert(name.to_string(), file(name, vec![7; 999]));
        }
        let state = State { files, commit: COMMIT.to_string(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let storage = serve(state.clone(), true);
        state.lock().unwrap().storage = storage;
        Server { url: serve(state.clone(), false), state }
    }

    pub fn add(&self, name: &str, bytes: impl Into<Vec<u8>>) -> &Self {
        self.state.lock().unwrap().files.insert(name.to_string(), file(name, bytes.into()));
        self
    }

    pub fn remove(&self, name: &str) -> &Self {
        self.state.lock().unwrap().files.remove(name);
        self
    }

    pub fn file(&self, name: &str) -> File {
        self.state.lock().unwrap().files[name].clone()
    }

    /// Lets a fault happen so many times where an address contains the text.
    pub fn fault(&self, part: &str, fault: Fault, times: usize) -> &Self {
        self.state.lock().unwrap().faults.push((part.to_string(), fault, times));
        self
    }

    /// All is well from now on.
    pub fn fault_free(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    pub fn guard(&self, token: &str) -> &Self {
        self.state.lock().unwrap().token = Some(token.to_string());
        self
    }

    pub fn commit(&self, commit: &str) -> &Self {
        self.state.lock().unwrap().commit = commit.to_string();
        self
    }

    /// The requests until now, which are forgotten.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// Bytes of a file that were sent until now.
    pub fn sent(&self, name: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.requests.iter().filter(|request| request.path.ends_with(name)).map(|request| request.sent).sum()
    }
}

fn file(name: &str, bytes: Vec<u8>) -> File {
    let large = name.ends_with(".safetensors");
    // Of a large file the ETag is the SHA-256, of others git's SHA-1; here any 40 digits that differ will do.
    let sum =
        bytes.iter().fold(name.len() as u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte as u64));
    let etag = if large { sha256(&bytes) } else { format!("{sum:040x}") };
    File { bytes, etag, large }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serve(state: Arc<Mutex<State>>, storage: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            // A client that goes away in the middle ends its own thread only.
            std::thread::spawn(move || answer(stream, &state, storage).ok());
        }
    });
    url
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, storage: bool) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_string);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_string());
    }
    let request = Request { method, path, headers, sent: 0, stored: storage };
    let (id, fault, reply) = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        let found = state.faults.iter_mut().find(|(part, fault, times)| {
            // What is wrong with content is wrong where the content is.
            let content = !matches!(fault, Fault::Status(..));
            *times > 0 && request.path.contains(part.as_str()) && (!content || request.method == "GET")
        });
        let fault = found.map(|(_, fault, times)| {
            *times -= 1;
            fault.clone()
        });
        (state.requests.len() - 1, fault.clone(), reply(&request, &state, fault.as_ref()))
    };
    let Reply { mut head, body } = reply;
    head += "Connection: close\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let body = match fault {
        Some(Fault::Cut(n) | Fault::Truncated(n)) => &body[..n.min(body.len())],
        _ => &body[..],
    };
    for chunk in body.chunks(if matches!(fault, Some(Fault::Slow)) { 2000 } else { 1 << 20 }) {
        stream.write_all(chunk)?;
        let mut state = state.lock().unwrap();
        // The list may have been taken in between.
        if let Some(request) = state.requests.get_mut(id).filter(|_| storage || reply_is_file(&request.path))
        {
            request.sent += chunk.len();
        }
        drop(state);
        if matches!(fault, Some(Fault::Slow)) {
            std::thread::sleep(Duration::from_millis(30));
        }
    }
    Ok(())
}

fn reply_is_file(path: &str) -> bool {
    path.contains("/resolve/")
}

struct Reply {
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, headers: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let length = if headers.contains("Content-Length") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        Reply { head: format!("HTTP/1.1 {status} X\r\n{length}{headers}"), body }
    }
}

fn reply(request: &Request, state: &State, fault: Option<&Fault>) -> Reply {
    if let Some(Fault::Status(status, headers)) = fault {
        return Reply::new(*status, headers, "");
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let authorized = request.headers.get("authorization");
    if request.stored {
        let name = path.trim_start_matches("/storage/");
        // A signed address refuses a second kind of authorization.
        return match state.files.get(name) {
            Some(_) if authorized.is_some() => Reply::new(400, "", "two authorizations"),
            Some(file) => content(file, request, fault),
            None => Reply::new(404, "", ""),
        };
    }
    if state.token.as_ref().is_some_and(|token| authorized != Some(&format!("Bearer {token}"))) {
        return Reply::new(401, "X-Error-Code: RepoNotFound\r\n", "");
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/name/revision/") {
        if !["main", "v1.0", "refs%2Fpr%2F1", &state.commit].contains(&revision) {
            return Reply::new(404, "X-Error-Code: RevisionNotFound\r\n", "");
        }
        let siblings: Vec<_> = state
            .files
            .iter()
            .map(|(name, file)| serde_json::json!({"rfilename": name, "size": file.bytes.len()}))
            .collect();
        let listing = serde_json::json!({"id": "org/name", "sha": state.commit, "siblings": siblings});
        return Reply::new(200, "", listing.to_string());
    }
    let file = path.strip_prefix("/org/name/resolve/").and_then(|path| path.split_once('/'));
    // A name that is the repository's old one leads to the new one, on the same host.
    if let Some(rest) = path.strip_prefix("/org/old/resolve/") {
        return Reply::new(307, &format!("Location: /org/name/resolve/{rest}\r\n"), "");
    }
    if let Some(rest) = request.path.strip_prefix("/api/models/org/old/") {
        return Reply::new(307, &format!("Location: /api/models/org/name/{rest}\r\n"), "");
    }
    match file.map(|(_, name)| (name, state.files.get(name))) {
        Some((name, Some(file))) if file.large => Reply::new(
            302,
            &format!(
                "Location: {}/storage/{name}\r\nX-Repo-Commit: {}\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\nETag: \"other\"\r\n",
                state.storage,
                state.commit,
                file.etag,
                file.bytes.len()
            ),
            "",
        ),
        Some((_, Some(file))) => {
            let mut reply = content(file, request, fault);
            reply.head += &format!("X-Repo-Commit: {}\r\nETag: \"{}\"\r\n", state.commit, file.etag);
            reply
        }
        Some((_, None)) => Reply::new(404, "X-Error-Code: EntryNotFound\r\n", ""),
        None => Reply::new(401, "X-Error-Code: RepoNotFound\r\n", ""),
    }
}

fn content(file: &File, request: &Request, fault: Option<&Fault>) -> Reply {
    let mut bytes = file.bytes.clone();
    match fault {
        Some(Fault::Longer(n)) => bytes.extend(vec![0; *n]),
        Some(Fault::Damaged) => bytes.iter_mut().for_each(|byte| *byte ^= 1),
        _ => {}
    }
    let total = bytes.len();
    let from = request
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let from = from.filter(|_| !matches!(fault, Some(Fault::NoRange)));
    match (from, fault) {
        // Without a length the end of the connection is the end of the file.
        (None, Some(Fault::Truncated(_))) => {
            let mut reply = Reply::new(200, "", bytes);
            reply.head = "HTTP/1.1 200 OK\r\n".to_string();
            reply
        }
        (None, _) => Reply::new(200, "Accept-Ranges: bytes\r\n", bytes),
        (Some(from), _) if from >= total => {
            Reply::new(416, &format!("Content-Range: bytes */{total}\r\n"), "")
        }
        (Some(from), _) => {
            let range = format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
            Reply::new(206, &range, &bytes[from..])
        }
    }
}
