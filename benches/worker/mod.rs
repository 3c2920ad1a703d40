//! The Rust worker of the benchmark: this crate's ops, Candle's own beside them, and whole jobs.

mod attention;
mod cases;
#[cfg(feature = "cuda")]
mod cuda;
mod jobs;
mod measure;
mod ops;
mod protocol;
mod steps;

use candle_core::{Device, Result};

/// Answers the driver's requests on a device.
pub fn main(device: Device) -> Result<()> {
    use std::io::IsTerminal;
    if std::io::stdin().is_terminal() {
        println!("This is a worker of benches/peers/run.py, which see.");
        return Ok(());
    }
    let mut cases = cases::Cases::new(device);
    let mut jobs = jobs::Jobs::default();
    protocol::serve(|request| match request["job"].as_str() {
        Some(_) => jobs.answer(request),
        None => cases.answer(request, ops::build),
    })
}
