#!/usr/bin/env bash
# tokenizers 0.23.3 (PyPI): `encode_special_tokens = True` keeps special tokens out of raw text only where the model cannot make them itself.
# WordLevel, WordPiece, Unigram, and BPE with `ignore_merges` look a piece of text up in the vocabulary, which holds the special tokens'
# names too, so "</s>" in a text still becomes the end token; only BPE without `ignore_merges` spells it out.
# Seen for "a </s>": the id of </s> last, by all but BPE; BPE gives the pieces < / s >.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cat > "$work/look.py" <<'PYTHON'
import sys

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

words = {"<unk>": 0, "</s>": 1, "a": 2}
pieces = {"<": 0, "/": 1, "s": 2, ">": 3, "</s>": 4, "a": 5}
kinds = {
    "WordLevel": models.WordLevel(words, unk_token="<unk>"),
    "WordPiece": models.WordPiece(words, unk_token="<unk>"),
    "Unigram": models.Unigram([("<unk>", -10.0), ("</s>", -1.0), ("a", -2.0)], unk_id=0),
    "BPE with ignore_merges": models.BPE(pieces, [], ignore_merges=True),
    "BPE": models.BPE(pieces, []),
}
seen = {}
for name, model in kinds.items():
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer.encode_special_tokens = True
    seen[name] = tokenizer.encode("a </s>", add_special_tokens=False).tokens
    print(name, seen[name])
ok = seen.pop("BPE") == ["a", "<", "/", "s", ">"] and all(tokens == ["a", "</s>"] for tokens in seen.values())
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
