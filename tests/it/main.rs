//! All integration tests in one binary: one link.

mod extremes;
mod layers;
mod models;
mod ops;
