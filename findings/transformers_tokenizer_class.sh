#!/usr/bin/env bash
# transformers 5.24.0 (PyPI): the ids that AutoTokenizer gives depend on words beside tokenizer.json: `tokenizer_class` in
# tokenizer_config.json and `model_type` in config.json. 4.57.6 splits text as tokenizer.json says. Below, a byte-level BPE with
# the pattern of Llama 3, which OLMo 2 has under the class GPT2Tokenizer:
#   tokenizer_class           model_type          5.24.0                                 4.57.6
#   PreTrainedTokenizerFast   any                 right                                  right
#   GPT2Tokenizer             none, deepseek_v3   splits by GPT-2's pattern, no message  right
#   Qwen2Tokenizer            none, deepseek_v3   splits by Qwen's pattern, no message   right
#   the same two              olmo2               right                                  right
#   LlamaTokenizerFast        none, deepseek_v3   right, with a message                  right
# So OLMo 2's tokenizer is right in its own folder, and wrong in that of a new model of another family, or alone. decode() hides
# it: the text comes back.
# And `add_bos_token: true` with LlamaTokenizerFast, DeepSeek-V3's class, puts the token before a text in 4.57.6 but not in
# 5.24.0, where tokenizer.json has no template for it.
# What works everywhere: PreTrainedTokenizerFast as the class, and a template (post-processor) in tokenizer.json for the token.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/look.py" <<'PYTHON'
import json, pathlib, sys

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = "The year was 20241984.\n\nDON'T\tsay(x)"
tokenizer = Tokenizer(models.BPE())
cut, bytes_only = pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_only])
tokenizer.decoder = decoders.ByteLevel()
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
trainer = trainers.BpeTrainer(
    vocab_size=500, special_tokens=["<begin>", "<end>"], initial_alphabet=alphabet, show_progress=False
)
tokenizer.train_from_iterator(["The year was 1984, then 2024.\n\nDON'T (stop) don't\tsay x=1;\n"] * 50, trainer)
right = tokenizer.encode(TEXT)
old = transformers.__version__.startswith("4.")
print(f"transformers {transformers.__version__}; tokenizer.json: {right.tokens}")
ok = True
folders = pathlib.Path(sys.argv[1], transformers.__version__)


def opened(name, family, **keys):
    folder = folders / f"{name}-{family}-{len(keys)}"
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": name, "bos_token": "<begin>", "eos_token": "<end>", **keys}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if family:
        (folder / "config.json").write_text(json.dumps({"model_type": family}))
    return AutoTokenizer.from_pretrained(folder)


for name in ("PreTrainedTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer", "LlamaTokenizerFast"):
    for family in (None, "deepseek_v3", "olmo2"):
        loaded = opened(name, family)
        ids = loaded.encode(TEXT, add_special_tokens=False)
        same = ids == right.ids
        print(f"{name}, {family}: {'right' if same else loaded.convert_ids_to_tokens(ids)}")
        ok &= same == (old or family == "olmo2" or name not in ("GPT2Tokenizer", "Qwen2Tokenizer"))
        ok &= loaded.decode(ids) == TEXT
for name in ("PreTrainedTokenizerFast", "LlamaTokenizerFast"):
    ids = opened(name, "deepseek_v3", add_bos_token=True).encode("say")
    begins = ids[0] == tokenizer.token_to_id("<begin>")
    print(f"{name}, deepseek_v3, add_bos_token: the text begins with <begin>: {begins}")
    ok &= begins == (old and name == "LlamaTokenizerFast")
sys.exit(None if ok else "changed")
PYTHON
export HF_HUB_OFFLINE=1 HF_HOME="$work/cache"
for version in 4.57.6 5.24.0; do
  python3 -m venv "$work/$version-venv"
  "$work/$version-venv/bin/pip" install --quiet --disable-pip-version-check "transformers==$version"
  if ! "$work/$version-venv/bin/python" "$work/look.py" "$work" 2>"$work/errors"; then tail -n 5 "$work/errors" >&2; exit 1; fi
  if grep -q "tokenizer.json. is ByteLevel" "$work/errors"; then echo "with a message on LlamaTokenizerFast"; fi
done
