//! train.

pub mod data;
pub mod metrics;
pub mod report;
pub mod schedule;
