//! The worker with the allocator of the `metal-candle` binary.

#[path = "../src/allocator.rs"]
mod allocator;
mod worker;

fn main() -> candle_core::Result<()> {
    allocator::keep_freed_memory();
    worker::main(candle_core::Device::Cpu)
}
