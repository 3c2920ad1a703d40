//! The worker on an NVIDIA GPU.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod worker;

fn main() -> candle_core::Result<()> {
    worker::main(worker::cuda::device()?)
}
