#!/usr/bin/env bash
# outlines-core 0.2.14 (PyPI) turns a JSON schema into one regex, and pastes a string's `pattern` between two quotes as
# it is: no group around it, and no JSON escapes. So the regex takes text that is not JSON at all, and for alternatives
# (and for allOf, whose parts it writes one after the other) it refuses the answers that the schema describes:
#   "pattern": "^cat|dog$"   ("cat|dog")   takes the words with one quote each, refuses them with two
#   "pattern": "^.+$"        (".+")        takes "a"b" and "\"
#   "pattern": "^[^,]+$"     ("[^,]+")     takes a line break inside the string
#   "allOf": [A, B]          AB            takes an A with a B after it, {"a":1}{"b":2}
# A pattern also matches the whole string, where JSON Schema searches for it. llguidance 1.9.1 (PyPI) does all right.
# What works: a group around alternatives, classes that exclude quotes, backslashes and control characters, no allOf.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps outlines-core==0.2.14 llguidance==1.9.1
cat > "$work/look.py" <<'PYTHON'
import json, re, sys

from llguidance import LLMatcher, LLTokenizer
from outlines_core.json_schema import build_regex_from_schema

tokenizer = LLTokenizer("byte")


def by_llguidance(schema, text):
    made = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema), log_level=0)
    tokens = tokenizer.tokenize_str(text)
    return made.try_consume_tokens(tokens) == len(tokens) and made.is_accepting()


def is_json(text):
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def string(pattern):
    return {"type": "string", "pattern": pattern}


def needs(name):
    return {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}


both = {"allOf": [needs("a"), needs("b")]}
# schema, text, taken by outlines-core, taken by llguidance
cases = [
    (string("^cat|dog$"), '"cat', True, False),
    (string("^cat|dog$"), 'dog"', True, False),
    (string("^cat|dog$"), '"cat"', False, True),
    (string("^cat|dog$"), '"dog"', False, True),
    (string("^(cat|dog)$"), '"cat"', True, True),
    (string("^.+$"), '"a"b"', True, False),
    (string("^.+$"), '"\\"', True, False),
    (string("^[^,]+$"), '"a\nb"', True, False),
    (string("cat"), '"cats"', False, True),
    (both, '{"a":1}{"b":2}', True, False),
    (both, '{"a":1,"b":2}', False, True),
]
ok = True
for schema, text, outlines, llguidance in cases:
    regex = build_regex_from_schema(json.dumps(schema))
    taken = re.fullmatch(regex, text) is not None, by_llguidance(schema, text)
    print(f"{json.dumps(schema)}\n  {regex}")
    print(f"  {text!r} is JSON: {is_json(text)}, taken by outlines-core and llguidance: {taken}")
    ok &= taken == (outlines, llguidance) and is_json(text) == llguidance
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
