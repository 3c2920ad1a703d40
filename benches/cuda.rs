//! The worker on an NVIDIA GPU.

#[path = "../src/allocator.rs"]
mod allocator;
mod worker;

fn main() -> candle_core::Result<()> {
    allocator::keep_freed_memory();
    // Candle's ops, too, have what this crate does for a GPU: one stream, no events, and a pool that keeps its memory.
    worker::main(metal_candle::device::cuda(0)?)
}
