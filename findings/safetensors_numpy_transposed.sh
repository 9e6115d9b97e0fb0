#!/usr/bin/env bash
# safetensors 0.8.0 (PyPI): safetensors.numpy.save() and save_file() write a transposed NumPy array with the shape that
# it has and with other values, without a word; 0.7.0 wrote the right ones. Such arrays are what x.T,
# np.asfortranarray() and x.transpose(0, 2, 1) of stacked experts give.
# The file is valid, so only a comparison of values shows it: a transposed matrix has the right shape, mean and norm.
# The cause: _flatten() in safetensors/numpy.py passes the address of the array's memory and its size in bytes on, and
# does not look at the strides; 0.7.0 called tobytes(), which follows them. The documentation asks for arrays that are
# "contiguous and dense", which np.asfortranarray() gives too (F_CONTIGUOUS); safetensors.torch raises ValueError.
# Upstream has it as issue 825 of safetensors, open since August 2026.
# What works everywhere: np.ascontiguousarray() for each array before saving.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 0.7.0 0.8.0; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check safetensors==$version numpy==2.4.6
done
cat > "$work/look.py" <<'PYTHON'
import pathlib, sys

import numpy as np
import safetensors
from safetensors.numpy import load, load_file, save, save_file

matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
experts = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
arrays = {
    "x": matrix,
    "x.T": matrix.T,
    "np.asfortranarray(x)": np.asfortranarray(matrix),
    "experts.transpose(0, 2, 1)": experts.transpose(0, 2, 1),
    "np.ascontiguousarray(x.T)": np.ascontiguousarray(matrix.T),
}
wrong_in = {"0.7.0": set(), "0.8.0": {"x.T", "np.asfortranarray(x)", "experts.transpose(0, 2, 1)"}}
path = pathlib.Path(sys.argv[1], "model.safetensors")
wrong = set()
print(f"safetensors {safetensors.__version__}")
for name, array in arrays.items():
    save_file({"x": array}, path)
    read = [load_file(path)["x"], load(save({"x": array}))["x"]]
    same = [np.array_equal(array, other) for other in read]
    if same[0] != same[1] or read[0].shape != array.shape:
        sys.exit("changed: save() and save_file() differ, or the shape does")
    print(f"  {name}: {'same values' if same[0] else 'other values'}")
    if not same[0]:
        wrong.add(name)
        if array.ndim == 2:
            print(f"    given {array.tolist()}, read {read[0].tolist()}")
sys.exit(None if wrong == wrong_in[safetensors.__version__] else "changed")
PYTHON
for version in 0.7.0 0.8.0; do "$work/$version/bin/python" "$work/look.py" "$work"; done
