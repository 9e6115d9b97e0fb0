"""A server with a small trained model, for the scripts that try clients on it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "tests/golden/tasks/checkpoint"
TEMPLATE = (
    "{% if tools %}[tools]{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content or '' }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% if thinking %}<think>{% endif %}{% endif %}"
)
CONTEXT = 20000


def program():
    """The path of the server: the first argument, or a release build."""
    return sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target/release/serve")


class Server:
    """A copy of the checkpoint with a chat template and a longer context, served."""

    def __init__(self, *options, checkpoint=CHECKPOINT):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        for path in pathlib.Path(checkpoint).iterdir():
            shutil.copy(path, self.folder)
        (self.folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        config = json.loads((self.folder / "config.json").read_text())
        config["max_position_embeddings"] = CONTEXT
        (self.folder / "config.json").write_text(json.dumps(config))
        command = [program(), "--checkpoint", self.folder, "--port", "0", "--model-name", "small", "--device", "cpu"]
        environment = {k: v for k, v in os.environ.items() if k != "FATHOM_API_KEY"}
        self.process = subprocess.Popen(
            [*map(str, command), *options], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            if line.startswith("listening on "):
                self.root = line.split()[-1]
                break
        else:
            raise SystemExit("the server did not start:\n" + "".join(self.log))
        self.url = self.root + "/v1"
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def metric(self, name):
        """The value of a metric without labels."""
        text = urllib.request.urlopen(self.root + "/metrics").read().decode()
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))

    def wait_for(self, name, value, seconds=10):
        """Waits until a metric has a value."""
        end = time.time() + seconds
        while self.metric(name) != value:
            assert time.time() < end, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        shutil.rmtree(self.folder)
        assert not any("panicked" in line for line in self.log), "".join(self.log)


def run(checks):
    """Runs the checks, says what each of them is, and exits with 1 if one fails."""
    failed = 0
    for check in checks:
        began = time.time()
        try:
            check()
            print(f"ok    {check.__doc__}  ({time.time() - began:.1f} s)")
        except Exception as error:  # a client may raise anything
            failed += 1
            import traceback

            traceback.print_exc()
            print(f"WRONG {check.__doc__}: {type(error).__name__}: {error}")
    print(f"{len(checks) - failed} of {len(checks)} checks hold")
    sys.exit(1 if failed else 0)
