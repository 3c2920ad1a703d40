#!/usr/bin/env bash
# Metal code on a machine without Metal: it runs on softmetal's software device, under its checker.
#
#   scripts/softmetal.sh [all]     softmetal's own tests, candle's tests of its Metal backend, and this crate's tests
#   scripts/softmetal.sh quick     what CI runs: softmetal's own tests, and this crate's kernels
#   scripts/softmetal.sh PART...   of softmetal, candle, kernels, crate
#
# What a test asks of the device is checked as it runs; a report is a failure (its exit status is 86).
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }

# The runtime library has the conversions to and from bfloat.
if ! command -v clang++-19 >/dev/null || [ ! -e "$(clang++-19 --rtlib=compiler-rt -print-libgcc-file-name)" ]; then
    step install clang
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends clang-19 libclang-rt-19-dev >/dev/null
fi

target=${CARGO_TARGET_DIR:-$PWD/target}
softmetal=$target/release/softmetal
step build softmetal
cargo build --release -p softmetal

# Its own tests: of its parts, of the command on a project that knows nothing of it, and of the device, by messages.
test_softmetal() {
    step "softmetal's own tests"
    # One reads candle's shaders, of which no build here has need.
    cargo fetch --locked
    CI=${CI:-true} cargo test --release -p softmetal
    "$softmetal" cargo test --manifest-path softmetal/device-tests/Cargo.toml
}

# Candle's tests, from the published crates: softmetal/candle has what fails and what is reported, and why.
test_candle() {
    step "candle's tests of its Metal backend"
    SOFTMETAL=$softmetal softmetal/candle/run.sh
}

# This crate with `Device::new_metal(0)`, its test `it` or `lib`. Candle's products on the CPU are what tests compare with:
# they are optimised.
on_metal() {
    local target=(--test it)
    [ "$1" = it ] || target=(--lib)
    METAL_CANDLE_TEST_DEVICE=metal SOFTMETAL_ALLOW=$PWD/softmetal/candle/known-reports.txt "$softmetal" cargo test \
        --features metal "${target[@]}" --config profile.softmetal.package.gemm.opt-level=3 -- "${@:2}"
}

# Values and gradients of every op, in one dtype; a LoRA on the fixtures' models; products on every backend.
test_kernels() {
    step "this crate's kernels on Metal"
    on_metal it mps:: matmul:: cli::bench::an_apple_gpu ops::fused_ops_match_their_references_in_bf16 train::ten_lora_losses
}

# Everything of this crate that runs on a device, but for a test of 120 million logits.
test_crate() {
    step "this crate's tests on Metal"
    on_metal lib matmul::mps
    on_metal it mps:: matmul:: cli::bench::an_apple_gpu
    on_metal it ops:: extremes:: models:: train:: packing:: --skip cli:: --skip linear_cross_entropy_in_parts
    # Layers by MPS, too.
    METAL_CANDLE_MATMUL=mps on_metal it train::ten_lora_losses train::lora_gradients
}

case ${*:-all} in
all) parts=(softmetal candle crate) ;;
quick) parts=(softmetal kernels) ;;
*) parts=("$@") ;;
esac
for part in "${parts[@]}"; do
    case $part in
    softmetal | candle | kernels | crate) "test_$part" ;;
    *) echo "$0: wants softmetal, candle, kernels or crate, got $part" >&2 && exit 2 ;;
    esac
done
step done
