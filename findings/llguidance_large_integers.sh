#!/usr/bin/env bash
# llguidance 1.9.1 (PyPI), JSON schemas with integers beyond 2^53, such as 64-bit ids: `const` and `enum` go through a
# double, with no error and no warning. The mask then forces another number than the schema's and refuses that one:
#   {"const": 9007199254740993}       forces 9007199254740992
#   {"const": 1234567890123456789}    forces 1234567890123456768
#   {"const": 18446744073709551615}   forces 18446744073709552000
#   {"enum": [9007199254740993, 9007199254740995]}   allows ...992 and ...996, neither of the two
#   {"const": 1.0}                    forces 1, and refuses 1.0
# So an answer that was constrained to the schema fails it. Up to 2^53 integers are right, and ids as strings always.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps llguidance==1.9.1
cat > "$work/look.py" <<'PYTHON'
import json, sys

from llguidance import LLMatcher, LLTokenizer

tokenizer = LLTokenizer("byte")


def matcher(schema):
    made = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema), log_level=0)
    if made.is_error() or made.get_grammar_warnings():
        sys.exit(f"changed: {made.get_error()} {made.get_grammar_warnings()}")
    return made


def allows(schema, text):
    made, tokens = matcher(schema), tokenizer.tokenize_str(text)
    return made.try_consume_tokens(tokens) == len(tokens) and made.is_accepting()


ok = True
for wanted, forced in [
    ("9007199254740991", "9007199254740991"),
    ("9007199254740993", "9007199254740992"),
    ("1234567890123456789", "1234567890123456768"),
    ("18446744073709551615", "18446744073709552000"),
    ("1.0", "1"),
]:
    schema = f'{{"const": {wanted}}}'
    seen = matcher(schema).compute_ff_bytes().decode()
    print(f"{schema} forces {seen}, allows {wanted}: {allows(schema, wanted)}")
    ok &= seen == forced and allows(schema, forced) and allows(schema, wanted) == (wanted == forced)
ids = [9007199254740993, 9007199254740995]
schema = json.dumps({"enum": ids})
allowed = [number for number in range(ids[0] - 3, ids[1] + 4) if allows(schema, str(number))]
print(f"{schema} allows {allowed}")
ok &= allowed == [9007199254740992, 9007199254740996]
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
