#!/usr/bin/env bash
# Candle's own tests of its Metal backend on the software Metal device. The tests are those of the published crates,
# found among cargo's sources; nothing of them is kept here. What fails and what is reported is compared with the lists
# beside this script, which say why.
#
#   softmetal/candle/run.sh                    all suites
#   softmetal/candle/run.sh conv_tests sdpa    some
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
softmetal=${SOFTMETAL:-$target/release/softmetal}
work=$target/candle
unset CARGO_TARGET_DIR

# Files with variants for Metal, which have it in their names; files with tests of nothing else; and files that ask for
# the CPU, which are asked for Metal instead.
variants=(core/{bilinear,conv,grad,layout,matmul,pool,quantized,tensor}_tests nn/{ops,sdpa})
all_metal=(core/metal_concurrent_tests)
cpu=(core/indexing_tests nn/{batch_norm,group_norm,kv_cache,layer_norm,loss,one_hot,optim,rnn})

# Where cargo keeps a crate's source.
source_of() {
    local manifest
    manifest=$(grep -o "\"manifest_path\":\"[^\"]*/$1-[0-9][^/\"]*/Cargo.toml\"" "$work/metadata" | head -n 1 | cut -d '"' -f 4)
    [ -n "$manifest" ] || { echo "$1: wants to be in Cargo.lock" >&2 && exit 1; }
    dirname "$manifest"
}

# Writes a file if it says something else, so that cargo builds only what changed.
put() { cat >"$1.new" && { cmp -s "$1.new" "$1" && rm "$1.new" || mv "$1.new" "$1"; }; }

# A workspace of three: candle-core's tests, candle-nn's, and candle-metal-kernels with its own.
make_workspace() {
    mkdir -p "$work"/{core,nn}/{src,tests}
    cargo metadata --format-version 1 --features metal --filter-platform "$(uname -m)-unknown-linux-gnu" >"$work/metadata"
    local core nn kernels
    core=$(source_of candle-core) nn=$(source_of candle-nn) kernels=$(source_of candle-metal-kernels)
    local version=${core##*-}

    put "$work/Cargo.toml" <<END
[workspace]
members = ["core", "nn", "candle-metal-kernels"]
resolver = "2"

[patch.crates-io]
candle-metal-kernels = { path = "candle-metal-kernels" }
END
    put "$work/core/Cargo.toml" <<END
[package]
name = "candle-core-tests"
version = "0.0.0"
edition = "2021"

[features]
default = ["metal"]
metal = []

[dependencies]
candle-core = { version = "=$version", features = ["metal"] }
anyhow = "1"
float8 = "0.7"
half = "2"
rand = "0.9"
END
    put "$work/nn/Cargo.toml" <<END
[package]
name = "candle-nn-tests"
version = "0.0.0"
edition = "2021"

[features]
default = ["metal"]
metal = []

[dependencies]
candle = { package = "candle-core", version = "=$version", features = ["metal"] }
candle-nn = { version = "=$version", features = ["metal"] }
anyhow = "1"
half = "2"
rand = "0.9"
rand_distr = "0.5"
END
    for package in core nn; do put "$work/$package/src/lib.rs" </dev/null; done
    [ -f "$work/Cargo.lock" ] || cp Cargo.lock "$work/"
    if ! diff -rq "$kernels" "$work/candle-metal-kernels" >/dev/null 2>&1; then
        rm -rf "$work/candle-metal-kernels"
        cp -r "$kernels" "$work/candle-metal-kernels"
        chmod -R u+w "$work/candle-metal-kernels"
    fi

    local name from
    for name in "${variants[@]}" "${all_metal[@]}"; do
        from=${name%%/*}
        put "$work/$from/tests/${name#*/}.rs" <"${!from}/tests/${name#*/}.rs"
    done
    for name in "${cpu[@]}"; do
        from=${name%%/*}
        local crate=candle_core
        [ "$from" = core ] || crate=candle
        {
            sed -E 's/(candle::|candle_core::)?Device::Cpu\b/METAL.clone()/g' "${!from}/tests/${name#*/}.rs"
            echo
            echo "static METAL: std::sync::LazyLock<$crate::Device> ="
            echo "    std::sync::LazyLock::new(|| $crate::Device::new_metal(0).unwrap());"
        } | put "$work/$from/tests/${name#*/}.rs"
    done
}

# Suites whose tests make each buffer themselves, so that Apple's zeros are theirs. Candle-core's come from its pool, with
# whatever was in them: there memory that nobody wrote is found.
zeros=(kernels/candle_metal_kernels)

# Runs a test binary. Where it dies, its tests are run one by one, each in a process.
run() {
    local binary=$1 filter=$2 out=$3
    # The shell, too, would say how it died.
    { "$binary" $filter >"$out" 2>"$out.err" </dev/null; } 2>/dev/null || true
    if ! grep -q '^test result:' "$out"; then
        : >"$out" >"$out.err"
        local test result
        for test in $("$binary" $filter --list 2>/dev/null | sed -n 's/: test$//p'); do
            result=FAILED
            { "$binary" --exact "$test" >"$out.one" 2>&1 </dev/null; } 2>/dev/null || true
            grep -q '^test result: ok' "$out.one" && result=ok
            echo "test $test ... $result" >>"$out"
            [ $result = ok ] || cat "$out.one" >>"$out.err"
        done
    fi
}

# The lines that a list does not have: `unknown LIST <lines`.
unknown() { grep -vxF -f <(sed -E 's/ +#.*//; /^(#|$)/d' "$1") || true; }

make_workspace
build=("$softmetal" cargo test --manifest-path "$work/Cargo.toml" --workspace --no-run)
"${build[@]}" 2>"$work/build.log" || { cat "$work/build.log" >&2; exit 1; }
"${build[@]}" --message-format=json 2>/dev/null |
    sed -nE 's/.*"target":\{[^}]*"name":"([^"]*)".*"executable":"([^"]*)".*/\1 \2/p' >"$work/binaries"

wanted=" $* "
passed=0 failed=0
rm -rf "$work/results" && mkdir -p "$work/results"
suites=()
# The longest first: one runs on each processor.
for suite in nn/optim "${variants[@]}" "${all_metal[@]}" "${cpu[@]/nn\/optim/}" kernels/candle_metal_kernels; do
    [ -n "$suite" ] || continue
    [ $# -eq 0 ] || [[ $wanted == *" ${suite#*/} "* ]] || continue
    suites+=("$suite")
done
for suite in "${suites[@]}"; do
    name=${suite#*/}
    binary=$(sed -n "s/^$name //p" "$work/binaries")
    [ -n "$binary" ] || { echo "$suite: wants to be built, see $work/build.log" >&2 && exit 1; }
    filter=
    [[ " ${variants[*]} " != *" $suite "* ]] || filter=metal
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    {
        out=$work/results/$name start=$SECONDS
        [[ " ${zeros[*]} " != *" $suite "* ]] || export SOFTMETAL_FRESH=zeros
        SOFTMETAL_LOG=$out.log SOFTMETAL_ALLOW=$here/known-reports.txt run "$binary" "$filter" "$out"
        echo $((SECONDS - start)) >"$out.seconds"
    } &
done
wait
printf '%-32s %6s %6s %6s %8s\n' suite passed failed seconds reports
for suite in "${suites[@]}"; do
    name=${suite#*/} out=$work/results/${suite#*/}
    ok=$(grep -c '^test .* ok$' "$out" || true)
    bad=$(grep -c '^test .* FAILED$' "$out" || true)
    sed -nE "s|^test (.*) \.\.\. FAILED\$|$name \1|p" "$out" >>"$work/results/failures"
    # A line each, and last what they add up to; those that known-reports.txt has are only counted.
    touch "$out.log"
    grep -E '^softmetal: [A-Z]' "$out.log" | sort -u >"$out.reports" || true
    cat "$out.reports" >>"$work/results/reports"
    printf '%-32s %6s %6s %6s %8s\n' "$suite" "$ok" "$bad" "$(cat "$out.seconds")" "$(wc -l <"$out.reports")"
    passed=$((passed + ok)) failed=$((failed + bad))
done
printf '%-32s %6s %6s %6s %8s\n' all $passed $failed $SECONDS "$(wc -l <"$work/results/reports")"

status=0
new=$(unknown "$here/known-failures.txt" <"$work/results/failures")
[ -z "$new" ] || { printf 'Failures that known-failures.txt does not have (output in %s):\n%s\n' "$work/results" "$new" && status=1; }
if [ -s "$work/results/reports" ]; then
    printf 'Reports that known-reports.txt does not have (all in %s):\n' "$work/results"
    head -n 20 "$work/results/reports"
    status=1
fi
if [ $# -eq 0 ]; then
    gone=$(sed -E 's/ +#.*//; /^(#|$)/d' "$here/known-failures.txt" | grep -vxF -f "$work/results/failures" || true)
    [ -z "$gone" ] || { printf 'Known failures that did not fail:\n%s\n' "$gone" && status=1; }
fi
exit $status
