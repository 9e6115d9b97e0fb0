#!/usr/bin/env bash
# ml_dtypes 0.6.0 (PyPI) with NumPy 2.4.6: one NaN in a BF16 or FP8 array, and np.sort() and all that builds on it are
# wrong without a word. NumPy puts NaN last in its own types, float16 among them, and median() and percentile() of an
# array with a NaN are NaN. For [3, nan, 1, 4, 2] in BF16, E4M3, E5M2:
#   np.sort()         3 nan 1 2 4: not sorted, with kind="stable" neither
#   np.argsort()      the order of that; its last two are not those of float16
#   np.median(), np.percentile(x, 50)   1, a number, and not even the median of the others (2.5), instead of NaN
#   np.unique()       of the array written twice: 10 values instead of 5
#   max(), argmax(), nanmedian()   right
# The cause: NPyCustomFloat_CompareFunc (ml_dtypes/_src/custom_float.h), by which NumPy sorts these types, answers
# "equal" where neither value is less, so NaN equals every number, and a sort doesn't move numbers past it. Besides,
# median() and percentile() look for NaN only in a type that np.issubdtype() calls inexact, and these are not: of
# [1, 2, 3, 4, nan], which is in order, the median is 3.
# So a median or a percentile of gradients, of scores or of activations in BF16 hides the NaN that it should show.
# What works everywhere: .astype(np.float32) before any of these.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ml_dtypes==0.6.0 numpy==2.4.6
cat > "$work/look.py" <<'PYTHON'
import sys, warnings

import ml_dtypes
import numpy as np

warnings.simplefilter("ignore")  # float16 warns of the NaN, and so does max()
GIVEN = [3, np.nan, 1, 4, 2]
RIGHT = {
    "sort": "1 2 3 4 nan", "stable sort": "1 2 3 4 nan", "argsort": "2 4 0 3 1", "median": "nan",
    "percentile 50": "nan", "unique of twice": "1 2 3 4 nan", "max": "nan", "argmax": "1", "nanmedian": "2.5",
}
WRONG = RIGHT | {
    "sort": "3 nan 1 2 4", "stable sort": "3 nan 1 2 4", "argsort": "0 1 2 4 3", "median": "1", "percentile 50": "1",
    "unique of twice": "3 nan 1 2 3 4 nan 1 2 4",
}


def look(dtype):
    x = np.array(GIVEN, np.float32).astype(dtype)
    seen = {
        "sort": np.sort(x), "stable sort": np.sort(x, kind="stable"), "argsort": np.argsort(x), "median": np.median(x),
        "percentile 50": np.percentile(x, 50), "unique of twice": np.unique(np.concatenate([x, x])), "max": x.max(),
        "argmax": x.argmax(), "nanmedian": np.nanmedian(x),
    }
    return {name: " ".join(f"{float(v):g}" for v in np.atleast_1d(value)) for name, value in seen.items()}


print(f"ml_dtypes {ml_dtypes.__version__}, numpy {np.__version__}, given: {' '.join(f'{v:g}' for v in GIVEN)}")
types = (np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
results = {np.dtype(dtype).name: look(dtype) for dtype in types}
for name in RIGHT:
    print(f"{name}: expected {RIGHT[name]}")
    for dtype, seen in results.items():
        print(f"  {dtype:14} {seen[name]}{'' if seen[name] == RIGHT[name] else '  <- wrong'}")
in_order = float(np.median(np.array([1, 2, 3, 4, np.nan], np.float32).astype(ml_dtypes.bfloat16)))
print(f"median of 1 2 3 4 nan in bfloat16: expected nan, seen {in_order:g}")
expected = {dtype: RIGHT if dtype in ("float32", "float16") else WRONG for dtype in results}
sys.exit(None if in_order == 3 and results == expected else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
