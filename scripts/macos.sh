#!/usr/bin/env bash
# The binary for Macs with Apple silicon, linked on Debian: an arm64 Mach-O executable with the Metal code in it. What
# can be verified without a Mac is; it has not run anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
needs() { [ -e "$1" ] || packages+=("$2"); }
needs /usr/bin/rustc rustc-web
needs /usr/bin/cargo cargo-web
needs /usr/lib/rustlib/src/rust/library/Cargo.lock rust-web-src
needs /usr/bin/clang-19 clang-19
needs /usr/bin/ld64.lld-19 lld-19
needs /usr/bin/llvm-objdump-19 llvm-19
if [ ${#packages[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

# What stands for Apple's SDK: libSystem's list of symbols, as of macOS 14.0, and C headers, both from PyPI's ziglang;
# of the other libraries, scripts/macos lists what the binary uses.
sdk=$PWD/target/macos/sdk
if [ ! -d "$sdk" ]; then
    mkdir -p target/macos
    new=$(mktemp -d target/macos/new.XXXXXX)
    python3 -m pip download -q --no-deps --require-hashes --only-binary=:all: --platform manylinux_2_12_x86_64 \
        -d "$new" -r /dev/stdin <<'WHEEL'
ziglang==0.13.0 --hash=sha256:3ce0c9f16547e5d61b32e0d226926e9a2552ef4b91fccf7ab5ea1a623a77824b
WHEEL
    python3 - "$new"/*.whl "$new/usr" <<'PYTHON'
import pathlib, sys, zipfile

libc = "ziglang/lib/libc/"
parts = {libc + "darwin/libSystem.tbd": "lib/libSystem.tbd", libc + "include/any-macos-any/": "include/"}
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in wheel.namelist():
        for prefix, to in parts.items():
            if name.startswith(prefix) and not name.endswith("/"):
                path = pathlib.Path(sys.argv[2], to + name.removeprefix(prefix))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wheel.read(name))
PYTHON
    rm "$new"/*.whl
    mv "$new" "$sdk"
fi
cp -r scripts/macos/include "$sdk/usr"
for name in c m; do
    ln -sf libSystem.tbd "$sdk/usr/lib/lib$name.tbd"
done
for stub in scripts/macos/*.tbd; do
    name=$(basename "$stub" .tbd)
    case $name in
    lib*) directory=$sdk/usr/lib ;;
    *) directory=$sdk/System/Library/Frameworks/$name.framework ;;
    esac
    mkdir -p "$directory" && cp "$stub" "$directory"
done

# Debian's compiler comes with the source of the standard library, which is built for the Mac as a dependency. What the
# linker misses it names, all of it: a symbol new to the binary goes into its library's list in scripts/macos.
export PATH=/usr/bin:$PATH RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target/macos
export SDKROOT=$sdk MACOSX_DEPLOYMENT_TARGET=14.0
export CC_aarch64_apple_darwin=/usr/bin/clang-19 AR_aarch64_apple_darwin=/usr/bin/llvm-ar-19
export CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER=/usr/bin/clang-19
export CARGO_TARGET_AARCH64_APPLE_DARWIN_RUSTFLAGS="-Clink-arg=--target=arm64-apple-macos14 -Clink-arg=-fuse-ld=lld
    -Clink-arg=-isysroot -Clink-arg=$sdk -Clink-arg=-Wl,--error-limit=0"
/usr/bin/cargo build --release -Zbuild-std=std,panic_abort --target aarch64-apple-darwin --features metal \
    --bin metal-candle --config 'profile.release.debug="none"' --config 'profile.release.strip="none"'
python3 scripts/macos/verify.py target/macos/aarch64-apple-darwin/release/metal-candle
