#!/usr/bin/env bash
# llguidance 1.9.1 (PyPI), a JSON schema with `properties` that leaves other keys open, as JSON Schema does by default.
# Its strings and keys know \u escapes of control characters only, except in this one place: the keys of the other
# properties may be written with any \u escape, and are kept apart from the declared ones by their spelling. So for an
# integer "a" the mask allows {"a":1,"\u0061":"x"}, which a parser reads as {"a": "x"}: the schema is broken.
#   "\u0061" as a value, as a key without `properties`, or with `additionalProperties: false`: refused
#   "a" for a second time: refused, and "b" twice: allowed, though a parser keeps one of the two
# What works: `additionalProperties: false`, as OpenAI's strict mode asks for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps llguidance==1.9.1
"$work/venv/bin/pip" install --quiet --disable-pip-version-check jsonschema==4.26.0
cat > "$work/look.py" <<'PYTHON'
import json, sys

from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer

tokenizer = LLTokenizer("byte")


def allows(schema, text):
    made = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema), log_level=0)
    tokens = tokenizer.tokenize_str(text)
    return made.try_consume_tokens(tokens) == len(tokens) and made.is_accepting()


integer = {"a": {"type": "integer"}}
opened = {"type": "object", "properties": integer, "required": ["a"]}
closed = {**opened, "additionalProperties": False}
cases = [
    (opened, r'{"a":1,"\u0061":"x"}', True, False),
    (opened, r'{"a":1,"a":2}', False, True),
    (opened, r'{"a":1,"b":2,"b":3}', True, True),
    (opened, r'{"a":1,"b":"\u0061"}', False, True),
    (closed, r'{"\u0061":1}', False, True),
    ({"type": "object"}, r'{"\u0061":1}', False, True),
    ({"type": "object"}, r'{"\u0001":1}', True, True),
]
ok = True
for schema, text, allowed, valid in cases:
    is_allowed = allows(schema, text)
    is_valid = Draft202012Validator(schema).is_valid(json.loads(text))
    print(f"{json.dumps(schema)}\n  {text} allowed: {is_allowed}, parsed {json.loads(text)}, valid: {is_valid}")
    ok &= is_allowed == allowed and is_valid == valid
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
