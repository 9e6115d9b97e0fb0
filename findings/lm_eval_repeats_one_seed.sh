#!/usr/bin/env bash
# lm-eval 0.4.13 (PyPI) with a server that keeps its word on `seed`: a task that samples several answers to a question,
# for majority votes or pass@k, gets the same answer each time. `local-completions` and `local-chat-completions` send
# "seed": 1234 with every request, also with `repeats` and a temperature, so the repeats are one request sent again.
# Below, a server draws one of 10^12 numbers from the seed, and from none if there is none; 3 questions, 8 repeats:
#   by default                                    1 distinct answer in 8
#   with model_args seed=5                        1 distinct answer in 8
#   with `seed: null` in the generation_kwargs    8 distinct answers in 8, since they come after the seed
# A majority of k is then the first answer, and pass@k is pass@1, with no message. A server that passes over `seed`
# hides it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'lm-eval[api]==0.4.13' datasets==5.2.0 numpy==2.4.6
cat > "$work/look.py" <<'PYTHON'
import http.server, json, pathlib, random, sys, threading

import lm_eval
from lm_eval.tasks import TaskManager

QUESTIONS, REPEATS = 3, 8


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with a random number of the request's seed."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seeds.append(asked.get("seed"))
        prompts = asked.get("prompt", "chat")
        count = 1 if isinstance(prompts, str) else len(prompts)
        text = str(random.Random(asked.get("seed")).randrange(10**12))
        body = {"message": {"role": "assistant", "content": text}} if "messages" in asked else {"text": text}
        answer = {"choices": [{"index": i, "finish_reason": "stop", **body} for i in range(count)]}
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
questions.write_text("".join(json.dumps({"q": f"question {i}", "a": "0"}) + "\n" for i in range(QUESTIONS)))
for name, more in [("sampled", {}), ("no_seed", {"seed": None})]:
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(questions)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}:",
        "doc_to_target": "{{a}}",
        "repeats": REPEATS,
        "generation_kwargs": {"do_sample": True, "temperature": 1.0, "until": ["\n"], **more},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task))
ok = True
for model, route, task, more, expected in [
    ("local-completions", "completions", "sampled", {}, (1, {1234})),
    ("local-completions", "completions", "sampled", {"seed": 5}, (1, {5})),
    ("local-completions", "completions", "no_seed", {}, (REPEATS, {None})),
    ("local-chat-completions", "chat/completions", "sampled", {}, (1, {1234})),
]:
    seeds = []
    arguments = {"model": "m", "base_url": f"{url}/{route}", "tokenizer_backend": None, "tokenized_requests": False}
    results = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments | more,
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        apply_chat_template="chat" in model,
        bootstrap_iters=0,
        log_samples=True,
    )
    answers = [len({answer for part in sample["resps"] for answer in part}) for sample in results["samples"][task]]
    print(f"{model}, {task}, {more}: {len(seeds)} requests, seeds {set(seeds)}, distinct answers to each {answers}")
    ok &= len(seeds) == QUESTIONS * REPEATS and (answers, set(seeds)) == ([expected[0]] * QUESTIONS, expected[1])
sys.exit(None if ok else "changed")
PYTHON
export HF_DATASETS_OFFLINE=1 HF_HUB_OFFLINE=1 HF_HOME="$work/cache"
if ! "$work/venv/bin/python" "$work/look.py" "$work" 2>"$work/errors"; then tail -n 5 "$work/errors" >&2; exit 1; fi
