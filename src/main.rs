//! The `metal-candle` command.

mod allocator;

fn main() -> std::process::ExitCode {
    allocator::keep_freed_memory();
    metal_candle::cli::main()
}
