#!/usr/bin/env bash
# What a Mac's build would refuse, found on Debian: the crate with its Metal code is checked and linted for
# aarch64-apple-darwin, and every shader is read by the rules of Apple's compiler (`softmetal check`). Nothing of it runs.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
needs() { [ -e "$1" ] || packages+=("$2"); }
needs /usr/bin/rustc rustc-web
needs /usr/bin/cargo cargo-web
needs /usr/bin/clippy-driver rust-web-clippy
needs /usr/lib/rustlib/src/rust/library/Cargo.lock rust-web-src
needs /usr/bin/clang++-19 clang-19
if [ ${#packages[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

# Debian's compiler comes with the source of the standard library, which is built for the Mac as a dependency. A check
# needs no machine code: nothing is optimised, and the C of two dependencies is not compiled.
(
    export PATH=/usr/bin:$PATH RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target/metal
    export SDKROOT=/ MACOSX_DEPLOYMENT_TARGET=14.0
    export CC_aarch64_apple_darwin=/usr/bin/true AR_aarch64_apple_darwin=/usr/bin/true
    check=(/usr/bin/cargo clippy -Zbuild-std=std,panic_abort --target aarch64-apple-darwin
        --config profile.dev.opt-level=0 --config 'profile.dev.package."*".opt-level=0' --config profile.dev.debug=0)
    "${check[@]}" --features metal -- -D warnings
    "${check[@]}" --lib --no-default-features --features metal -- -D warnings
)

# The texts that Metal compiles, as tests come by them whose kernels run as C++ here; then clang reads them.
shaders=${METAL_CANDLE_SHADERS:-$(mktemp -d)}
[ -n "${METAL_CANDLE_SHADERS:-}" ] || trap 'rm -rf "$shaders"' EXIT
export METAL_CANDLE_SHADERS=$shaders
test=(cargo test --release --features host)
METAL_CANDLE_KERNELS=host "${test[@]}" --test it -- ops:: extremes::packed extremes::a_fully
# A choice on the GPU also sends the next pass on its way before the host knows it.
METAL_CANDLE_KERNELS=host "${test[@]}" --lib -- kernels:: ops:: generate::sampler train::optim \
    engine::tests::text engine::tests::a_stop engine::tests::prompts engine::tests::the_callback conversation::
# Headers that are parts of others are left out.
for shader in src/ops/*.h src/kernels/*.h; do
    case $shader in
    *.cuda.h | */cuda.h | */host.h | */metal.h | */group.h | */gate.h | */matrix.metal.h) ;;
    *) compgen -G "$shaders/$(basename "$shader")-*" >/dev/null || { echo "$shader: no test compiles it" && exit 1; } ;;
    esac
done
cargo run --release --quiet -p softmetal -- check --dialect "$shaders"/*.metal
echo "$(ls "$shaders"/*.metal | wc -l) shaders are in order"
