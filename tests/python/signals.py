"""Stops every program by SIGINT, SIGTERM or SIGHUP at random moments, and checks exit codes and what is left.

- train leaves with 0, and its newest checkpoint is of the last step in metrics.jsonl, the one that was under way;
  after a second signal it leaves with 0 or 130, and no checkpoint is torn. Started again and again, it ends with the
  bytes of a run that was never stopped.
- prep leaves with 130, and ends with the same bytes too. convert leaves with 130 and nothing beside its target, which
  is absent or whole. eval and generate leave with 130 and say how far they came. serve leaves with 0 where it has
  nothing to finish, else with 130.

A program that has not yet begun to handle signals is ended by them; such starts are counted apart. What the numbers
and the folder mean: see kills.py.

    python tests/python/signals.py target/release signals --each 50
"""

import argparse
import pathlib
import random
import shutil
import signal
import sys
import time

from kills import LIMIT, STEPS, Convert, Counts, Fault, Prep, Train
from kills import checkpoints, contents, ensure, finish, rows, sets, start

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def stop(command, log, moment, number, twice):
    """Starts a program and stops it. Returns its exit code, what it said, and whether the signal came after its end."""
    child = start(command, log)
    time.sleep(moment)
    late = child.poll() is not None
    for _ in range(2 if twice else 1):
        if child.poll() is None:
            child.send_signal(number)
        time.sleep(random.uniform(0.0, 0.05) if twice else 0.0)
    return child.wait(LIMIT), log.read_text(errors="replace"), late


class Stopped:
    """One program, stopped again and again."""

    def __init__(self, name, campaign, counts):
        self.name, self.it, self.counts = name, campaign, counts

    def how(self, number, twice):
        return f"{self.name}, {number.name}{', twice' if twice else ''}"

    def note(self, number, twice, code, codes, text):
        how = self.how(number, twice)
        ensure(code in codes or code == -number, f"{how}: exit code {code}\n{text[-2000:]}")
        ensure("panicked" not in text, f"{how}: {text[-2000:]}")
        self.counts.add(how, f"{how}: {'before it is handled' if code < 0 else f'exit code {code}'}")
        return code

    def adapt(self, late):
        """Signals are to come while it works, also where the first start was timed on a busy machine."""
        self.it.seconds = min(20.0, max(0.05, self.it.seconds * (0.85 if late else 1.02)))


class TrainAnyStep(Train):
    """Checkpoints are of any step; which of them was the best so far depends on where the run was stopped."""

    every = 1

    def same(self, found, wanted):
        # A run that is stopped before its first step saves step 0.
        return wanted is None or found[0] == wanted[0]

    def begins(self, found, wanted):
        # The next start writes a sample that was cut off.
        cut = bool(found) and "sample" not in found[-1]
        last = [{key: value for key, value in row.items() if key != "sample" or not cut} for row in wanted[-1:]]
        return found == wanted[:-1] + last


class StoppedTrain(Stopped):
    def round(self, number, twice):
        run = self.it.run
        moment = random.uniform(0.0, 1.5 * self.it.seconds)
        child = start(self.it.command(run, STEPS), self.it.log)
        time.sleep(moment)
        before = len(rows(run))
        late = child.poll() is not None
        self.adapt(late)
        for _ in range(2 if twice else 1):
            if child.poll() is None:
                child.send_signal(number)
                time.sleep(random.uniform(0.0, 0.03) if twice else 0.0)
        code = self.note(number, twice, child.wait(LIMIT), (0, 130) if twice else (0,), self.it.log.read_text())
        self.it.judge()
        done, there = len(rows(run)), checkpoints(run)
        if code == 0:
            ensure(there and there[-1] == done, f"the newest checkpoint is {there[-1:]}, metrics end at {done}")
            ensure(done <= before + 2 or done == STEPS, f"{done} steps where {before} were done at the signal")
        # A signal during the last sample cuts it off: the next start writes it.
        if code == 0 and done == STEPS and (late or "sample" in rows(run)[-1]):
            ensure(rows(run) == self.it.rows, "metrics.jsonl differs from that of a run never stopped")
            self.counts.add("train: runs to their end, equal in all bytes")
            shutil.rmtree(run)
            self.it.acknowledged = set()


class StoppedPrep(Stopped):
    def round(self, number, twice):
        command, moment = self.it.command(self.it.out, random.choice((1, 2))), random.uniform(0.0, self.it.seconds)
        code, text, late = stop(command, self.it.log, moment, number, twice)
        self.adapt(late)
        if self.note(number, twice, code, (0, 130), text) == 0:
            ensure(contents(self.it.out) == self.it.reference, "prep: other bytes than a run never stopped")
            self.counts.add("prep: runs to their end, equal in all bytes")
            shutil.rmtree(self.it.out)


class StoppedConvert(Stopped):
    def round(self, number, twice):
        form, target = random.choice(("bf16", "fp8")), self.it.target
        moment = random.uniform(0.0, 1.2 * self.it.seconds)
        code, text, late = stop(self.it.command(target, form), self.it.log, moment, number, twice)
        self.adapt(late)
        code = self.note(number, twice, code, (0, 130), text)
        ensure(code != 0 or target.exists(), "convert: it came to its end, and wrote nothing")
        if target.exists():
            ensure(contents(target) == self.it.reference[form], "convert: the target is not whole")
            shutil.rmtree(target)
        left = [path.name for path in target.parent.iterdir()]
        ensure(not left or twice or code < 0, f"convert: {left} is left")


class StoppedReader(Stopped):
    """A program that writes nothing: eval, generate, serve."""

    def __init__(self, name, command, codes, words, counts, log):
        super().__init__(name, None, counts)
        self.command, self.codes, self.words, self.log, self.seconds = command, codes, words, log, 1.0

    def round(self, number, twice):
        code, text, _ = stop(self.command, self.log, random.uniform(0.0, self.seconds), number, twice)
        code = self.note(number, twice, code, self.codes, text)
        ensure(code != 130 or twice or self.words in text, f"{self.name}: {text[-1000:]}")
        # Most moments are to be ones at which it works.
        self.seconds = min(5.0, max(0.3, self.seconds * (1.1 if code < 0 else 0.98)))


def readers(programs, folder, counts):
    """eval, generate and serve, with a model whose context is long."""
    log = folder / "said.txt"
    if not (folder / "run").exists():
        (folder / "text").mkdir(exist_ok=True)
        (folder / "text" / "long.txt").write_text("the quick brown fox jumps over the lazy dog. " * 20000)
        prep = [programs / "prep", "--tokenizer", "bytes", "--input", folder / "text", "--output", folder / "data"]
        finish([*prep, *sets(["output.validation_fraction=0"])], log)
        keys = """model.hidden_size=32 model.num_hidden_layers=2 model.n_routed_experts=8 train.batch_size=2
        train.steps=1 train.micro_batch_size=2 train.sequence_length=48 model.max_position_embeddings=100000""".split()
        finish([programs / "train", folder / "data", *sets(keys), "--output", folder / "run"], log)
    model = ["--checkpoint", folder / "run", "--threads", "1"]
    measure = [programs / "eval", *model, "--data", folder / "data", "--cache", "f32", "--sequence-length", "64"]
    write = [programs / "generate", *model, "--prompt", "the", "--max-new-tokens", "90000", "--ignore-eos"]
    serve = [programs / "serve", *model, "--port", "0"]
    yield StoppedReader("eval", measure, (130,), "interrupted after", counts, log)
    yield StoppedReader("generate", write, (130,), "interrupted after", counts, log)
    yield StoppedReader("serve", serve, (0, 130), "", counts, log)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=pathlib.Path, help="folder with the programs")
    parser.add_argument("folder", type=pathlib.Path, help="folder for counts and half-done work")
    parser.add_argument("--each", type=int, default=50, help="stops of each program by each signal, once and twice")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time in any case")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    random.seed(seed)
    # Where this script runs in the background or under nohup, the programs are not to ignore signals too.
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    programs, folder = options.programs.resolve(), options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    counts, all_of = Counts(folder / "counts.json"), []
    writers = [("train", TrainAnyStep, StoppedTrain), ("prep", Prep, StoppedPrep), ("convert", Convert, StoppedConvert)]
    for name, kind, stopped in writers:
        (folder / name).mkdir(exist_ok=True)
        all_of.append(stopped(name, kind(programs, folder / name, False), counts))
    all_of += readers(programs, folder, counts)
    began, told, fault = time.monotonic(), 0.0, None
    try:
        while time.monotonic() - began < 60 * options.minutes:
            ways = [(one, number, twice) for one in all_of for number in SIGNALS for twice in (False, True)]
            count = lambda way: counts[way[0].how(*way[1:])]
            random.shuffle(ways)
            way = min(ways, key=count)
            if count(way) >= options.each:
                break
            way[0].round(*way[1:])
            if time.monotonic() - told > 10:
                told = time.monotonic()
                print(f"{told - began:.0f} s: each at least {count(way)} times", flush=True)
    except Fault as found:
        fault = found
        counts.add("FAULTS")
    except KeyboardInterrupt:
        pass
    counts.table()
    print(f"seed {seed}, {time.monotonic() - began:.0f} s")
    if fault:
        print(f"FAULT in {folder}: {fault}")
        sys.exit(1)


if __name__ == "__main__":
    main()
