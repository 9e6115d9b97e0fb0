#!/usr/bin/env bash
# lm-eval 0.4.13 (PyPI): a few-shot prompt can hold the very question that it asks, with its answer. A task whose only
# split is the test split, and that names no fewshot_split, takes its examples from the test split and does not leave
# out the question. No message says so where the number of examples is an argument, as --num_fewshot is. With
# `fewshot_split: test`, which is the same split, the question is left out.
# Below, 20 questions with 5 examples each: 8 prompts hold their own answer without fewshot_split, none with it.
# What works: fewshot_split in every task that is given examples.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lm-eval==0.4.13 datasets==5.2.0 numpy==2.4.6
cat > "$work/look.py" <<'PYTHON'
import json, logging, pathlib, sys

import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

folder = pathlib.Path(sys.argv[1], "tasks")
folder.mkdir()
questions = folder / "questions.jsonl"
questions.write_text("".join(json.dumps({"q": f"question {i:02}", "a": f"answer {i:02}"}) + "\n" for i in range(20)))
TASK = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(questions)}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{q}}:",
    "doc_to_target": "{{a}}",
    "metric_list": [{"metric": "exact_match"}],
}
for name, more in [("unnamed", {}), ("named", {"fewshot_split": "test"})]:
    (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **TASK, **more}))


class Prompts(LM):
    """A model that keeps the prompts, and answers nothing."""

    def generate_until(self, requests):
        self.prompts = [request.args[0] for request in requests]
        return ["" for _ in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


seen = {}
for name in ("unnamed", "named"):
    model = Prompts()
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    lm_eval.simple_evaluate(model, tasks=[name], num_fewshot=5, task_manager=manager, bootstrap_iters=0)
    own = [prompt for prompt in model.prompts if prompt.count(prompt.rsplit("\n", 1)[-1]) > 1]
    seen[name] = len(own)
    print(f"{name}: {len(model.prompts)} prompts, {len(own)} with their own answer")
    if own:
        print(own[0])
sys.exit(None if seen["unnamed"] > 0 and seen["named"] == 0 else "changed")
PYTHON
export HF_DATASETS_OFFLINE=1 HF_HUB_OFFLINE=1 HF_HOME="$work/cache"
if ! "$work/venv/bin/python" "$work/look.py" "$work" 2>"$work/errors"; then tail -n 5 "$work/errors" >&2; exit 1; fi
