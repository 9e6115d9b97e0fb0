#!/usr/bin/env bash
# LiteLLM 1.110.2 (PyPI) before an OpenAI-compatible server, streams whose answers are right and come out otherwise:
#   n=2, choice 1 ends with "length", then choice 0 with "stop": one finish_reason arrives, "length" on choice 0. Put
#       together by `stream_chunk_builder`, choice 0 has "length" and choice 1 "stop", each the other's.
#   n=2, choice 0 ends with "stop", then choice 1 with "length": "stop" for both, no sign that one was cut off
#   101 pieces of the same text of 3 characters or more, such as "----" of a table, with n=1: an error after 100 of
#       them, "The model is repeating the same chunk", with status 503 as if the server had failed
# The answers without stream have both reasons right. Pieces of 2 characters may repeat, and so may reasoning_content.
# What works: one choice a request; `litellm.REPEATED_STREAMING_CHUNK_LIMIT`, raised before the request.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check litellm==1.110.2 openai==3.57.0
cat > "$work/look.py" <<'PYTHON'
import http.server, json, sys, threading

import litellm

litellm.suppress_debug_info = True


class Server(http.server.BaseHTTPRequestHandler):
    """Streams the pieces that the request's message lists: the choice, its fields, and the reason of its end."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        pieces = json.loads(asked["messages"][0]["content"])
        head = {"id": "c", "created": 1, "model": "m"}
        if asked.get("stream"):
            head["object"] = "chat.completion.chunk"
            choices = [{"index": i, "delta": delta, "finish_reason": end} for i, delta, end in pieces]
            events = [json.dumps(head | {"choices": [choice]}) for choice in choices] + ["[DONE]"]
            kind, text = "text/event-stream", "".join(f"data: {event}\n\n" for event in events)
        else:
            message = {"role": "assistant", "content": "text"}
            choices = [{"index": i, "message": message, "finish_reason": end} for i, _, end in pieces if end]
            choices.sort(key=lambda choice: choice["index"])
            kind, text = "application/json", json.dumps(head | {"object": "chat.completion", "choices": choices})
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"


def ask(pieces, **options):
    messages = [{"role": "user", "content": json.dumps(pieces)}]
    return litellm.completion(model="openai/m", api_base=url, api_key="none", messages=messages, **options)


def text(choice, content):
    return [choice, {"role": "assistant", "content": content}, None]


ok = True
for order, expected in [
    ([(1, "length"), (0, "stop")], {0: "length", 1: "stop"}),
    ([(0, "stop"), (1, "length")], {0: "stop", 1: "stop"}),
]:
    pieces = [text(0, "a"), text(1, "b")] + [[choice, {}, end] for choice, end in order]
    streamed = list(ask(pieces, n=2, stream=True))
    ends = [(piece.choices[0].index, piece.choices[0].finish_reason) for piece in streamed]
    ends = [end for end in ends if end[1]]
    joined = {choice.index: choice.finish_reason for choice in litellm.stream_chunk_builder(streamed).choices}
    whole = {choice.index: choice.finish_reason for choice in ask(pieces, n=2).choices}
    print(f"sent {order}\n  stream {ends}, joined {joined}, without stream {whole}")
    ok &= ends == [(0, order[0][1])] and joined == expected and whole == dict(order)


def taken(field, piece, count, limit):
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = limit
    pieces = [[0, {"role": "assistant", field: piece}, None]] * count + [[0, {}, "stop"]]
    seen = 0
    try:
        for part in ask(pieces, stream=True):
            seen += bool(part.choices and getattr(part.choices[0].delta, field, None))
    except litellm.ServiceUnavailableError as error:
        return seen, "repeating the same chunk" in str(error)
    return seen, False


default = litellm.REPEATED_STREAMING_CHUNK_LIMIT
for field, piece, count, limit, expected in [
    ("content", "----", 100, default, (100, False)),
    ("content", "----", 101, default, (100, True)),
    ("content", "----", 101, 1000, (101, False)),
    ("content", "--", 101, default, (101, False)),
    ("reasoning_content", "----", 101, default, (101, False)),
]:
    seen = taken(field, piece, count, limit)
    end = "an error" if seen[1] else "no error"
    print(f"{field} {piece!r} in {count} pieces, limit {limit}: {seen[0]} arrive, {end}")
    ok &= seen == expected
sys.exit(None if ok else "changed")
PYTHON
export LITELLM_LOCAL_MODEL_COST_MAP=True
if ! "$work/venv/bin/python" "$work/look.py" 2>"$work/errors"; then tail -n 5 "$work/errors" >&2; exit 1; fi
