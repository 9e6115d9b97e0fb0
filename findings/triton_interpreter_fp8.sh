#!/usr/bin/env bash
# Triton 3.9.0 (PyPI) with TRITON_INTERPRET=1, its way to run a kernel on a CPU: `x.to(...)` gives other numbers than on a GPU, up
# to a factor of two, without a message. Compiled for Hopper the same line is `cvt.rn.satfinite.e4m3x2.f32`, and
# `cvt.rn.bf16.f32`: to the nearest, ties to even, and no further than 448. PyTorch 2.15.0 on the CPU rounds so, too.
#   from f32 to float8_e4m3fn   interpreter   PyTorch
#   1.97, 7.9, 0.49             1, 4, 0.25    2, 8, 0.5         rounding up to a power of two is lost in every second binade
#   17, 21                      18, 22        16, 20            ties go up
#   1.5 * 2^-9, 2^-6 - 2^-11    2^-9, 2^-7    2^-8, 2^-6        numbers below 2^-6 are cut off, or lose half
#   464, 1000, inf              NaN, 256, 256 448               codes above the largest wrap around
#   NaN                         384           NaN
# BF16 is cut off, so every second number differs; F16 is right. Back to f32 the NaN of E4M3 is 480, and infinity in E5M2 65536.
# A kernel that quantizes tiles of 128 normally distributed numbers, as training in FP8 does, gets other codes for 1 in 46 of them,
# some half as large as they should be: such a test on a CPU does not tell what the GPU would do.
# It installs PyTorch 2.15.0 (5 GB), whose Triton is 3.9.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 triton==3.9.0 numpy==2.4.6
cat > "$work/compiled.py" <<'PYTHON'
import re, sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def cast(x, y, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    tl.store(y + at, tl.load(x + at).to(y.dtype.element_ty))


ok = True
for name, expected in [("fp8e4nv", "cvt.rn.satfinite.e4m3x2.f32"), ("bf16", "cvt.rn.bf16.f32")]:
    source = ASTSource(cast, {"x": "*fp32", "y": f"*{name}", "COUNT": "constexpr"}, {"COUNT": 1024})
    assembly = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    found = sorted(set(re.findall(r"cvt\.rn[.\w]*", assembly)))
    print(f"compiled, f32 to {name}: {found}")
    ok &= found == [expected]
sys.exit(None if ok else "changed")
PYTHON
cat > "$work/look.py" <<'PYTHON'
import math, sys

import torch
import triton
import triton.language as tl

torch.set_num_threads(1)
inf, nan = math.inf, math.nan


@triton.jit
def cast(x, y, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    tl.store(y + at, tl.load(x + at).to(y.dtype.element_ty))


@triton.jit
def quantize(x, codes, scales, TILE: tl.constexpr):
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    values = tl.load(x + at)
    scale = tl.max(tl.abs(values)) / 448.0
    tl.store(codes + at, (values / scale).to(codes.dtype.element_ty))
    tl.store(scales + tl.program_id(0), scale)


def interpreted(values, dtype):
    result = torch.empty(len(values), dtype=dtype)
    cast[(1,)](values, result, len(values))
    return result


def same(a, b):
    a, b = a.double(), b.double()
    return (a == b) | (a.isnan() & b.isnan())


ok = True
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
for values, by_triton, by_torch in [
    ([1.97, 7.9, 0.49, 0.98], [1, 4, 0.25, 1], [2, 8, 0.5, 1]),
    ([17.0, 21.0], [18, 22], [16, 20]),
    ([1.5 * 2**-9, 2**-6 - 2**-11], [2**-9, 2**-7], [2**-8, 2**-6]),
    ([464.0, 1000.0, inf, nan], [nan, 256, 256, 384], [448, 448, 448, nan]),
    ([1.0, 1.06, 1.07, 448.0], [1, 1, 1.125, 448], [1, 1, 1.125, 448]),
]:
    given = torch.tensor(values)
    while len(given) < 4:
        given = torch.cat([given, given])
    triton_gives, torch_gives = interpreted(given, E4M3), given.to(E4M3)
    count = len(values)
    print(f"{values} to E4M3: {triton_gives.tolist()[:count]}, PyTorch {torch_gives.tolist()[:count]}")
    ok &= same(triton_gives[:count], torch.tensor(by_triton)).all().item()
    ok &= same(torch_gives[:count], torch.tensor(by_torch)).all().item()

torch.manual_seed(0)
normal = torch.randn(4096)
for dtype, few, many in [(torch.bfloat16, 0.4, 0.6), (torch.float16, 0.0, 0.0), (E4M3, 0.01, 0.1), (E5M2, 0.01, 0.1)]:
    share = 1 - same(interpreted(normal, dtype), normal.to(dtype)).double().mean().item()
    print(f"4096 normally distributed numbers to {dtype}: {share:.1%} differ")
    ok &= few <= share <= many
for dtype, code, widened, right in [(E4M3, 0x7F, 480, nan), (E5M2, 0x7C, 65536, inf), (E4M3, 0x01, 2**-9, 2**-9)]:
    codes = torch.full((4,), code, dtype=torch.uint8).view(dtype)
    seen = interpreted(codes, torch.float32)
    print(f"code {code:#04x} of {dtype} to f32: {seen[0].item()}, PyTorch {codes.float()[0].item()}")
    ok &= seen[0].item() == widened and same(codes.float()[:1], torch.tensor([right])).item()

tiles = torch.randn(512, 128)
codes, scales = torch.empty(512, 128, dtype=E4M3), torch.empty(512)
quantize[(512,)](tiles, codes, scales, 128)
right = (tiles / scales[:, None]).to(E4M3)
other = ~same(codes, right)
worst = (codes.float()[other] / right.float()[other]).min().item()
equal = torch.equal(scales, tiles.abs().amax(1) / 448)
print(f"512 tiles: scales equal {equal}, {other.double().mean().item():.2%} of the codes differ, smallest ratio {worst}")
ok &= equal and 0.01 < other.double().mean().item() < 0.1
sys.exit(None if ok else "changed")
PYTHON
export TRITON_CACHE_DIR="$work/cache" CUDA_VISIBLE_DEVICES=
"$work/venv/bin/python" -W ignore "$work/compiled.py"
TRITON_INTERPRET=1 "$work/venv/bin/python" -W ignore "$work/look.py"
