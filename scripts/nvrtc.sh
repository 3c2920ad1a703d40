#!/usr/bin/env bash
# What an NVIDIA machine's build would refuse, found without CUDA and without a GPU: the crate with its CUDA code is
# linted, and every kernel in METAL_CANDLE_SHADERS (scripts/metal.sh writes them) is compiled by NVRTC from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."

# Lints need no machine code: in place of nvcc, which takes ten minutes for candle's kernels, stands one that makes
# empty files.
stand_in=$(mktemp -d)
trap 'rm -rf "$stand_in"' EXIT
mkdir "$stand_in/bin" "$stand_in/include"
cat >"$stand_in/bin/nvcc" <<'NVCC'
#!/bin/sh
case " $* " in
*" --version "*) echo "Cuda compilation tools, release 13.0, V13.0.88"; exit ;;
*" --list-gpu-code "*) echo sm_80; exit ;;
esac
while [ $# -gt 0 ]; do
    case $1 in
    -o) out=$2; shift ;;
    --output-directory) directory=$2; shift ;;
    *.cu) name=${1##*/} ;;
    esac
    shift
done
: >"${out:-$directory/${name%.cu}.ptx}"
NVCC
chmod +x "$stand_in/bin/nvcc"
PATH=$stand_in/bin:$PATH CUDA_HOME=$stand_in CUDA_PATH=$stand_in CUDARC_CUDA_VERSION=13000 CUDA_COMPUTE_CAP=80 \
    CARGO_TARGET_DIR=target/nvrtc cargo clippy --release --features cuda --lib --bins --tests -- -D warnings

sources=${METAL_CANDLE_SHADERS:?the directory of the kernels}
nvrtc=target/nvrtc/libnvrtc
if [ ! -d "$nvrtc" ]; then
    wheel=$(mktemp -d "target/nvrtc/new.XXXXXX")
    python3 -m pip download -q --no-deps --require-hashes --only-binary=:all: --platform "manylinux2014_$(uname -m)" \
        --platform "manylinux2010_$(uname -m)" -d "$wheel" -r /dev/stdin <<'WHEEL'
nvidia-cuda-nvrtc==13.0.88 --hash=sha256:ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575 \
    --hash=sha256:d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b
WHEEL
    python3 -m zipfile -e "$wheel"/*.whl "$wheel"
    mv "$wheel" "$nvrtc"
fi
# NVRTC loads a library from beside itself by name.
LD_LIBRARY_PATH=$nvrtc/nvidia/cu13/lib python3 - "$nvrtc"/nvidia/cu13/lib/libnvrtc.so.13 "$sources" <<'PYTHON'
import concurrent.futures, ctypes, pathlib, sys

nvrtc = ctypes.CDLL(sys.argv[1])
options = [b"--gpu-architecture=sm_80", b"--std=c++17"]

def log_of(path):
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), path.name.encode(), 0, None, None)
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.value.decode() if failed else None

kernels = sorted(pathlib.Path(sys.argv[2]).glob("*.cu"))
if not kernels:
    sys.exit(f"nvrtc.sh: no kernels in {sys.argv[2]}")
with concurrent.futures.ThreadPoolExecutor() as pool:
    logs = [log for log in pool.map(log_of, kernels) if log]
print(*logs, f"{len(kernels) - len(logs)} of {len(kernels)} kernels compile", sep="\n")
sys.exit(len(logs) > 0)
PYTHON
