//! `metal-candle chat` on a terminal.

use super::{Place, embedded};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A process on a terminal of its own, and all that it has shown.
struct Terminal {
    child: Child,
    keys: File,
    shown: Arc<Mutex<Vec<u8>>>,
    /// How much of it was waited for.
    seen: usize,
}

impl Terminal {
    fn start(place: &Place, line: &str) -> Self {
        let (mut main, mut side) = (0, 0);
        let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the pointers are to live variables; a name and terminal modes are not asked for.
        let made =
            unsafe { libc::openpty(&mut main, &mut side, std::ptr::null_mut(), std::ptr::null(), &size) };
        assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: openpty has made them, and nothing else owns them.
        let (main, side) = unsafe { (File::from_raw_fd(main), OwnedFd::from_raw_fd(side)) };
        let terminal = side.as_raw_fd();
        let mut command = Command::new(env!("CARGO_BIN_EXE_metal-candle"));
        command
            .args(line.split_whitespace())
            .current_dir(place.0.path())
            .env("TERM", "xterm")
            .env("XDG_STATE_HOME", place.path("state"))
            .env_remove("NO_COLOR")
            .stdin(side.try_clone().unwrap())
            .stdout(side.try_clone().unwrap())
            .stderr(side.try_clone().unwrap());
        // SAFETY: both calls may be made between fork and exec; the descriptor is open until exec.
        unsafe {
            command.pre_exec(move || {
                match libc::setsid() >= 0 && libc::ioctl(terminal, libc::TIOCSCTTY, 0) == 0 {
                    true => Ok(()),
                    false => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = command.spawn().unwrap();
        drop((command, side));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, copy) = (main.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The read fails when the process has gone.
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                copy.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        Terminal { child, keys: main, shown, seen: 0 }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for words after those that were waited for before.
    fn wait_for(&mut self, words: &str) {
        let since = Instant::now();
        loop {
            let shown = self.shown.lock().unwrap()[self.seen..].to_vec();
            if let Some(at) = shown.windows(words.len()).position(|part| part == words.as_bytes()) {
                self.seen += at + words.len();
                return;
            }
            let shown = String::from_utf8_lossy(&shown);
            assert!(since.elapsed() < Duration::from_secs(60), "{words:?} is not in {shown:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn status(mut self) -> Option<i32> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            if since.elapsed() > Duration::from_secs(30) {
                self.child.kill().unwrap();
                panic!("still there: {:?}", String::from_utf8_lossy(&self.shown.lock().unwrap()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const PROMPT: &str = "\x1b[1m> \x1b[0m";

#[test]
fn lines_are_edited_completed_and_remembered() {
    let place = Place::new();
    let line = format!("chat --model {} --temp 0", embedded());
    let mut chat = Terminal::start(&place, &line);
    chat.wait_for("/help lists the commands");
    chat.wait_for(PROMPT);
    // Typed wrong, and mended: to the beginning of the line, over a word, back to its end.
    chat.press("are yuo\x7f\x7fou?\x01Who \r");
    chat.wait_for("My name is Candle");
    chat.wait_for(PROMPT);
    // Tab completes a command; the arrow brings the question back.
    chat.press("/tok\t\r");
    chat.wait_for("of 512 tokens");
    chat.wait_for(PROMPT);
    chat.press("\x1b[A\x1b[A\r");
    chat.wait_for("My name is Candle");
    chat.wait_for(PROMPT);
    // Ctrl-C drops what was typed and nothing else; a backslash goes on in the next line.
    chat.press("nonsense\x03");
    chat.wait_for("Ctrl-D or /exit ends the chat");
    chat.wait_for(PROMPT);
    chat.press("/save \\\ra.json\r");
    chat.wait_for("Saved 4 messages to a.json");
    chat.wait_for(PROMPT);
    chat.press("\x04");
    assert_eq!(chat.status(), Some(0));

    let mut chat = Terminal::start(&place, &line);
    chat.wait_for(PROMPT);
    chat.press("\x1b[A\x1b[A\x1b[A\r");
    chat.wait_for("My name is Candle");
    chat.wait_for(PROMPT);
    chat.press("/exit\r");
    assert_eq!(chat.status(), Some(0));
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_chat() {
    let place = Place::new();
    place.model("llama");
    // An answer that does not end by itself: no token ends it, and there is room.
    for name in ["config.json", "generation_config.json", "tokenizer_config.json"] {
        let text = std::fs::read_to_string(place.path("model").join(name)).unwrap();
        let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        config.retain(|key, _| !key.starts_with("eos_token"));
        if name == "config.json" {
            config.insert("max_position_embeddings".into(), 200_000.into());
        }
        place.write(&format!("model/{name}"), serde_json::to_string(&config).unwrap());
    }
    let mut chat = Terminal::start(&place, "chat --model model --temp 1.5 --seed 3");
    chat.wait_for(PROMPT);
    for _ in 0..2 {
        chat.press("hello\r");
        chat.wait_for("hello");
        chat.wait_for("\r\n");
        let (before, since) = (chat.shown.lock().unwrap().len(), Instant::now());
        while chat.shown.lock().unwrap().len() < before + 20 {
            assert!(since.elapsed() < Duration::from_secs(60), "no answer");
            std::thread::sleep(Duration::from_millis(2));
        }
        chat.press("\x03");
        chat.wait_for("stopping; once more ends the chat");
        chat.wait_for("Stopped");
        chat.wait_for(PROMPT);
    }
    chat.press("/tokens\r");
    chat.wait_for("of 200000 tokens; turns 2");
    chat.wait_for(PROMPT);
    chat.press("\x04");
    assert_eq!(chat.status(), Some(0));
}
