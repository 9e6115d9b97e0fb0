"""Lets every system call that touches a disk fail once, in `prep`, `train` and `convert`, and fills a real disk.

    python3 tests/python/storage_faults.py target/release [--calls fsync,rename,...] [--quick]

Needs strace. For every call and every N until a run meets no fault, the N-th call fails with ENOSPC and with EIO; the
program must name the error or get by without the call, and the next run, undisturbed, must end with the bytes of one
that was never disturbed. EINTR on every third call must not be noticed. As root it also runs each program on a tmpfs
that is too small, makes room, and goes on. Prints a line a program and call, and exits with 1 where something differs.
"""

import argparse
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

CALLS = ["openat", "write", "fsync", "rename", "mkdir", "unlink", "rmdir", "ftruncate"]
MODEL = [
    "model.hidden_size=16", "model.num_hidden_layers=2", "model.n_routed_experts=8", "train.batch_size=2",
    "train.sequence_length=16", "train.eval_every=0", "train.tensorboard=false", "checkpoint.every_steps=1",
    "train.steps=3", "train.threads=1", "checkpoint.keep=1",
]
# Files that hold times, or where the data was.
TIMES = {"metrics.jsonl", "state.json", "manifest.json", "report.html", "run.lock", "config.resolved.toml"}


class Program:
    """A program, what it needs, and what it makes."""

    def __init__(self, name, arguments, needs, makes):
        self.name, self.arguments, self.needs, self.makes = name, arguments, needs, makes


PREP = Program(
    "prep", ["--tokenizer", "bytes", "--input", "text.txt", "--output", "data", "--set", "prep.threads=1"],
    ["text.txt"], "data")
TRAIN = Program(
    "train", ["--resume", "--output", "run", "--set", "data.path=data"] + [a for m in MODEL for a in ("--set", m)],
    ["data"], "run")
CONVERT = Program("convert", ["--checkpoint", "run/step-00000003", "--to", "bf16", "--output", "bf16"], ["run"], "bf16")


def digest(folder):
    """The files of a folder and their hashes, but for those that hold times."""
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        # A data folder's manifest holds no times.
        if path.is_file() and (path.name not in TIMES or path.parent.name == "data"):
            # Records of ranks, which say who ran last; and older checkpoints, which stay where removing them failed.
            name = path.relative_to(folder).as_posix()
            if not name.startswith(("ranks/", "watch/", "step-00000001/", "step-00000002/")):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def run(programs, program, folder, inject=None):
    command = [str(programs / program.name), *program.arguments]
    if inject:
        log = str(folder / "strace.log")
        # Only files below the folder: what the loader and the terminal do is not looked at.
        calls = inject.split(":")[0]
        command = ["strace", "-f", "-qq", "-o", log, "-e", f"trace={calls}", "-e", f"inject={inject}", *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "RUST_BACKTRACE": "0"})
    met = inject and "(INJECTED)" in (folder / "strace.log").read_text(errors="replace")
    return done, met


def first(programs, program, base, call):
    """The number of calls before the program's own: those of the loader and of the start are not the program's."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for need in program.needs:
            copy(base / need, folder / need)
        log = folder / "strace.log"
        subprocess.run(
            ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={call}", str(programs / program.name),
             *program.arguments], cwd=folder, capture_output=True, timeout=300, check=False)
        lines = log.read_text(errors="replace").splitlines()
        if call == "openat":
            own = [i for i, line in enumerate(lines) if "O_CREAT" in line]
            return own[0] if own else len(lines), len(lines)
        return 0, len(lines)


def walk(programs, program, base, wanted, call, error, stride):
    """Every N of a call. Returns counts of runs that were refused, that got by, and a list of problems."""
    refused, forgiven, problems = 0, 0, []
    start, _ = first(programs, program, base, call)
    number = start + 1
    while True:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for need in program.needs:
                copy(base / need, folder / need)
            done, met = run(programs, program, folder, f"{call}:error={error}:when={number}")
            if not met:
                return refused, forgiven, problems
            where = f"{program.name}, {call} {number}, {error}"
            said = done.stderr
            if done.returncode == 0:
                forgiven += 1
            else:
                refused += 1
                # A program whose own messages cannot be written cannot name anything.
                if "os error" not in said and call != "write":
                    problems.append(f"{where}: exit {done.returncode} without a name: {said.strip()[-300:]}")
            if "panicked" in said or done.returncode < 0:
                problems.append(f"{where}: exit {done.returncode}: {said.strip()[-300:]}")
            if program.name != "convert" or not (folder / program.makes).exists():
                again, _ = run(programs, program, folder)
                if again.returncode != 0:
                    problems.append(f"{where}: the next run fails: {again.stderr.strip()[-300:]}")
            found = digest(folder / program.makes)
            if found != wanted:
                differ = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
                problems.append(f"{where}: differs in {differ[:5]}")
        number += stride


def interrupted(programs, program, base, wanted):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for need in program.needs:
            copy(base / need, folder / need)
        done, _ = run(programs, program, folder, "write,fsync,rename,mkdir,unlink,rmdir:error=EINTR:when=1+3")
        return done.returncode == 0 and digest(folder / program.makes) == wanted, done.stderr


def full(programs, program, base, wanted):
    """On a disk that is too small, which then becomes larger. Returns how many sizes were too small."""
    refused, blocks = 0, 1
    while blocks < 100_000:
        blocks += 1 + blocks // 6
        with tempfile.TemporaryDirectory() as folder:
            there = [p for n in program.needs for p in [base / n, *(base / n).rglob("*")] if p.is_file()]
            size = 4096 * (sum(p.stat().st_size // 4096 + 1 for p in there) + 2 + 2 * blocks)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
            try:
                folder = pathlib.Path(folder)
                for need in program.needs:
                    copy(base / need, folder / need)
                done, _ = run(programs, program, folder)
                if done.returncode == 0:
                    return refused, digest(folder / program.makes) == wanted
                refused += 1
                if "o space" not in done.stderr or "panicked" in done.stderr:
                    return refused, f"size {size}: {done.stderr.strip()[-300:]}"
                subprocess.run(["mount", "-o", "remount,size=1g", folder], check=True)
                again, _ = run(programs, program, folder)
                if again.returncode != 0 or digest(folder / program.makes) != wanted:
                    return refused, f"size {size}, then more: {again.stderr.strip()[-300:]}"
            finally:
                subprocess.run(["umount", folder], check=True)
    return refused, "never large enough"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=pathlib.Path, help="folder of the built programs")
    parser.add_argument("--calls", default=",".join(CALLS))
    parser.add_argument("--quick", action="store_true", help="every 7th call only")
    parser.add_argument("--only", default="prep,train,convert")
    arguments = parser.parse_args()
    if shutil.which("strace") is None:
        sys.exit("strace is missing")
    programs = arguments.programs.resolve()
    failed = False
    with tempfile.TemporaryDirectory() as base:
        base = pathlib.Path(base)
        lines = [f"document {i} " + " ".join(f"word{(i * 31 + j * j) % 97}" for j in range(60)) for i in range(12)]
        (base / "text.txt").write_text("\n".join(lines) + "\n")
        for program in (PREP, TRAIN, CONVERT):
            done, _ = run(programs, program, base)
            if done.returncode != 0:
                sys.exit(f"{program.name}: {done.stderr}")
            if program.name not in arguments.only.split(","):
                continue
            wanted = digest(base / program.makes)
            for call in arguments.calls.split(","):
                for error in ("ENOSPC", "EIO"):
                    refused, forgiven, problems = walk(
                        programs, program, base, wanted, call, error, 7 if arguments.quick else 1)
                    failed |= bool(problems)
                    print(f"{program.name}: {call}, {error}: {refused} refused, {forgiven} got by, "
                          f"{len(problems)} problems", flush=True)
                    for problem in problems[:10]:
                        print(f"  {problem}", flush=True)
            fine, said = interrupted(programs, program, base, wanted)
            failed |= not fine
            noticed = "not noticed" if fine else said.strip()[-300:]
            print(f"{program.name}: EINTR on every third call: {noticed}", flush=True)
            if os.geteuid() == 0:
                refused, fine = full(programs, program, base, wanted)
                failed |= fine is not True
                print(f"{program.name}: full tmpfs: {refused} sizes refused, then: {fine}", flush=True)
            else:
                print(f"{program.name}: full tmpfs: skipped, it takes root", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
