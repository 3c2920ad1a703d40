#!/usr/bin/env bash
# Metal code on a machine without Metal: it runs on softmetal's software device, under its checker.
#
#   scripts/softmetal.sh [all]     softmetal's own tests, candle's tests of its Metal backend, and this crate's tests;
#                                  at most 30 minutes, or it fails
#   scripts/softmetal.sh quick     what CI runs: softmetal's own tests, and this crate's kernels
#   scripts/softmetal.sh PART...   of softmetal, candle, kernels, crate, seeds, soak
#
# What a test asks of the device is checked as it runs; a report is a failure (its exit status is 86).
set -euo pipefail
cd "$(dirname "$0")/.."

limit=1800
took=()

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
    # One reads candle's shaders, of which no build here has need.
    cargo fetch --locked
    CI=${CI:-true} cargo test --release -p softmetal
    "$softmetal" cargo test --manifest-path softmetal/device-tests/Cargo.toml
}

# Candle's tests, from the published crates: softmetal/candle has what fails and what is reported, and why.
test_candle() {
    SOFTMETAL=$softmetal softmetal/candle/run.sh
}

# This crate with `Device::new_metal(0)`, its test `it` or `lib`. Candle's products on the CPU are what tests compare with:
# they are optimised. Accepted are reports on candle's kernels that these tests run, by their full names.
on_metal() {
    local target=(--test it)
    [ "$1" = it ] || target=(--lib)
    local run=(-- "${@:2}")
    [ "${2:-}" != --no-run ] || run=(--no-run)
    METAL_CANDLE_TEST_DEVICE=metal SOFTMETAL_ALLOW=$PWD/softmetal/candle/crate-reports.txt "$softmetal" cargo test \
        --features metal "${target[@]}" --config profile.softmetal.package.gemm.opt-level=3 "${run[@]}"
}

# Calls of `on_metal`, after what each sets of the environment, two at a time, the long ones first: the tests of a process
# share one queue, whose commands run on one core. What a call prints comes when it ends.
at_once() {
    local call logs failed=0
    logs=$(mktemp -d)
    on_metal lib --no-run
    on_metal it --no-run
    for call in "$@"; do
        while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || failed=1; done
        (
            read -ra words <<<"$call"
            while [[ ${words[0]} == *=* ]]; do
                export "${words[0]}"
                words=("${words[@]:1}")
            done
            status=0
            on_metal "${words[@]}" >"$logs/$BASHPID" 2>&1 || status=$?
            printf '\n-- %s\n' "$call"
            cat "$logs/$BASHPID"
            exit $status
        ) &
    done
    while [ -n "$(jobs -p)" ]; do wait -n || failed=1; done
    rm -r "$logs"
    return $failed
}

# Values and gradients of every op, in one dtype; a LoRA on the fixtures' models; products on every backend. A wait that
# is left out, a failure of the GPU, what MPS does not make, what a loop leaves behind.
test_kernels() {
    at_once \
        "it ops::fused_ops_match_their_references_in_bf16" \
        "it mps:: matmul:: cli::bench::an_apple_gpu train::ten_lora_losses" \
        "lib matmul::mps"
}

# Architectures that differ in what they ask of kernels: biases; GeGLU, norms of heads, windows; joined weights, LongRoPE.
few=METAL_CANDLE_TEST_MODELS=qwen2,gemma3,phi3_longrope

# Each test of this crate that runs on a device, but for one of 120 million logits, and one whose other side is the
# CPU's alone. Tests of models against transformers and PEFT run on every architecture, those against itself on a few.
test_crate() {
    at_once \
        "it ops::fused_ops_match_their_references_in_f16 ops::fused_ops_match_their_references_in_bf16" \
        "it ops:: --skip _in_f16 --skip _in_bf16" \
        "$few it train:: --skip cli:: --skip train::ten_lora_losses" \
        "$few it models:: packing:: adapters:: interchange:: --skip cli:: --skip models::logits --skip models::greedy \
            --skip models::every_variable --skip adapters::lora_logits --skip a_pass_layer_by_layer" \
        "it models::logits models::greedy models::every_variable train::ten_lora_losses adapters::lora_logits" \
        "it mps:: matmul:: cli::bench::an_apple_gpu cli::device::metal_trains extremes:: --skip linear_cross_entropy_in_parts" \
        "lib matmul:: generate::sampler train::optim ops:: kernels::casts device::" \
        "METAL_CANDLE_MATMUL=mps it train::ten_lora_losses train::lora_gradients"
}

# A million products, batches and softmaxes by MPS leave nothing behind. Ten minutes.
test_soak() {
    on_metal lib nothing_grows_in_a_million --ignored --nocapture
}

# Other orders of threads, threadgroups and dispatches than that of the part `crate`, which is seed 1's.
test_seeds() {
    at_once \
        "SOFTMETAL_SEED=2 it ops::fused_ops_match_their_references_in_bf16" \
        "SOFTMETAL_SEED=3 it ops::fused_ops_match_their_references_in_bf16"
}

case ${*:-all} in
all) parts=(softmetal candle crate seeds) ;;
quick) parts=(softmetal kernels) ;;
*) parts=("$@") ;;
esac
for part in "${parts[@]}"; do
    case $part in
    softmetal) what="softmetal's own tests" ;;
    candle) what="candle's tests of its Metal backend" ;;
    kernels) what="this crate's kernels on Metal" ;;
    crate) what="this crate's tests on Metal" ;;
    seeds) what="this crate's ops in other orders" ;;
    soak) what="a million turns of MPS" ;;
    *) echo "$0: wants softmetal, candle, kernels, crate, seeds or soak, got $part" >&2 && exit 2 ;;
    esac
    step "$what"
    since=$SECONDS
    "test_$part"
    took+=("$part $((SECONDS - since))s")
done
step done
printf '%s\n' "${took[@]}"
if [ "${*:-all}" = all ] && [ "$SECONDS" -gt "$limit" ]; then
    echo "$0: wants at most ${limit}s for all, got ${SECONDS}s" >&2
    exit 1
fi
