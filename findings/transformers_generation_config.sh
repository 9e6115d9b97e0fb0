#!/usr/bin/env bash
# transformers 5.24.0 (PyPI): a generation_config.json that exists hides config.json as a whole, and null in it means
# "the default". Here config.json has eos_token_id 0, and the model always says token 0.
#   no generation_config.json             stops at the first token
#   {"do_sample": false}                  never stops before the limit: no end of text is known
#   {"eos_token_id": null}                the same
#   {"do_sample": true}                   samples among the 50 most probable tokens
#   {"do_sample": true, "top_k": null}    the same: null does not turn top-k off
#   {"do_sample": true, "top_k": 0}       samples among all tokens
# So a reader that takes each key from whichever file has it stops where transformers does not.
# What works everywhere: eos_token_id in both files, and top_k 0 for "off".
# It installs PyTorch 2.15.0 (5 GB), which runs on the CPU here.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 numpy==2.4.6
cat > "$work/look.py" <<'PYTHON'
import json, pathlib, sys

import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM, LogitsProcessor
from transformers.utils import logging

logging.disable_progress_bar()
torch.set_num_threads(1)
VOCABULARY = 100
folder = pathlib.Path(sys.argv[1], "model")
model = DeepseekV3ForCausalLM(DeepseekV3Config(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, first_k_dense_replace=1,
    num_attention_heads=1, num_key_value_heads=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
    qk_nope_head_dim=8, v_head_dim=8, max_position_embeddings=64, bos_token_id=None, eos_token_id=0,
))
torch.nn.init.zeros_(model.lm_head.weight)  # All logits are 0, so argmax is token 0.
model.save_pretrained(folder)


class Ramp(LogitsProcessor):
    """Gives every token its own probability, so that top-k has no ties."""

    def __call__(self, tokens, scores):
        return scores - torch.arange(VOCABULARY) / 100


def load(generation):
    path = folder / "generation_config.json"
    path.unlink(missing_ok=True)
    if generation is not None:
        path.write_text(json.dumps(generation))
    return AutoModelForCausalLM.from_pretrained(folder)


def tokens(generation):
    return load(generation).generate(torch.tensor([[5]]), max_new_tokens=8).shape[1] - 1


def candidates(generation):
    options = dict(max_new_tokens=1, return_dict_in_generate=True, output_scores=True)
    output = load(generation).generate(torch.tensor([[5]]), logits_processor=[Ramp()], **options)
    return int(torch.isfinite(output.scores[0]).sum())


cases = [
    (tokens, None, 1),
    (tokens, {"do_sample": False}, 8),
    (tokens, {"eos_token_id": None}, 8),
    (candidates, {"do_sample": True}, 50),
    (candidates, {"do_sample": True, "top_k": None}, 50),
    (candidates, {"do_sample": True, "top_k": 0}, VOCABULARY),
]
ok = True
for measure, generation, expected in cases:
    seen = measure(generation)
    print(f"{json.dumps(generation)}: {seen} {measure.__name__}")
    ok &= seen == expected
sys.exit(None if ok else "changed")
PYTHON
if ! "$work/venv/bin/python" "$work/look.py" "$work" 2>"$work/errors"; then tail -n 5 "$work/errors" >&2; exit 1; fi
