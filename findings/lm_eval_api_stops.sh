#!/usr/bin/env bash
# lm-eval 0.4.13 (PyPI), the stop strings (`until`) of a task with a server. `local-chat-completions` sends the first 4
# of them, drops the rest without a message, and does not cut the answer at them either. HumanEval has 5; below, with
# these 5, an answer keeps "\nprint" and what follows, where `local-completions` ends before it. And `eos_string` is
# added to the stop strings if requests go one by one, not with `num_concurrent` of 2 or more: it stays in the text.
#   local-completions         5 sent, answer "x = 1"
#   local-chat-completions    4 sent, answer "x = 1\nprint(x)</s>more"
#   local-chat-completions, 1 stop string, eos_string=</s>    2 sent, answer ends before </s>
#   the same with num_concurrent=2                            1 sent, answer "x = 1\nprint(x)</s>more"
# What works: at most 4 stop strings for chats, with that of the end of text among those of the task.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'lm-eval[api]==0.4.13' datasets==5.2.0 numpy==2.4.6
cat > "$work/look.py" <<'PYTHON'
import http.server, json, pathlib, re, sys, threading

import lm_eval
from lm_eval.tasks import TaskManager

TEXT = "x = 1\nprint(x)</s>more"


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with TEXT up to the first stop string."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        sent.append(asked["stop"])
        text = re.split("|".join(map(re.escape, asked["stop"])), TEXT)[0]
        body = {"message": {"role": "assistant", "content": text}} if "messages" in asked else {"text": text}
        answer = {"choices": [{"index": 0, "finish_reason": "stop", **body}]}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"
folder = pathlib.Path(sys.argv[1], "tasks")
folder.mkdir()
questions = folder / "questions.jsonl"
questions.write_text(json.dumps({"q": "question", "a": "x = 1"}) + "\n")
FIVE, ONE = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"], ["\nclass"]
for name, until in [("five", FIVE), ("one", ONE)]:
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(questions)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}:",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"do_sample": False, "until": until},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task))
CHAT, EOS = "local-chat-completions", {"eos_string": "</s>"}
ok = True
for model, task, more, stops, answer in [
    ("local-completions", "five", {}, FIVE, "x = 1"),
    (CHAT, "five", {}, FIVE[:4], TEXT),
    (CHAT, "one", EOS, ONE + ["</s>"], "x = 1\nprint(x)"),
    (CHAT, "one", EOS | {"num_concurrent": 2}, ONE, TEXT),
    ("local-completions", "one", EOS, ONE + ["</s>"], "x = 1\nprint(x)"),
    ("local-completions", "one", EOS | {"num_concurrent": 2}, ONE, TEXT),
]:
    sent = []
    route = "chat/completions" if model == CHAT else "completions"
    arguments = {"model": "m", "base_url": f"{url}/{route}", "tokenizer_backend": None, "tokenized_requests": False}
    results = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments | more,
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        apply_chat_template=model == CHAT,
        bootstrap_iters=0,
        log_samples=True,
    )
    seen = results["samples"][task][0]["resps"][0][0]
    print(f"{model}, {task} {more}: sent {sent[0]}, answer {seen!r}")
    ok &= sent == [stops] and seen == answer
sys.exit(None if ok else "changed")
PYTHON
export HF_DATASETS_OFFLINE=1 HF_HUB_OFFLINE=1 HF_HOME="$work/cache"
if ! "$work/venv/bin/python" "$work/look.py" "$work" 2>"$work/errors"; then tail -n 5 "$work/errors" >&2; exit 1; fi
