#!/usr/bin/env bash
# The official clients openai 3.57.0 (PyPI) and openai 7.59.0 (npm) both have `client.chat.completions.stream(…)`, to
# put the pieces of a streamed answer together, and they make another message of the same stream. The pieces' fields
# that OpenAI does not have, such as reasoning_content of DeepSeek-style servers:
#   reasoning_content "a", then "b"     Python: "ab"                    npm: "b", so only the last token of a thought
#   a number in each piece, 5, then 7   Python: 12, it adds             npm: 7
#   true in each piece                  Python: 2                       npm: true
# and a field that it does have, if a server sends it with each piece:
#   role "assistant", twice             Python: "assistantassistant"    npm: "assistant"
# An answer that max_tokens ended, in plain text and with no response_format:
#   finish_reason "length"              Python: LengthFinishReasonError     npm: the message
# though `parse(…)`, the same without a stream, raises LengthFinishReasonError in both.
# What works: `create(…)` with stream, and own code that joins the pieces; the role in the first piece alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
(cd "$work" && npm install --silent --no-audit --no-fund --no-save openai@7.59.0 >/dev/null)
cat > "$work/look.mjs" <<'NODE'
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });
for (let asked = 0; asked < Number(process.argv[3]); asked += 1) {
  const stream = client.chat.completions.stream({ model: "m", messages: [{ role: "user", content: String(asked) }] });
  const { choices } = await stream.finalChatCompletion();
  console.log(JSON.stringify(choices[0].message));
}
const messages = [{ role: "user", content: String(Number(process.argv[3]) - 1) }];
const parsed = client.chat.completions.parse({ model: "m", messages });
console.log(await parsed.then(({ choices }) => choices[0].finish_reason, (error) => error.constructor.name));
NODE
cat > "$work/look.py" <<'PYTHON'
import http.server, json, subprocess, sys, threading

import openai

# fields of the pieces, the reason of the end, and what Python's and npm's client make of them
CASES = [
    ([{"reasoning_content": "a"}, {"reasoning_content": "b"}], "stop", "ab", "b"),
    ([{"number": 5}, {"number": 7}], "stop", 12, 7),
    ([{"flag": True}, {"flag": True}], "stop", 2, True),
    ([{"role": "assistant"}, {"role": "assistant"}], "stop", "assistantassistant", "assistant"),
    ([{"content": "a"}, {"content": "b"}], "stop", "ab", "ab"),
    ([{"content": "a"}, {"content": "b"}], "length", "LengthFinishReasonError", "ab"),
]


def pieces(case):
    fields, reason, *_ = case
    deltas = [({"role": "assistant"} if i == 0 else {}) | delta for i, delta in enumerate(fields)] + [{}]
    for i, delta in enumerate(deltas):
        choice = {"index": 0, "delta": delta, "finish_reason": reason if i == len(fields) else None}
        yield {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


class Server(http.server.BaseHTTPRequestHandler):
    """Streams the case whose number is the request's message, or says all of it."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        case = CASES[int(asked["messages"][0]["content"])]
        if asked.get("stream"):
            events = [json.dumps(piece) for piece in pieces(case)] + ["[DONE]"]
            kind, text = "text/event-stream", "".join(f"data: {event}\n\n" for event in events)
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": case[1]}
            head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
            kind, text = "application/json", json.dumps(head | {"choices": [choice]})
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"
client = openai.OpenAI(base_url=url, api_key="none")
ok = True
command = ["node", sys.argv[1], url, str(len(CASES))]
lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
for number, (fields, reason, python, npm) in enumerate(CASES):
    name = next(iter(fields[0]))
    try:
        with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": str(number)}]) as stream:
            by_python = stream.get_final_completion().choices[0].message.model_dump()[name]
    except openai.LengthFinishReasonError as error:
        by_python = type(error).__name__
    seen = json.loads(lines[number])[name]
    print(f"{fields}, {reason}: Python {by_python!r}, npm {seen!r}")
    ok &= (by_python, type(by_python), seen, type(seen)) == (python, type(python), npm, type(npm))
messages = [{"role": "user", "content": str(len(CASES) - 1)}]
created = client.chat.completions.create(model="m", messages=messages).choices[0].finish_reason
try:
    parsed = client.chat.completions.parse(model="m", messages=messages).choices[0].finish_reason
except openai.LengthFinishReasonError as error:
    parsed = type(error).__name__
print(f"an answer that max_tokens ended, without stream: create {created!r}, parse {parsed!r}, npm's parse {lines[-1]!r}")
ok &= (created, parsed, lines[-1]) == ("length", "LengthFinishReasonError", "LengthFinishReasonError")
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py" "$work/look.mjs"
