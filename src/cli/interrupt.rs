//! Ctrl-C and SIGTERM: the first asks a run to save and stop, the second ends the process.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit status of a run that was stopped: 128 and the number of SIGINT, as shells have it.
pub const STATUS: u8 = 130;

static PRESSED: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);
static IDLE: AtomicBool = AtomicBool::new(false);

/// Starts listening; `answer` is what the first Ctrl-C is told.
pub fn install(answer: Option<&'static str>) -> anyhow::Result<()> {
    ctrlc::set_handler(move || {
        if IDLE.load(Ordering::SeqCst) || PRESSED.swap(true, Ordering::SeqCst) {
            std::process::exit(STATUS.into());
        }
        // Said before it is acted on: what the run says of its end comes after.
        if let Some(answer) = answer {
            writeln!(std::io::stderr(), "\n{answer}").ok();
        }
        REQUESTED.store(true, Ordering::SeqCst);
    })?;
    Ok(())
}

/// Whether there is nothing to stop but the process: a program that waits for its user.
pub fn set_idle(idle: bool) {
    IDLE.store(idle, Ordering::SeqCst);
}

/// Whether the user has asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// [`requested`], as callbacks want it.
pub fn flow() -> ControlFlow<()> {
    if requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// [`requested`] as an error that ends `what`, which writes nothing before its end.
pub fn check(what: &str) -> crate::Result<()> {
    match requested() {
        true => Err(crate::Error::Stopped { what: what.to_string(), left: "nothing was written" }),
        false => Ok(()),
    }
}

/// What was asked to stop has stopped: the next Ctrl-C is a first one again.
pub fn clear() {
    PRESSED.store(false, Ordering::SeqCst);
    REQUESTED.store(false, Ordering::SeqCst);
}
