//! All integration tests in one binary: one link.

mod adapters;
mod cli;
mod extremes;
mod fuzz;
#[cfg(feature = "hub")]
mod hub;
mod interchange;
mod layers;
mod memory;
mod models;
mod ops;
mod packing;
mod soak;
mod train;

/// A file of `tests/fixtures`.
fn fixture(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
