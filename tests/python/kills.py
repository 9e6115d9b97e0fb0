"""Kills `train`, `prep` and `convert` again and again, and checks that nothing that counted is lost.

Each program is started, killed by SIGKILL, and started again until it comes to its end; then from the beginning. Half
of the kills come at random moments. The others come at named points: strace counts the system calls of one start, and
kills a later start right before a chosen one, such as the rename of a finished checkpoint. What may and what must be
on the disk afterwards is judged here, from outside, after every kill:

- train: a checkpoint whose rename was seen is there, unless two newer ones are; every file of every checkpoint has the
  size and SHA-256 of its manifest and the tensors of a run that was never stopped; metrics.jsonl is the beginning of
  that run's. At its end the run's files equal the other's byte by byte (but for seconds).
- prep: at its end every byte below the output folder equals those of a run that was never stopped; with 1 and 2
  threads, and as two processes.
- convert: the target is absent or whole, at any moment; what is left beside it hinders nobody, and is removed.

Linux, Python 3.9; strace for the named points, without which all moments are random:

    python tests/python/kills.py target/release kills/train train --kills 600 --inside 200

The folder keeps counts and half-done work: the same command goes on where it was stopped. Exits with 1 after a fault,
and leaves the folder as it was found.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

KEEP = 2
STEPS = 24
TRAIN = """schedule.decay_tokens=100000 schedule.decay=cosine model.hidden_size=32 model.num_hidden_layers=2
model.n_routed_experts=8 train.batch_size=4 train.micro_batch_size=2 train.sequence_length=48 train.ema_decay=0.9
train.eval_every=7 train.eval_tokens=500 train.sample_every=6 train.sample_tokens=8 checkpoint.every_steps=2""".split()
PREP = """prep.split_bytes=30000 output.shard_bytes=60000 output.validation_fraction=0.1""".split()
CALLS = """mkdir mkdirat openat write pwrite64 ftruncate fsync fdatasync rename renameat renameat2 unlink unlinkat
rmdir""".split()
LIMIT = 300


class Fault(Exception):
    """What must not happen."""


def sets(keys):
    return [word for key in keys for word in ("--set", key)]


def ensure(holds, what):
    if not holds:
        raise Fault(what)


def contents(folder):
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def environment():
    launchers = ("SLURM", "OMPI_", "PMI", "PMIX", "JOB_COMPLETION")
    return {key: value for key, value in os.environ.items() if not key.startswith(launchers)}


def start(command, log):
    with open(log, "wb") as file:
        words = [str(word) for word in command]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment())


def finish(command, log, codes=(0,)):
    code = start(command, log).wait(LIMIT)
    ensure(code in codes, f"exit code {code}: {' '.join(map(str, command))}\n{log.read_text(errors='replace')[-2000:]}")
    return code


# strace


class Call:
    """A line of strace: the thread, the system call, its paths, and whether it came back well."""

    def __init__(self, line):
        head = re.match(r"(\d+)\s+(\w+)\((.*)", line)
        self.thread, self.name, rest = (int(head[1]), head[2], head[3]) if head else (0, "", "")
        self.open_for = "create" if "O_CREAT" in rest else "read"
        self.done = re.search(r"\) += 0\b", rest) is not None
        paths = re.findall(r'"([^"]*)"', rest)
        place = re.match(r"\d+<([^>]*)>", rest)
        if place and paths and not self.name.startswith(("openat", "write")):
            paths = [os.path.join(place[1], path) for path in paths]
        elif place and self.name != "openat":
            paths = [place[1]]
        self.paths = paths

    def within(self, root):
        """Its paths below a folder, with numbers of steps and processes taken out; empty where none is there."""
        found = []
        for path in self.paths:
            path = os.path.relpath(path, root)
            if path == "." or not path.startswith(".."):
                path = re.sub(r"step-\d{8}", "step-N", path)
                path = re.sub(r"\.tmp-\d+", ".tmp-P", path)
                found.append(re.sub(r"[0-9a-f]+-[0-9a-f]+-[0-9a-f]+\.tmp", "M.tmp", path))
        return found


def calls(log):
    return [call for call in map(Call, log.read_text(errors="replace").splitlines()) if call.name]


def traced(command, log, call=None, when=None):
    strace = ["strace", "-f", "-y", "-qq", "-s", "0", "-o", log, "-e", f"trace={','.join(CALLS)}"]
    if call:
        strace += ["-e", f"inject={call}:signal=SIGKILL:when={when}"]
    return [*strace, *command]


def numbered(log):
    """Each call with its number among those of its name and thread, as strace counts them."""
    counts = collections.Counter()
    for call in calls(log):
        counts[call.thread, call.name] += 1
        yield call, counts[call.thread, call.name]


# What is counted


class Counts:
    """What was done, in a file; of one campaign."""

    def __init__(self, path):
        self.path = path
        self.values = collections.Counter(json.loads(path.read_text()) if path.exists() else {})

    def add(self, *keys):
        for key in keys:
            self.values[key] += 1
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(self.values, indent=1, sort_keys=True))
        fresh.rename(self.path)

    def __getitem__(self, key):
        return self.values[key]

    def table(self):
        for key, value in sorted(self.values.items()):
            print(f"| {key:48}| {value:6} |")


class Campaign:
    """Starts of one program, each of which is killed; `inside` counts those within a commit."""

    name = ""

    def __init__(self, programs, folder, strace):
        self.programs, self.folder, self.strace = programs, folder, strace
        self.counts = Counts(folder / "counts.json")
        self.log, self.trace = folder / "said.txt", folder / "trace.txt"
        self.points, self.seconds = {}, None

    def done(self, options):
        enough = self.counts["kills"] >= options.kills and self.counts["inside"] >= options.inside
        rare = [point for point in self.points if self.counts[f"at: {point}"] < options.each]
        return enough and not rare

    def learn(self, command):
        """Where the named points lie: calls of a start that nobody kills."""
        finish(traced(command, self.trace), self.log)
        main = next(iter(calls(self.trace))).thread
        self.points = {}
        for call, number in numbered(self.trace):
            point = self.point(call)
            if point and call.thread == main:
                self.points.setdefault(point, []).append((call.name, number))

    def aim(self, shift=None):
        """A system call and its number, of the named point that was met least."""
        fewest = min(self.points, key=lambda point: (self.counts[f"at: {point}"], random.random()))
        name, number = random.choice(self.points[fewest])
        return name, number + (shift or {}).get(name, 0)

    def kill_at(self, command, shift=None):
        """Kills a start at a named point. Returns its calls, or None where it came to its end."""
        name, number = self.aim(shift)
        code = start(traced(command, self.trace, name, number), self.log).wait(LIMIT)
        made = calls(self.trace)
        if code == 0:
            return None
        ensure(code == -signal.SIGKILL, f"exit code {code}\n{self.log.read_text(errors='replace')[-2000:]}")
        ensure(made and made[-1].name, "strace wrote nothing")
        last = [call for call in made[-4:] if call.name == name and not call.done]
        point = self.point(last[-1] if last else made[-1])
        self.counts.add("kills", "kills at a call", *([f"at: {point}", "inside"] if point else ["at: elsewhere"]))
        return made

    def kill_soon(self, command, hint, inside):
        """Kills a start at a random moment, or a moment after `hint` has come to be true. Returns what `seen()` says
        right before, or None where it came to its end."""
        began = time.monotonic()
        child = start(command, self.log)
        moment = random.uniform(0.0, 1.2 * self.seconds)
        if random.random() < 0.5:
            while not hint() and child.poll() is None:
                time.sleep(0.0005)
            time.sleep(random.uniform(0.0, 0.01))
        else:
            time.sleep(moment)
        seen = self.seen()
        if child.poll() is not None:
            said = self.log.read_text(errors="replace")[-2000:]
            ensure(child.returncode == 0, f"exit code {child.returncode}\n{said}")
            self.seconds += 0.1 * (time.monotonic() - began - self.seconds)
            return None
        child.kill()
        child.wait()
        within = ["inside", "inside, at a random moment"] if inside(child.pid) else []
        self.counts.add("kills", "kills at a random moment", *within)
        return seen

    def seen(self):
        return ()


# The files of checkpoints


def checkpoints(run):
    return sorted(int(path.name[5:]) for path in run.glob("step-*") if re.fullmatch(r"step-\d{8}", path.name))


def rows(run):
    """Lines of metrics.jsonl that are whole, without times."""
    path, found = run / "metrics.jsonl", []
    for line in path.read_text().split("\n")[:-1] if path.exists() else []:
        row = json.loads(line)
        for key in ("seconds", "tokens_per_second"):
            row.pop(key, None)
        found.append(row)
    return found


def verify(folder):
    """Sizes and SHA-256 of a checkpoint's manifest, and no file besides."""
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    found = contents(folder)
    names = {entry["path"] for entry in listed}
    ensure(names == found.keys() - {"manifest.json"}, f"{folder}: other files than listed")
    for entry in listed:
        data = found[entry["path"]]
        right = len(data) == entry["bytes"] and hashlib.sha256(data).hexdigest() == entry["sha256"]
        ensure(right, f"{folder}/{entry['path']}: not what the manifest says")


def essence(folder):
    """The files of a checkpoint without times, and without the manifest, which has their hash."""
    files = contents(folder)
    files.pop("manifest.json")
    state = json.loads(files.pop("trainer/state.json"))
    state.pop("seconds")
    return files, state


def text(folder):
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.txt").write_text(" ".join(f"word{(i * 31 + j * j) % 97}" for j in range(300)))


def draft_point(call, root):
    """The named point of a call on a folder that is written aside, by `train` and `convert`."""
    paths = call.within(root)
    if not paths:
        return None
    path = paths[0]
    folder, _, file = path.partition("/")
    if not folder.endswith((".tmp-P", ".tmp-old")):
        return None
    if call.name.startswith("rename"):
        return "rename the finished folder" if not file else "rename a file"
    if folder.endswith(".tmp-old"):
        return "remove an old checkpoint"
    if call.name.startswith("mkdir"):
        return "make the folder" if not file else "make a folder in it"
    if call.name.startswith(("unlink", "rmdir")):
        return None
    if not file or file == "trainer":
        return "sync the folder"
    what = "the manifest" if file == "manifest.json" else "a file"
    names = {"openat": f"{call.open_for} {what}", "write": f"write {what}", "fsync": f"sync {what}"}
    return names.get(call.name)


class Train(Campaign):
    name = "train"
    # Steps between the checkpoints that are compared with those of the run that is never stopped.
    every = 2

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.data, self.whole, self.run = (self.folder / name for name in ("data", "whole", "run"))
        self.acknowledged = set(checkpoints(self.run))
        if not self.whole.exists():
            text(self.folder / "text")
            keys = ["output.validation_fraction=0.3"]
            prep = [self.programs / "prep", "--tokenizer", "bytes", *sets(keys)]
            finish([*prep, "--input", self.folder / "text", "--output", self.data], self.log)
            began = time.monotonic()
            keys = ["checkpoint.keep=100", f"checkpoint.every_steps={self.every}"]
            finish([*self.command(self.whole, STEPS), *sets(keys)], self.log)
            self.counts.add("milliseconds", *["milliseconds"] * int(1000 * (time.monotonic() - began)))
        self.seconds = max(0.3, self.counts["milliseconds"] / 1000 / 4)
        self.reference = {step: essence(self.whole / f"step-{step:08}") for step in checkpoints(self.whole)}
        self.rows = rows(self.whole)
        ensure(len(self.rows) == STEPS and len(self.reference) == STEPS // self.every, "the run that is never stopped")

    def command(self, output, steps):
        keys = [*TRAIN, f"train.steps={steps}", f"train.threads={random.choice((1, 2))}"]
        return [self.programs / "train", self.data, *sets(keys), "--output", output, "--resume"]

    def point(self, call):
        paths = call.within(self.run)
        if call.name.startswith("rename") and paths and paths[0] == "step-N":
            return "set an old checkpoint aside"
        if paths == ["."] and call.name in ("fsync", "openat"):
            return "sync the run's folder"
        if paths == ["metrics.jsonl"] and call.name == "fdatasync":
            return "sync the metrics"
        return draft_point(call, self.run)

    def seen(self):
        return checkpoints(self.run)

    def learn_here(self):
        """The points of the next start, found on a copy that has the same path."""
        aside = self.folder / "aside"
        shutil.rmtree(aside, ignore_errors=True)
        self.run.rename(aside)
        shutil.copytree(aside, self.run)
        self.learn(self.command(self.run, checkpoints(self.run)[-1] + 3))
        shutil.rmtree(self.run)
        aside.rename(self.run)

    def round(self):
        if (self.folder / "aside").exists():
            shutil.rmtree(self.run, ignore_errors=True)
            (self.folder / "aside").rename(self.run)
        clean = not list(self.run.glob("step-*.tmp-*"))
        ready = len(checkpoints(self.run)) >= KEEP and checkpoints(self.run)[-1] + 3 < STEPS
        if self.strace and not self.points and ready and clean:
            self.learn_here()
        command = self.command(self.run, STEPS)
        if self.points and ready and random.random() < 0.6:
            left = list(self.run.glob("step-*.tmp-*"))
            below = [path for folder in left for path in folder.rglob("*")]
            folders = len(left) + sum(path.is_dir() for path in below)
            made = self.kill_at(command, {"openat": folders, "unlinkat": len(left) + len(below)})
            ended = made is None
            renamed = [call.paths[1] for call in made or [] if call.name.startswith("rename") and call.done]
            self.acknowledged |= {int(path[-8:]) for path in renamed if re.search(r"/step-\d{8}$", path)}
        else:
            seen = self.kill_soon(command, lambda: any(self.run.glob("step-*.tmp-*")), self.was_saving)
            ended = seen is None
            self.acknowledged |= set(seen or ())
        self.judge()
        if ended:
            ensure(checkpoints(self.run)[-1] == STEPS, "the last checkpoint is missing")
            ensure(rows(self.run) == self.rows, "metrics.jsonl differs from that of a run never stopped")
            ensure(not list(self.run.glob("*.tmp*")), "leftovers at the end")
            self.counts.add("runs to their end, equal in all bytes")
            shutil.rmtree(self.run)
            self.acknowledged = set()

    def was_saving(self, pid):
        left = [path.name for path in self.run.glob("step-*.tmp-*")]
        return any(name.endswith((f".tmp-{pid}", ".tmp-old")) for name in left)

    def same(self, found, wanted):
        return found == wanted

    def begins(self, found, wanted):
        return found == wanted

    def judge(self):
        there = checkpoints(self.run)
        acknowledged = sorted(self.acknowledged)[-KEEP:]
        lost = [step for step in acknowledged if step not in there and sum(other > step for other in there) < KEEP]
        ensure(not lost, f"acknowledged checkpoints {lost} are gone; there are {there}")
        for step in there:
            folder = self.run / f"step-{step:08}"
            verify(folder)
            same = self.same(essence(folder), self.reference.get(step))
            ensure(same, f"{folder} differs from that of a run never stopped")
        found = rows(self.run)
        begins = self.begins(found, self.rows[: len(found)])
        ensure(begins, "metrics.jsonl is not the beginning of that of a run never stopped")
        ensure(not there or len(found) >= there[-1], f"{len(found)} lines of metrics for checkpoint {there[-1:]}")


class Convert(Campaign):
    name = "convert"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.model, self.target = self.folder / "model", self.folder / "out" / "target"
        self.target.parent.mkdir(exist_ok=True)
        if not self.model.exists():
            train = self.folder / "train"
            train.mkdir(exist_ok=True)
            keys = ["train.steps=2", "model.num_hidden_layers=6"]
            text(train / "text")
            prep = [self.programs / "prep", "--tokenizer", "bytes", "--input", train / "text"]
            finish([*prep, "--output", train / "data"], self.log)
            run = [self.programs / "train", train / "data", "--output", train / "run"]
            finish([*run, *sets([*TRAIN[2:5], *keys, "train.batch_size=2", "train.micro_batch_size=2",
                                 "train.sequence_length=32"])], self.log)
            shutil.copytree(train / "run" / "step-00000002", self.model)
        self.reference = {}
        for form in ("bf16", "fp8"):
            whole = self.folder / form
            shutil.rmtree(whole, ignore_errors=True)
            began = time.monotonic()
            finish(self.command(whole, form), self.log)
            self.seconds = time.monotonic() - began
            self.reference[form] = contents(whole)

    def command(self, target, form):
        return [self.programs / "convert", "--checkpoint", self.model, "--output", target, "--to", form]

    def point(self, call):
        if call.within(self.target.parent) == ["."] and call.name in ("fsync", "openat"):
            return "sync the parent folder"
        return draft_point(call, self.target.parent)

    def round(self):
        form = random.choice(("bf16", "fp8"))
        command = self.command(self.target, form)
        if self.strace and not self.points:
            self.learn(command)
            shutil.rmtree(self.target)
        left = list(self.target.parent.glob("*.tmp-*"))
        if self.points and random.random() < 0.6:
            below = [path for folder in left for path in folder.rglob("*")]
            shift = {"openat": 2 * len(left), "unlinkat": len(left) + len(below)}
            ended = self.kill_at(command, shift) is None
        else:
            hint = lambda: any(self.target.parent.glob("*.tmp-*"))
            draft = lambda pid: (self.target.parent / f"target.tmp-{pid}").exists()
            ended = self.kill_soon(command, hint, draft) is None
        ensure(not ended or self.target.exists(), "it came to its end, and wrote nothing")
        if self.target.exists():
            ensure(contents(self.target) == self.reference[form], f"{self.target} is not whole")
            self.counts.add("targets, equal in all bytes")
            if ended:
                left = [path.name for path in self.target.parent.iterdir() if path != self.target]
                self.counts.add(f"ends with{'' if left else 'out'} leftovers beside the target")
            shutil.rmtree(self.target)


class Prep(Campaign):
    name = "prep"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.input, self.whole, self.out = (self.folder / name for name in ("input", "whole", "out"))
        if not self.whole.exists():
            self.input.mkdir(exist_ok=True)
            draw = random.Random(1)
            for file in range(4):
                word = lambda: f"w{draw.randrange(40) * draw.randrange(40)}"
                words = lambda: " ".join(word() for _ in range(draw.randrange(20, 170)))
                lines = [json.dumps({"id": f"{file}-{i}", "text": words()}) + "\n" for i in range(120)]
                (self.input / f"{file}.jsonl").write_text("".join(lines))
                (self.input / f"{file}.txt").write_text(f"file number {file}, a separate document. " * 50)
            began = time.monotonic()
            finish(self.command(self.whole, 1), self.log)
            self.counts.add("milliseconds", *["milliseconds"] * int(1000 * (time.monotonic() - began)))
        self.seconds = max(0.2, self.counts["milliseconds"] / 1000)
        self.reference = contents(self.whole)

    def command(self, output, threads, *more):
        keys = [*PREP, f"prep.threads={threads}", "prep.wait_seconds=120"]
        command = [self.programs / "prep", "--vocab-size", "500", "--input", self.input, "--output", output]
        return [*command, *sets(keys), *more]

    def point(self, call):
        paths = call.within(self.out)
        if not paths or call.open_for == "read" and call.name == "openat":
            return None
        last = paths[-1]
        verb = {"openat": "create", "fsync": "sync", "fdatasync": "sync"}.get(call.name, call.name)
        if call.name.startswith("unlink") or call.name == "rmdir":
            return "remove the work folder" if last.startswith("work") else f"remove {last.rsplit('.')[-1]}"
        if ".receipt" in last:
            return f"{verb} a receipt"
        if last.startswith("work"):
            return f"{verb} {'a file of a task' if '.' in last else 'a folder of tasks'}"
        if "manifest" in last:
            return f"{verb} the manifest"
        if last == ".":
            return f"{verb} the output folder"
        return f"{verb} a file of the output"

    def started(self):
        return any(self.out.glob("work/*/*/*"))

    def round(self):
        threads = random.choice((1, 2))
        if self.strace and not self.points:
            shutil.rmtree(self.out, ignore_errors=True)
            self.learn(self.command(self.out, 1))
            shutil.rmtree(self.out)
        if random.random() < 0.25:
            return self.two_processes(threads)
        if self.points and random.random() < 0.6:
            ended = self.kill_at(self.command(self.out, threads)) is None
        else:
            ended = self.kill_soon(self.command(self.out, threads), self.started, lambda _: self.started()) is None
        if ended:
            self.end(f"{threads} threads")

    def end(self, how):
        ensure(contents(self.out) == self.reference, f"{self.out} differs from that of a run never stopped")
        self.counts.add("runs to their end, equal in all bytes", f"the last start with {how}")
        shutil.rmtree(self.out)

    def two_processes(self, threads):
        """One of two processes is killed, then the other; or none, and both come to their end."""
        ranks = [["--rank", str(rank), "--world", "2"] for rank in (0, 1)]
        logs = [self.folder / f"said-{rank}.txt" for rank in (0, 1)]
        children = [start(self.command(self.out, threads, *rank), log) for rank, log in zip(ranks, logs)]
        if random.random() < 0.7:
            random.shuffle(children)
            for child in children:
                time.sleep(random.uniform(0.0, 0.8 * self.seconds))
                if child.poll() is None:
                    child.kill()
                    within = ["inside", "inside, at a random moment"] if self.started() else []
                    self.counts.add("kills", "kills of one of two processes", *within)
        codes = [child.wait(LIMIT) for child in children]
        said = "".join(log.read_text(errors="replace")[-1000:] for log in logs)
        ensure(all(code in (0, -signal.SIGKILL) for code in codes), f"exit codes {codes}\n{said}")
        # Where one was killed, the next start looks at what the other has made, and takes away what the first left.
        if codes == [0, 0]:
            self.end("2 processes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=pathlib.Path, help="folder with the programs")
    parser.add_argument("folder", type=pathlib.Path, help="folder for this campaign: counts, and half-done work")
    parser.add_argument("campaign", choices=["train", "prep", "convert"])
    parser.add_argument("--kills", type=int, default=400, help="stop after this number of kills")
    parser.add_argument("--inside", type=int, default=150, help="... at least this number of them inside a commit")
    parser.add_argument("--each", type=int, default=20, help="... and this number at each named point")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time in any case")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    random.seed(seed)
    options.folder.mkdir(parents=True, exist_ok=True)
    strace = shutil.which("strace") is not None
    if not strace:
        print("no strace: random moments alone")
    kind = {"train": Train, "prep": Prep, "convert": Convert}[options.campaign]
    campaign = kind(options.programs.resolve(), options.folder.resolve(), strace)
    began, told, fault = time.monotonic(), 0.0, None
    try:
        while not campaign.done(options) and time.monotonic() - began < 60 * options.minutes:
            campaign.round()
            if time.monotonic() - told > 10:
                told = time.monotonic()
                counts = campaign.counts
                print(f"{told - began:.0f} s: {counts['kills']} kills, {counts['inside']} inside", flush=True)
    except Fault as found:
        fault = found
        campaign.counts.add("FAULTS")
    except KeyboardInterrupt:
        pass
    campaign.counts.table()
    print(f"seed {seed}, {time.monotonic() - began:.0f} s; repaired by hand: 0")
    if fault:
        print(f"FAULT in {options.folder}: {fault}")
        sys.exit(1)


if __name__ == "__main__":
    main()
