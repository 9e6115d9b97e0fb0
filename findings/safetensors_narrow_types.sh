#!/usr/bin/env bash
# safetensors 0.8.0 (PyPI) with PyTorch 2.15.0: whether a tensor in the types of FP8 scales (F8_E8M0) and of FP4 weights (F4)
# can be read depends on the function, though save(), save_file() and load_file() know both, bit for bit.
#   load(bytes), of the same bytes          KeyError, where E4M3, U16 and C64 are read
#   get_slice() of F4, of whole rows too    RuntimeError: the shape in the file counts numbers, [2, 16], and PyTorch's pairs, [2, 8]
#   get_slice() of F8_E8M0                  works
# What works everywhere: load_file(), or safe_open().get_tensor().
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
cat > "$work/look.py" <<'PYTHON'
import json, pathlib, sys

import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save, save_file


def outcome(read):
    try:
        y = read()
    except (KeyError, RuntimeError) as error:
        return f"{type(error).__name__}: {error.args[0]}"
    return "read" if y.dtype == x.dtype and torch.equal(y.view(torch.uint8), x.view(torch.uint8)) else "other bits"


stored = torch.arange(16, dtype=torch.uint8).reshape(2, 8)
failure = "RuntimeError: shape '[2, 16]' is invalid for input of size 16"
cases = [
    ("F8_E4M3", torch.float8_e4m3fn, [2, 8], "read", "read"),
    ("F8_E8M0", torch.float8_e8m0fnu, [2, 8], "KeyError: F8_E8M0", "read"),
    ("F4", torch.float4_e2m1fn_x2, [2, 16], "KeyError: F4", failure),
]
for name, dtype, shape, from_bytes, from_slice in cases:
    x = stored.view(dtype)
    path = pathlib.Path(sys.argv[1], name + ".safetensors")
    save_file({"x": x}, path)
    data = path.read_bytes()
    assert save({"x": x}) == data
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert (header["x"]["dtype"], header["x"]["shape"]) == (name, shape), header
    with safe_open(path, "pt") as file:
        rows = file.get_slice("x")
        seen = [
            ("load_file()", outcome(lambda: load_file(path)["x"]), "read"),
            ("safe_open().get_tensor()", outcome(lambda: file.get_tensor("x")), "read"),
            ("load(bytes)", outcome(lambda: load(data)["x"]), from_bytes),
            ("get_slice()[:]", outcome(lambda: rows[:]), from_slice),
            ("get_slice()[:2]", outcome(lambda: rows[:2]), from_slice),
        ]
    for function, got, expected in seen:
        print(f"{name:8} {function:25} {got}")
        assert got == expected, (name, function, got, expected)
PYTHON
"$work/venv/bin/python" "$work/look.py" "$work"
