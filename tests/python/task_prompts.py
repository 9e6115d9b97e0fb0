"""Requests that lm-evaluation-harness makes of one item each of tasks without golden numbers: golden/tasks/prompts.json.

    python tests/python/task_prompts.py tests/golden/tasks/prompts.json

The items are made up here. Needs lm-eval 0.4.13; nothing is fetched. The task files are the harness's own; their data
sets are replaced by a file with the item, and the metric of humaneval, which is fetched, by another.
"""

import json
import sys
import tempfile
from pathlib import Path

import lm_eval.tasks
import yaml
from lm_eval.api.task import ConfigurableTask

ITEMS = {
    "arc_challenge": {
        "id": "x1",
        "question": "Which of these melts at room temperature?  ",
        "choices": {"text": ["iron", " a block of ice", "quartz", "salt"], "label": ["1", "2", "3", "4"]},
        "answerKey": "2",
    },
    "boolq": {"passage": " Ducks swim.\nGeese do too", "question": "do ducks swim", "idx": 0, "label": 1},
    "humaneval": {
        "task_id": "x/0",
        "prompt": "def add(a, b):\n    \"\"\" {{ a }} and b \"\"\"\n",
        "canonical_solution": "    return a + b\n",
        "test": "\n\ndef check(candidate):\n    assert candidate(2, 3) == 5\n",
        "entry_point": "add",
    },
    "openbookqa": {
        "id": "x2",
        "question_stem": "A shadow is longest",
        "choices": {"text": ["at noon", "near sunset", "at midnight", "never"], "label": ["A", "B", "C", "D"]},
        "answerKey": " B",
    },
    "piqa": {"goal": "Open a jar. ", "sol1": "Turn the lid.", "sol2": " Turn the jar.", "label": 1},
}
FILES = {
    "arc_challenge": "arc/arc_challenge.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "humaneval": "humaneval/humaneval.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "piqa": "piqa/piqa.yaml",
}


class Loader(yaml.SafeLoader):
    """Reads task files without the functions that they name."""


Loader.add_constructor("!function", lambda loader, node: node.value)


def config(path):
    """The settings of a task file, with those of the file that it includes."""
    settings = yaml.load(path.read_text(), Loader)
    base = settings.pop("include", None)
    return {**config(path.parent / base), **settings} if base else settings


def requests(name, folder):
    settings = config(Path(lm_eval.tasks.__file__).parent / FILES[name])
    path = folder / f"{name}.jsonl"
    path.write_text(json.dumps(ITEMS[name]) + "\n")
    for split in ("training_split", "validation_split", "test_split", "fewshot_split", "dataset_name", "tag"):
        settings.pop(split, None)
    settings.update(dataset_path="json", dataset_kwargs={"data_files": {"test": str(path)}}, test_split="test")
    if name == "humaneval":
        settings.pop("filter_list")
        settings["metric_list"] = [{"metric": "exact_match"}]
    task = ConfigurableTask(config=settings)
    task.build_all_requests(limit=1, rank=0, world_size=1)
    arguments = [list(instance.args) for instance in task.instances]
    return {"item": ITEMS[name], "version": task.VERSION, "target": task.doc_to_target(task.instances[0].doc), "requests": arguments}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = {name: requests(name, Path(folder)) for name in ITEMS}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
