#!/usr/bin/env bash
# PyTorch 2.15.0 and ml_dtypes 0.6.0 (PyPI; the number formats of JAX), conversion from f32 to FP8. PyTorch saturates in
# E4M3 and in no other format, and there even infinity becomes an ordinary 448: only NaN is left as a sign of trouble.
# E8M0, the format of power-of-two scales, has no zero and no sign: PyTorch makes up a value, ml_dtypes gives NaN.
#   from        to                PyTorch   ml_dtypes
#   464.5, inf  float8_e4m3fn     448       NaN
#   -inf        float8_e4m3fn     -448      NaN
#   1e6, inf    float8_e5m2       inf       inf
#   1e6, inf    float8_e4m3fnuz   NaN       NaN
#   0.0         float8_e8m0fnu    2^-127    NaN
#   -2.0        float8_e8m0fnu    2         NaN
#   1.5, 3.0    float8_e8m0fnu    2, 4      2, 4   (ties go up, not to even)
# What works everywhere: look for infinities before the conversion, and clamp to +-448.
# It installs PyTorch 2.15.0 (5 GB), which runs on the CPU here.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 ml_dtypes==0.6.0 numpy==2.4.6
cat > "$work/look.py" <<'PYTHON'
import sys

import ml_dtypes
import numpy as np
import torch

torch.set_num_threads(1)
inf, nan = float("inf"), float("nan")
cases = [
    ("float8_e4m3fn", [464.0, 464.5, inf, -inf, nan], [448, 448, 448, -448, nan], [448, nan, nan, nan, nan]),
    ("float8_e5m2", [1e6, inf, -inf, nan], [inf, inf, -inf, nan], [inf, inf, -inf, nan]),
    ("float8_e4m3fnuz", [1e6, inf, -inf, nan], [nan] * 4, [nan] * 4),
    ("float8_e8m0fnu", [0.0, -2.0, 1.5, 3.0], [2**-127, 2, 2, 4], [nan, nan, 2, 4]),
]
ok = True
for name, values, expected_torch, expected_ml_dtypes in cases:
    # Many copies, so that vector code and the rest of a loop are both used.
    by_torch = torch.tensor(values * 25).to(getattr(torch, name)).double().numpy().reshape(25, -1)
    with np.errstate(invalid="ignore"):
        by_ml_dtypes = np.array(values, np.float32).astype(getattr(ml_dtypes, name)).astype(np.float64)
    print(f"{name}: {values}: PyTorch {by_torch[0].tolist()}, ml_dtypes {by_ml_dtypes.tolist()}")
    ok &= all(np.array_equal(row, expected_torch, equal_nan=True) for row in by_torch)
    ok &= np.array_equal(by_ml_dtypes, expected_ml_dtypes, equal_nan=True)
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
