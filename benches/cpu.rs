//! The worker with the allocator of the `metal-candle` binary.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod worker;

fn main() -> candle_core::Result<()> {
    worker::main(candle_core::Device::Cpu)
}
