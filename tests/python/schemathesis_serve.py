"""Requests that schemathesis makes of the server's own OpenAPI document, against a server with a small model.

    pip install schemathesis==4.32.5
    python tests/python/schemathesis_serve.py target/release/serve [EXAMPLES]

Runs twice: without a key, and with one. The document says in words what depends on the model and the server's options;
here those limits are written into it, so that every request that fits it must be accepted.
"""

import copy
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "clients"))
from server import Server  # noqa: E402

EXAMPLES = sys.argv[2] if len(sys.argv) > 2 else "100"
KEY = "secret"


def limited(document, vocabulary):
    """The document with the limits of this model and of the options below, and fields that need others in groups."""
    document = copy.deepcopy(document)
    # These have another base address.
    for path in ("/", "/favicon.ico"):
        del document["paths"][path]
    schemas = document["components"]["schemas"]
    schemas["TokenId"]["maximum"] = vocabulary - 1
    shared = schemas["Sampling"]["properties"]
    shared["model"] = {"enum": ["small", None]}
    shared["n"] |= {"maximum": 3}
    # These belong to another field's value: best_of to n, stream_options to stream, min_tokens to max_tokens and forms.
    shared["best_of"] = {"type": "null"}
    shared["stream_options"] = {"type": "null"}
    # Not every schema and expression is supported, and only one of these may be given.
    form = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    shared["response_format"] = {"enum": [None, {"type": "text"}, {"type": "json_object"}, {"type": "json_schema",
                                          "json_schema": {"name": "a", "schema": form}}]}  # fmt: skip
    for name in ("guided_json", "guided_regex", "guided_choice", "structured_outputs", "json_schema"):
        shared[name] = {"type": "null"}
    shared["min_tokens"] = {"type": "null"}
    shared["logit_bias"]["propertyNames"] = {"enum": [str(i) for i in range(vocabulary)]}
    completion = schemas["CompletionRequest"]["properties"]
    completion["max_tokens"] |= {"maximum": 20}
    # The model has no tokens for gaps.
    completion["suffix"] = {"enum": ["", None]}
    chat = schemas["ChatRequest"]["properties"]
    for limit in ("max_tokens", "max_completion_tokens"):
        chat[limit] |= {"maximum": 20}
    # Also these belong to others: top_logprobs to logprobs, the rest to the last message.
    chat["top_logprobs"] = {"enum": [0, None]}
    chat["continue_final_message"] = {"enum": [False, None]}
    schemas["Message"]["properties"]["prefix"] = {"enum": [False, None]}
    return document


def main():
    with tempfile.TemporaryDirectory() as folder:
        for options in ((), ("--api-key", KEY)):
            with Server(*options, "--queue", "1000", "--max-choices", "3", "--max-tokens", "20") as server:
                request = urllib.request.Request(server.root + "/openapi.json")
                if options:
                    request.add_header("Authorization", f"Bearer {KEY}")
                document = json.load(urllib.request.urlopen(request))
                vocabulary = json.loads((server.folder / "config.json").read_text())["vocab_size"]
                file = pathlib.Path(folder) / "openapi.json"
                file.write_text(json.dumps(limited(document, vocabulary)))
                command = [
                    pathlib.Path(sys.executable).with_name("schemathesis"), "run", file, "--url", server.root + "/v1",
                    "--checks", "all", "--max-examples", EXAMPLES, "--workers", "2", "--request-timeout", "30",
                    "--seed", "1", "--generation-database", "none", "--suppress-health-check", "all",
                    *(("--header", f"Authorization: Bearer {KEY}") if options else ()),
                ]  # fmt: skip
                environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
                result = subprocess.run([str(part) for part in command], env=environment, cwd=folder).returncode
                if result:
                    sys.exit(result)


main()
