#!/usr/bin/env bash
# jsonschema 4.26.0 (PyPI), two keywords of answers that were constrained to a schema.
# `"format": "time"`: checked by `FormatChecker()` it refuses every time of RFC 3339, such as 12:00:00Z, which is what
# all drafts since 7 mean, and takes 12:00:00, which they refuse: its check is that of draft 3. Checkers of the newer
# drafts, `Draft202012Validator.FORMAT_CHECKER`, take any string for a time, as long as rfc3339-validator is missing.
# llguidance 1.9.1 (PyPI) writes times of RFC 3339 alone, so no time of its answers passes `FormatChecker()`.
# `"multipleOf": 0.01`: divides doubles, so 0.07 and 4.35 fail, and 0.06 passes; llguidance allows all three.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check jsonschema==4.26.0
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps llguidance==1.9.1
cat > "$work/look.py" <<'PYTHON'
import json, sys

from jsonschema import Draft202012Validator, FormatChecker
from llguidance import LLMatcher, LLTokenizer

tokenizer = LLTokenizer("byte")


def by_llguidance(schema, value):
    made = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema), log_level=0)
    tokens = tokenizer.tokenize_str(json.dumps(value))
    return made.try_consume_tokens(tokens) == len(tokens) and made.is_accepting()


TIME, CENTS = {"type": "string", "format": "time"}, {"type": "number", "multipleOf": 0.01}
# schema, value, valid by FormatChecker(), valid by the draft's own checker, allowed by llguidance
cases = [
    (TIME, "12:00:00Z", False, True, True),
    (TIME, "12:00:00+02:00", False, True, True),
    (TIME, "12:00:00", True, True, False),
    (TIME, "noon", False, True, False),
    (CENTS, 0.06, True, True, True),
    (CENTS, 0.07, False, False, True),
    (CENTS, 4.35, False, False, True),
    (CENTS, 0.065, False, False, False),
]
ok = True
for schema, value, *expected in cases:
    checkers = FormatChecker(), Draft202012Validator.FORMAT_CHECKER
    valid = [Draft202012Validator(schema, format_checker=checker).is_valid(value) for checker in checkers]
    seen = valid + [by_llguidance(schema, value)]
    print(f"{json.dumps(schema)} {value!r}: valid {seen[0]} and {seen[1]}, allowed by llguidance {seen[2]}")
    ok &= seen == expected
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
