//! The worker with the system's allocator: what a program has that chooses none.

mod worker;

fn main() -> candle_core::Result<()> {
    worker::main(candle_core::Device::Cpu)
}
