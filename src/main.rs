//! The `metal-candle` command.

/// Candle allocates each result anew; this allocator keeps pages that the system's would fault in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    metal_candle::cli::main()
}
