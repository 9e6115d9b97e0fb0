"""Checks that TensorBoard reads a run's event files, and that every scalar is that of metrics.jsonl.

    python tests/python/tensorboard_reads.py runs/a [runs/b ...]

Needs tensorboard (seen with 2.21.0).
"""

import json
import os
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator

TAGS = {
    "loss/train": "loss",
    "loss/validation": "validation_loss",
    "loss/mtp": "mtp_loss",
    "lr": "lr",
    "grad_norm": "grad_norm",
    "tokens_per_second": "tokens_per_second",
    "tokens": "tokens",
    "experts/balance_loss": "balance_loss",
    "experts/max_violation": "max_violation",
    "experts/dead": "dead_experts",
}


def single(value):
    """The nearest f32, which event files hold."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def check(folder):
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    reader = EventAccumulator(folder, size_guidance={SCALARS: 0, TENSORS: 0})
    reader.Reload()
    compared = 0
    for tag, key in TAGS.items():
        wanted = [(row["step"], single(row[key])) for row in rows if key in row]
        found = [(event.step, event.value) for event in reader.Scalars(tag)] if wanted else []
        assert found == wanted, f"{folder}: {tag} is not {key}: {len(found)} and {len(wanted)} values"
        compared += len(wanted)
    for source in sorted({name for row in rows for name in row.get("loss_by_source", {})}):
        wanted = [
            (row["step"], single(row["loss_by_source"][source])) for row in rows if source in row.get("loss_by_source", {})
        ]
        assert [(event.step, event.value) for event in reader.Scalars(f"loss_by_source/{source}")] == wanted, source
        compared += len(wanted)
    samples = [row["sample"] for row in rows if "sample" in row]
    texts = [event.tensor_proto.string_val[0].decode() for event in reader.Tensors("sample")] if samples else []
    assert len(texts) == len(samples), f"{folder}: {len(texts)} of {len(samples)} samples"
    for text, sample in zip(texts, samples):
        assert [line[4:] for line in text.splitlines()] == sample.split("\n")[: len(text.splitlines())], sample
    times = [event.wall_time for event in reader.Scalars("loss/train")]
    assert times == sorted(times), f"{folder}: time runs back"
    print(f"{folder}: {len(rows)} steps, {compared} scalars and {len(samples)} samples are those of metrics.jsonl")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for run in sys.argv[1:]:
        check(run)
