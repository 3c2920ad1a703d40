//! All integration tests in one binary: one link.

mod adapters;
mod cli;
mod extremes;
mod fuzz;
#[cfg(feature = "hub")]
mod hub;
mod interchange;
mod layers;
mod matmul;
mod memory;
mod models;
#[cfg(feature = "metal")]
mod mps;
mod ops;
mod packing;
mod soak;
mod train;

/// A file of `tests/fixtures`.
fn fixture(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Where ops run: `METAL_CANDLE_TEST_DEVICE`, a name as `--device` takes it, or the CPU.
fn device() -> candle_core::Device {
    static DEVICE: std::sync::LazyLock<candle_core::Device> = std::sync::LazyLock::new(|| {
        let name = std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into());
        metal_candle::device::named(&name).unwrap_or_else(|e| panic!("METAL_CANDLE_TEST_DEVICE: {e}"))
    });
    DEVICE.clone()
}
