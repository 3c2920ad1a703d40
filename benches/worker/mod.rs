//! The Rust worker of the benchmark: this crate's ops, Candle's own beside them, and whole jobs.

mod jobs;
mod ops;
mod protocol;

/// Answers the driver's requests.
pub fn main() -> candle_core::Result<()> {
    use std::io::IsTerminal;
    if std::io::stdin().is_terminal() {
        println!("This is a worker of benches/peers/run.py, which see.");
        return Ok(());
    }
    let mut cases = protocol::Cases::default();
    let mut jobs = jobs::Jobs::default();
    protocol::serve(|request| match request["job"].as_str() {
        Some(_) => jobs.answer(request),
        None => cases.answer(request, ops::build),
    })
}
