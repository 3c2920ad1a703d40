//! train.

pub mod data;
pub mod metrics;
pub mod report;
pub mod schedule;
pub mod optim;
pub mod step;
