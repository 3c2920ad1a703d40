# What CI runs, and what a contributor does.

# Format, lint, docs.
check:
    cargo fmt --all --check
    cargo clippy --release --all-targets --workspace -- -D warnings
    cargo clippy --release --lib --no-default-features -- -D warnings
    cargo clippy --release --lib --no-default-features --features hub -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

# The Metal code, as far as a machine without Metal can: types, lints and the shaders' address spaces. Needs root for
# what apt has to install.
metal-check:
    scripts/metal.sh

# The Metal code on softmetal's software device, under its checker: its own tests, candle's, and this crate's. `quick` is
# CI's part; `softmetal`, `candle`, `kernels`, `crate` and `seeds` are each one.
metal part="all":
    scripts/softmetal.sh {{part}}

# The same as `metal-check`, and the CUDA code as far as a machine without CUDA can: lints, and NVRTC's view of every kernel.
gpu-check:
    mkdir -p target/shaders
    METAL_CANDLE_SHADERS=$PWD/target/shaders scripts/metal.sh
    METAL_CANDLE_SHADERS=$PWD/target/shaders scripts/nvrtc.sh

# The binary for NVIDIA GPUs, on any machine: nvcc comes from PyPI.
cuda:
    cargo fetch
    scripts/cuda.sh
    . .cuda/env.sh && cargo build --release --features cuda

# The binary for Macs with Apple silicon, on Debian. Needs root for what apt has to install.
macos:
    scripts/macos.sh

# All tests.
test:
    cargo test --release

# Our ops against their references.
bench:
    cargo run --release -- bench ops

# Against the peers from PyPI; `python` has benches/peers/requirements.txt.
peers python="python3":
    {{python}} benches/peers/run.py

# docs/benchmarks.md and the README's table, from the committed results.
report python="python3":
    {{python}} benches/peers/table.py

# The goldens, from transformers and peft; `python` has tests/fixtures/requirements.txt.
goldens python="python3":
    {{python}} tests/fixtures/make.py

# Explores a fuzz target with coverage, for a minute: safetensors, index, rows, adapter_config, model_config, tokenizer,
# chat_template, train_config. Sanitizers need a nightly compiler, or a stable one that is told it is.
fuzz name seconds="60":
    RUSTC_BOOTSTRAP=1 cargo fuzz run {{name}} -- -max_total_time={{seconds}} -rss_limit_mb=2048 -timeout=10

# Long runs in flat memory: two thousand steps, ten thousand tokens. Minutes.
soak:
    cargo test --release --test it -- --ignored --nocapture --test-threads 1 soak::

# A million turns of MPS on softmetal leave nothing behind. Ten minutes; on Debian.
soak-metal:
    scripts/softmetal.sh soak
