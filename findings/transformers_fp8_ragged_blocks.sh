#!/usr/bin/env bash
# transformers 5.24.0 (PyPI) without a GPU turns a block-scaled FP8 checkpoint into floating point as it loads it. It
# does not take the size of a block from weight_block_size in config.json: it divides rows by rows of scales, and
# columns likewise.
# In the published format the blocks at the edge of a matrix are ragged: row r has scale r / 128. So with [128, 128]
#   192 rows, 2 rows of scales   loads without a word, and rows 96..127 get the second scale instead of the first
#   136 rows, 2 rows of scales   the same for rows 68..127
#   576 rows, 5 rows of scales   refused: kv_a_proj_with_mqa of DeepSeek-V2, V3 and Kimi-K2 has these 512 + 64 rows
#   256 rows, 2 rows of scales   right
# Below every code is 1.0 and every scale is the number of its block, so a weight tells which scale it was read with.
# What works everywhere: dimensions that are multiples of 128, or a BF16 checkpoint.
# It installs PyTorch 2.15.0 (5 GB) and hides GPUs from it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.15.0 transformers==5.24.0 accelerate==1.15.0 safetensors==0.8.0 numpy==2.4.6
cat > "$work/look.py" <<'PYTHON'
import json, pathlib, sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
torch.set_num_threads(1)
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def checkpoint(folder, intermediate, latent):
    sizes = dict(
        vocab_size=64, hidden_size=128, intermediate_size=intermediate, num_hidden_layers=1, first_k_dense_replace=1,
        num_attention_heads=2, num_key_value_heads=2, q_lora_rank=128, kv_lora_rank=latent, qk_rope_head_dim=64,
        qk_nope_head_dim=64, v_head_dim=64, max_position_embeddings=64,
    )
    DeepseekV3ForCausalLM(DeepseekV3Config(**sizes)).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("proj.weight", "proj_with_mqa.weight"))]:
        rows, columns = tensors[name].shape
        blocks = (-(-rows // 128), -(-columns // 128))
        tensors[name] = torch.ones(rows, columns).to(torch.float8_e4m3fn)
        tensors[name + "_scale_inv"] = torch.arange(blocks[0] * blocks[1], dtype=torch.float32).reshape(blocks)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": FP8}))


def blocks(folder, name):
    """Rows that were read with each row of scales, by the first column of the loaded weight."""
    weight = AutoModelForCausalLM.from_pretrained(folder).get_parameter(name)
    return weight[:, 0].unique_consecutive(return_counts=True)[1].tolist()


GATE, LATENT = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
seen = {}
for rows in (256, 192, 136):
    folder = pathlib.Path(sys.argv[1], str(rows))
    checkpoint(folder, rows, latent=64)
    seen[rows] = blocks(folder, GATE)
    print(f"{rows} rows, blocks of 128: scales were read for blocks of {seen[rows]} rows")
folder = pathlib.Path(sys.argv[1], "576")
checkpoint(folder, 256, latent=512)
logging.set_verbosity(logging.CRITICAL)
try:
    seen[576] = blocks(folder, LATENT)
except RuntimeError as error:
    seen[576] = type(error).__name__
print(f"576 rows, blocks of 128: {seen[576]}")
expected = {256: [128, 128], 192: [96, 96], 136: [68, 68], 576: "RuntimeError"}
sys.exit(None if seen == expected else f"changed: expected {expected}")
PYTHON
export CUDA_VISIBLE_DEVICES=
if ! "$work/venv/bin/python" "$work/look.py" "$work" 2>"$work/errors"; then tail -n 5 "$work/errors" >&2; exit 1; fi
