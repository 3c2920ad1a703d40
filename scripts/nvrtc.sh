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
import concurrent.futures, ctypes, pathlib, re, sys

nvrtc = ctypes.CDLL(sys.argv[1])

def compiled(path, architecture):
    """The machine code, or none, and what NVRTC says."""
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), path.name.encode(), 0, None, None)
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    length, text = (nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
    if not failed:
        length, text = (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    length(program, ctypes.byref(size))
    out = ctypes.create_string_buffer(size.value)
    text(program, out)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return (None, out.value.decode()) if failed else (out.raw, "")

kernels = sorted(pathlib.Path(sys.argv[2]).glob("*.cu"))
if not kernels:
    sys.exit(f"nvrtc.sh: no kernels in {sys.argv[2]}")
# Of the kernels with instructions of the GPU's, those for bf16 are compiled for the next architecture too.
bf16 = re.compile(r"^(#define BF16 1|typedef bf16 T;)$", re.M)
newer = [path for path in kernels if ".cuda.h-" in path.name and bf16.search(path.read_text())]
work = [(path, "sm_80") for path in kernels] + [(path, "sm_90") for path in newer]
with concurrent.futures.ThreadPoolExecutor() as pool:
    results = list(pool.map(compiled, *zip(*work)))
logs = [f"{architecture}: {log}" for (_, architecture), (code, log) in zip(work, results) if code is None]
print(*logs, f"{len(work) - len(logs)} of {len(work)} kernels compile", sep="\n")

# Nothing that CUDA alone runs may be missing: each kernel is a section of some machine code.
sections = {name.decode() for code, _ in results if code for name in re.findall(rb"\.text\.(\w+)", code)}
declared = re.compile(r"(?:__global__|KERNEL)\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(")
for header in sorted(pathlib.Path("src").rglob("*.cuda.h")):
    for kernel in declared.findall(header.read_text()):
        if kernel not in sections:
            logs.append(kernel)
            print(f"{header}: no test shows {kernel}")
sys.exit(len(logs) > 0)
PYTHON
