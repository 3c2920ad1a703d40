//! The worker on an NVIDIA GPU.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod worker;

fn main() -> candle_core::Result<()> {
    // Candle's ops, too, have what this crate does for a GPU: one stream, no events, and a pool that keeps its memory.
    worker::main(metal_candle::device::cuda(0)?)
}
