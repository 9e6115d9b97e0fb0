#!/usr/bin/env bash
# transformers 5.24.0 with PyTorch 2.15.0 (PyPI), top-p among tokens of equal logits. They are common: a BF16 head has
# 8 bits of mantissa. It sorts in ascending order, not stably, and drops from the small end, so the survivors depend on
# how many logits there are.
#   4 equal logits, p = 0.5        the 2 highest ids stay
#   32 equal logits, p = 0.5       the 16 lowest ids stay
#   129,280 BF16 logits, p = 0.9   150 are equal at the cut; the 36 that stay are neither the highest nor the lowest ids
# So top-p near 0 is not greedy: of logits [3, 3, 1] argmax takes token 0, and top-p keeps token 1. Top-k 1 keeps both.
# No fixed order of ties equals this one; with the lowest ids first, p near 0 is greedy.
# It installs PyTorch 2.15.0 (5 GB), which runs on the CPU here.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 transformers==5.24.0 numpy==2.4.6
cat > "$work/look.py" <<'PYTHON'
import sys

import numpy as np
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

torch.set_num_threads(1)


def kept(warper, logits):
    return torch.isfinite(warper(None, logits[None].clone())[0]).nonzero().flatten().tolist()


few, many = kept(TopPLogitsWarper(0.5), torch.zeros(4)), kept(TopPLogitsWarper(0.5), torch.zeros(32))
print(f"4 equal: {few}; 32 equal: {many}")
logits = torch.from_numpy(np.random.RandomState(0).standard_normal(129280) * 3).bfloat16().float()
left = kept(TopPLogitsWarper(0.9), logits)
equals = (logits == logits[left].min()).nonzero().flatten().tolist()
survivors = sorted(set(equals) & set(left))
highest, lowest = equals[-len(survivors) :], equals[: len(survivors)]
print(f"129,280: {len(equals)} equal at the cut, {len(survivors)} survive; "
      f"the highest ids: {survivors == highest}, the lowest: {survivors == lowest}")
tie = torch.tensor([3.0, 3.0, 1.0])
nearly_greedy = kept(TopPLogitsWarper(1e-6), tie)
top_1 = kept(TopKLogitsWarper(1), tie)
print(f"[3, 3, 1]: argmax {tie.argmax().item()}, top-p 1e-6 {nearly_greedy}, top-k 1 {top_1}")
ok = few == [2, 3] and many == list(range(16)) and len(equals) > 1 and survivors not in (highest, lowest)
ok = ok and tie.argmax().item() == 0 and nearly_greedy == [1] and top_1 == [0, 1]
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
