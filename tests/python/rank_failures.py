"""Kills and stops random ranks of a run at random moments, and checks that it ends as if nothing had happened.

A run of 4 ranks with a checkpoint every 2 steps is started again and again with --resume. Each time a random rank gets
SIGKILL or SIGSTOP, some moment after the start: also while the ranks start, and while they write a checkpoint. The
others, or the next start, should name that rank; the run's last checkpoint and metrics should equal those of a run of
one rank that was never stopped, bit by bit. Linux, Python 3.9, nothing else:

    python tests/python/rank_failures.py target/release --mpirun mpirun.mpich
    python tests/python/rank_failures.py target/release --mpirun mpirun.openmpi --quick

Exits with 1 where a rank was named wrongly, or the results differ.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

RANKS = 4
SETS = """schedule.decay_tokens=1000000 schedule.decay=cosine model.hidden_size=32 model.num_hidden_layers=2
model.n_routed_experts=8 train.batch_size=16 train.micro_batch_size=2 train.sequence_length=48 train.eval_every=5
train.eval_tokens=500 train.expert_load_every=1 train.threads=1 train.ema_decay=0.9 train.precision=fp8
checkpoint.every_steps=2""".split()


def prepare(programs, folder):
    text = folder / "text"
    text.mkdir()
    for i in range(12):
        words = " ".join(f"word{(i * 31 + j * j) % 97}" for j in range(300))
        (text / f"{i}.txt").write_text(words)
    sets = ["--tokenizer", "bytes", "--set", "output.validation_fraction=0.3"]
    command = [programs / "prep", *sets, "--input", text, "--output", folder / "data"]
    subprocess.run(command, check=True, capture_output=True)


def command(programs, folder, output, steps, sets):
    sets = [*SETS, f"train.steps={steps}", *sets]
    flags = [word for one in sets for word in ("--set", one)]
    return [programs / "train", folder / "data", *flags, "--output", folder / output, "--resume"]


def ranks_of(launcher):
    """Processes of the ranks that descend from the launcher, by rank. A zombie has no environment, and is left out."""
    parents, found = {}, {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = pathlib.Path(entry.path, "stat").read_text()
            environment = pathlib.Path(entry.path, "environ").read_bytes()
        except OSError:
            continue
        name, rest = stat.split("(", 1)[1].rsplit(")", 1)
        parents[int(entry.name)] = int(rest.split()[1])
        rank = re.search(rb"(?:^|\0)(?:PMI_RANK|OMPI_COMM_WORLD_RANK)=(\d+)", environment)
        if name == "train" and rank:
            found[int(rank[1])] = int(entry.name)

    def descends(pid):
        while pid and pid != launcher:
            pid = parents.get(pid, 0)
        return pid == launcher

    return {rank: pid for rank, pid in found.items() if descends(pid)}


def lives(pid):
    try:
        return ") Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def fail(argv, log, kind, moment, patience):
    """One start with one failure. Returns the rank that failed, all processes, the seconds until the end, and
    the status of the launcher."""
    with open(log, "wb") as file:
        launcher = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    time.sleep(moment)
    pids = {}
    while launcher.poll() is None and len(pids) < RANKS:
        pids = ranks_of(launcher.pid)
    if launcher.poll() is not None:
        return None, {}, 0.0, launcher.returncode, False
    victim = random.randrange(RANKS)
    os.kill(pids[victim], kind)
    since = time.monotonic()
    try:
        status = launcher.wait(patience)
    except subprocess.TimeoutExpired:
        status = None
    seconds = time.monotonic() - since
    # Launchers may take a moment to end the ranks after they have ended themselves.
    end = time.monotonic() + 5
    while status is not None and any(map(lives, pids.values())) and time.monotonic() < end:
        time.sleep(0.02)
    behind = any(map(lives, pids.values()))
    if status is None:
        send(launcher.pid, signal.SIGKILL)
        launcher.wait()
    for pid in pids.values():
        send(pid, signal.SIGKILL)
    while any(map(lives, pids.values())):
        time.sleep(0.02)
    return victim, set(pids.values()), seconds, status, behind


def result(output):
    """The last checkpoint's tensors, and the metrics without times."""
    last = max(path for path in output.glob("step-*") if path.name[5:].isdigit())
    tensors = {str(path.relative_to(last)): path.read_bytes() for path in last.rglob("*.safetensors")}
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        for key in ("seconds", "tokens_per_second", "comm_seconds", "comm_bytes"):
            row.pop(key, None)
    return last.name, tensors, rows


def judge(line, victim, pids):
    """What the next start says of the one before. One that ended before its ranks wrote records cannot be told of."""
    pid = re.search(r"pid (\d+)", line[0])
    if line[1] is None:
        return "not named"
    if pid and int(pid[1]) not in pids:
        return "older start"
    return "next right" if int(line[1]) == victim else "wrong"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=pathlib.Path, help="folder with the programs train and prep")
    parser.add_argument("--mpirun", default="mpirun", help="the launcher, with its options in one word")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=20.0, help="parallel.timeout_seconds")
    parser.add_argument("--patience", type=float, default=25.0, help="parallel.init_timeout_seconds")
    parser.add_argument("--within", type=float, default=35.0, help="seconds in which a rank must be named")
    parser.add_argument("--longest", type=float, default=3.0, help="latest moment of a failure, seconds after the start")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="10 kills, 3 stops, short time-outs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.kills, arguments.stops, arguments.timeout, arguments.patience = 10, 3, 3.0, 8.0
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 30)
    random.seed(seed)
    programs = arguments.programs.resolve()
    launcher = arguments.mpirun.split()
    said = subprocess.run([*launcher, "--version"], capture_output=True, text=True).stdout
    if "Open MPI" in said or "OpenRTE" in said:
        launcher += ["--oversubscribe", "--allow-run-as-root"]
    times = [
        f"parallel.timeout_seconds={arguments.timeout}",
        f"parallel.init_timeout_seconds={arguments.patience}",
    ]

    kinds = [signal.SIGKILL] * arguments.kills + [signal.SIGSTOP] * arguments.stops
    random.shuffle(kinds)
    steps = 30 * len(kinds)
    table = {kind: collections.Counter() for kind in (signal.SIGKILL, signal.SIGSTOP)}
    slowest, statuses, notes = 0.0, collections.Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        prepare(programs, folder)
        output, log = folder / "run", folder / "said.txt"
        argv = [*launcher, "-n", str(RANKS), *command(programs, folder, "run", steps, times)]
        pending = None
        for number, kind in enumerate(kinds):
            moment = random.uniform(0.0, arguments.longest)
            victim, pids, seconds, status, behind = fail(argv, log, kind, moment, arguments.within)
            text = log.read_text(errors="replace")
            if pending:
                # The start before, whose ranks had no time to speak.
                before_kind, before_victim, before_pids, note = pending
                line = re.search(r"did not end well: (?:rank (\d+) )?.*", text)
                if line is None:
                    verdict = "not read" if victim is not None and "ranks: " not in text else "not named"
                else:
                    verdict = judge(line, before_victim, before_pids)
                table[before_kind][verdict] += 1
                if verdict in ("wrong", "not named"):
                    notes.append(f"{note}: {verdict}: {line and line[0]}")
                pending = None
            if victim is None:
                notes.append(f"start {number}: ended by itself with {status}: {text[-600:]}")
                if status == 0:
                    break
                table[kind]["ended by itself"] += 1
                continue
            statuses[status] += 1
            slowest = max(slowest, seconds)
            note = f"start {number}: {kind.name} to rank {victim} after {moment:.2f} s"
            named = [int(rank) for rank in re.findall(r"gives up: rank (\d+) \(", text)]
            named += [int(rank) for rank in re.findall(r"gives up: rank (\d+) has no record", text)]
            if behind:
                table[kind]["left behind"] += 1
                notes.append(f"{note}: after {seconds:.1f} s ranks were still there: {text[-600:]}")
            if status is None:
                table[kind]["hung"] += 1
            if any(rank != victim for rank in named):
                table[kind]["wrong"] += 1
                notes.append(f"{note}: {text[-1500:]}")
            elif named:
                table[kind]["named right"] += 1
            else:
                pending = (kind, victim, pids, note)
            last = sorted(path.name for path in output.glob("step-*") if path.name[5:].isdigit())[-1:]
            print(f"{note}: {seconds:.1f} s, status {status}, named {named}, {last}", flush=True)
        # To the next checkpoint and a little further, undisturbed.
        last = max((int(path.name[5:]) for path in output.glob("step-*") if path.name[5:].isdigit()), default=0)
        final = [*launcher, "-n", str(RANKS), *command(programs, folder, "run", last + 5, times)]
        ended = subprocess.run(final, capture_output=True, text=True)
        if pending:
            line = re.search(r"did not end well: (?:rank (\d+) )?.*", ended.stderr)
            table[pending[0]][judge(line, pending[1], pending[2]) if line else "not named"] += 1
        if ended.returncode != 0:
            notes.append(f"the last start failed: {ended.stderr[-1500:]}")
        subprocess.run(command(programs, folder, "alone", last + 5, []), check=True, capture_output=True)
        same = ended.returncode == 0 and result(output) == result(folder / "alone")

    for note in notes:
        print(f"-- {note}")
    print(f"seed {seed}, {' '.join(launcher)}, {last + 5} steps, slowest end {slowest:.1f} s, statuses {dict(statuses)}")
    columns = ["named right", "next right", "wrong", "not named", "older start", "not read", "hung", "left behind", "ended by itself"]
    print(f"| {'signal':8}| {'count':6}| " + " | ".join(columns) + " |")
    for kind, row in table.items():
        count = sum(row[key] for key in columns[:6])
        print(f"| {kind.name:8}| {count:<6}| " + " | ".join(f"{row[key]:<{len(key)}}" for key in columns) + " |")
    print("bit by bit equal to a run never stopped" if same else "DIFFERS from a run never stopped")
    sys.exit(0 if same and not any(row["wrong"] or row["hung"] for row in table.values()) else 1)


if __name__ == "__main__":
    main()
