"""What can be known of the Mac's binary without a Mac: its kind, what it loads, where each symbol comes from, and that
its signature is of its bytes. Argument: the binary."""

import hashlib
import pathlib
import re
import struct
import subprocess
import sys

binary = pathlib.Path(sys.argv[1])
here = pathlib.Path(__file__).parent
problems = []


def wants(what, want, got):
    if want != got:
        problems.append(f"{what}: wants {want}, got {got}")


def tool(name, *options):
    return subprocess.run([f"llvm-{name}-19", *options, binary], check=True, capture_output=True, text=True).stdout


def commands():
    """The load commands, each its fields by name."""
    for text in re.split(r"^Load command \d+\n", tool("otool", "-l"), flags=re.M)[1:]:
        # Sections follow their segment.
        fields = re.findall(r"^ *(cmd|name|platform|minos|dataoff|datasize) (\S+)", text.split("Section\n")[0], re.M)
        yield dict(fields)


def signature(data):
    """What the signature says against the bytes before it: the hash of each page, as the kernel compares them."""
    be = lambda at, count: struct.unpack_from(f">{count}I", data, at)
    blobs = {be(at, 1)[0]: at for at in (start + be(start + 12 + 8 * i + 4, 1)[0] for i in range(be(start + 8, 1)[0]))}
    directory = blobs[0xFADE0C02]
    _, _, _, flags, hashes, _, _, slots, limit = be(directory, 9)
    size, kind, _, page_bits = data[directory + 36 : directory + 40]
    wants("signature: size and type of hashes (SHA-256)", (32, 2), (size, kind))
    wants("signature: ad hoc", True, bool(flags & 2))
    wants("signature: where the signed bytes end", start, limit)
    pages = [data[at : min(at + (1 << page_bits), limit)] for at in range(0, limit, 1 << page_bits)]
    wants("signature: pages", len(pages), slots)
    hashes += directory
    stored = [data[hashes + 32 * i :][:32] for i in range(slots)]
    wants("signature: pages that differ", 0, sum(hashlib.sha256(p).digest() != h for p, h in zip(pages, stored)))


header = tool("otool", "-hv").split("\n")[-2].split()
wants("header", ["MH_MAGIC_64", "ARM64", "EXECUTE"], [header[0], header[1], header[4]])
for flag in ["NOUNDEFS", "TWOLEVEL", "PIE"]:
    wants(f"flag {flag}", True, flag in header)

found = list(commands())
build = [command for command in found if command["cmd"] == "LC_BUILD_VERSION"]
wants("platform (1 is macOS) and oldest system", [("1", "14.0")], [(b["platform"], b["minos"]) for b in build])
loaded = {command["name"] for command in found if command["cmd"] == "LC_LOAD_DYLIB"}
stubs = {stub.stem: stub.read_text() for stub in here.glob("*.tbd")}
install_name = {name: re.search(r"^install-name: +(\S+)", text, re.M)[1] for name, text in stubs.items()}
wants("libraries", sorted([*install_name.values(), "/usr/lib/libSystem.B.dylib"]), sorted(loaded))

# Every symbol has its library; those that a stub has and nothing uses are not for it to claim.
imports = {}
for line in tool("nm", "-m", "--undefined-only").splitlines():
    symbol, library = re.search(r"(\S+) \((?:from )?(.*)\)$", line).groups()
    imports.setdefault(library, set()).add(symbol)
wants("symbols looked up in any library", [], sorted(imports.pop("dynamically looked up", ())))
for name, text in stubs.items():
    claimed = set(re.findall(r"\b_\w+", text.partition("exports:")[2]))
    wants(f"{name}.tbd: symbols without use", [], sorted(claimed - imports.get(name, set())))

data = binary.read_bytes()
signed = [command for command in found if command["cmd"] == "LC_CODE_SIGNATURE"]
wants("code signatures", 1, len(signed))
for command in signed:
    start = int(command["dataoff"])
    signature(data)

if problems:
    sys.exit("\n".join(problems))
print(f"{binary}: {len(data) / 1e6:.1f} MB, arm64, macOS 14.0 or newer, signed ad hoc")
for library in sorted(loaded):
    print(f"{len(imports.get(pathlib.Path(library).name.split('.')[0], ())):6} symbols of {library}")
