//! Training: data, the step's loss and gradients, the optimiser, the loop, and what a run leaves behind.

pub mod checkpoint;
pub mod data;
pub mod fingerprint;
pub mod lock;
pub mod memory;
pub mod metrics;
pub mod optim;
pub mod progress;
#[cfg(feature = "cuda")]
mod replay;
pub mod report;
pub mod resume;
mod run;
pub mod run_dir;
pub mod schedule;
pub mod step;
pub mod trainer;
