"""Compares the training losses of pairs of runs: the final loss is the mean over the last tenth of the steps.

    python tests/python/compare_runs.py OUT.svg runs/bf16-1 runs/fp8-1 runs/bf16-2 runs/fp8-2 ...

Every second folder is held against the one before it. Reads each run's metrics.jsonl; needs matplotlib for the plot.
"""
import json
import pathlib
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "fathom"  # the same file for the same runs
import matplotlib.pyplot as plt


def losses(folder):
    lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [(m["tokens"], m["loss"]) for m in map(json.loads, lines)]


def final(run):
    tail = [loss for _, loss in run[-max(1, len(run) // 10):]]
    return sum(tail) / len(tail)


def smooth(run, window=25):
    for i in range(0, len(run), 8):
        part = run[max(0, i - window + 1): i + 1]
        yield run[i][0], sum(loss for _, loss in part) / len(part)


def main(out, *folders):
    runs = [(pathlib.Path(f).name, losses(f)) for f in folders]
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 1], layout="constrained")
    for (name_a, a), (name_b, b) in zip(runs[::2], runs[1::2]):
        fa, fb = final(a), final(b)
        print(f"{name_a} {fa:.4f}   {name_b} {fb:.4f}   {100 * (fb - fa) / fa:+.3f} %")
        (line,) = upper.plot(*zip(*smooth(a)), lw=1, label=name_a)
        upper.plot(*zip(*smooth(b)), lw=1, ls="--", color=line.get_color(), label=name_b)
        both = [(t, 100 * (y - x) / x) for (t, x), (_, y) in zip(smooth(a, 100), smooth(b, 100))]
        lower.plot(*zip(*both[12:]), lw=1, color=line.get_color())
    upper.set(ylabel="training loss, nats a byte", ylim=(None, 3))
    upper.legend(ncols=len(runs) // 2, fontsize=8)
    lower.axhline(0, color="0.7", lw=0.5)
    lower.set(ylabel="difference, %", xlabel="tokens", ylim=(-1, 1))
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
