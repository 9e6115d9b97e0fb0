#!/usr/bin/env bash
# TensorBoard 2.21.0 (PyPI) reads one folder of event files in three ways, and they disagree about a resumed run.
# A run wrote steps 0..9 into one file, and after its resume steps 5..11 into a second. Each file begins with
# file_version "brain.Event:2"; in folder `start` the second file then has SessionLog START with step 5, as torch's purge_step writes.
#   reader                                    plain (no START)           start
#   `tensorboard` (its data server in Rust)   5..9 replaced: 12 points   12 points
#   `tensorboard --load_fast=false`           both kept: 17 points       17 points: START changes nothing
#   EventAccumulator in Python                both kept: 17 points       12 points
# Files are read in the order of their names as strings. In folder `order` tfevents.9 has steps 0..2 and tfevents.10 has steps
# 3..5: "10" comes before "9", so the default reader drops steps 3..5, which nobody overwrote; the other two show them out of order.
# What works everywhere: names whose numbers have one width, and no step written twice.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  tensorboard==2.21.0 tensorboard-data-server==0.7.2 protobuf==7.36.2 numpy==2.4.6 setuptools==65.5.0
cat > "$work/look.py" <<'PYTHON'
import json, os, socket, subprocess, sys, time, urllib.request

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

root = os.path.join(sys.argv[1], "runs")
VERSION = event_pb2.Event(wall_time=1.0, file_version="brain.Event:2")
START = event_pb2.Event(wall_time=2.0, step=5, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))


def scalars(steps, value):
    for step in steps:
        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag="loss", simple_value=value)])
        yield event_pb2.Event(wall_time=value, step=step, summary=summary)


def write(run, number, events):
    os.makedirs(os.path.join(root, run), exist_ok=True)
    with open(os.path.join(root, run, f"events.out.tfevents.{number}.host"), "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


write("plain", 1, [VERSION, *scalars(range(10), 1.0)])
write("plain", 2, [VERSION, *scalars(range(5, 12), 2.0)])
write("start", 1, [VERSION, *scalars(range(10), 1.0)])
write("start", 2, [VERSION, START, *scalars(range(5, 12), 2.0)])
write("order", 9, [VERSION, *scalars(range(3), 1.0)])
write("order", 10, [VERSION, *scalars(range(3, 6), 2.0)])
POINTS = {"plain": 17, "start": 17, "order": 6}


def accumulated():
    for run in POINTS:
        reader = EventAccumulator(os.path.join(root, run))
        reader.Reload()
        yield run, [event.step for event in reader.Scalars("loss")]


def served(fast):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = os.path.join(os.path.dirname(sys.executable), "tensorboard")
    command = [program, "--logdir", root, "--load_fast", fast, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/data/plugin/scalars/"
        for _ in range(120):
            time.sleep(0.5)
            try:
                if len(json.load(urllib.request.urlopen(url + "tags"))) == len(POINTS):
                    break
            except OSError:
                pass
        time.sleep(3)  # every file of a folder is read within one pass, which may still go on
        for run in POINTS:
            points = json.load(urllib.request.urlopen(url + f"scalars?tag=loss&run={run}"))
            yield run, [step for _, step, _ in points]
    finally:
        server.kill()
        server.wait()


once = list(range(12))
twice = list(range(10)) + list(range(5, 12))
expected = {
    "tensorboard": {"plain": once, "start": once, "order": [0, 1, 2]},
    "tensorboard --load_fast=false": {"plain": twice, "start": twice, "order": [3, 4, 5, 0, 1, 2]},
    "EventAccumulator": {"plain": twice, "start": once, "order": [3, 4, 5, 0, 1, 2]},
}
seen = {
    "tensorboard": dict(served("true")),
    "tensorboard --load_fast=false": dict(served("false")),
    "EventAccumulator": dict(accumulated()),
}
for reader, runs in seen.items():
    for run, steps in runs.items():
        print(f"{reader}: {run}: {len(steps)} points, steps {steps}")
if seen != expected:
    print("changed: expected", expected)
    sys.exit(1)
PYTHON
if ! "$work/venv/bin/python" "$work/look.py" "$work" 2>"$work/errors"; then tail -n 5 "$work/errors" >&2; exit 1; fi
