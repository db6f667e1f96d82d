"""A package that stands in for wandb: it writes each call as a line of JSON, and fails or hangs where it is told to."""

import json
from pathlib import Path

SOURCE = """
import json, os, sys, time

def _note(call, **what):
    with open(os.environ["STANDIN_FILE"], "a") as file:
        file.write(json.dumps({"call": call, "pid": os.getpid(), "torch": "torch" in sys.modules, **what}) + "\\n")
    print("noise of the package")
    print("noise of the package", file=sys.stderr)
    how = os.environ.get("STANDIN_" + call.upper())
    if how == "raise":
        raise RuntimeError("cannot reach https://me:hunter2@host/x with " + os.environ["WANDB_API_KEY"] + "\\nmore")
    if how == "hang":
        time.sleep(600)
    if how == "kill":
        os.kill(os.getpid(), 9)

class Settings:
    def __init__(self, **given):
        self.given, self.mode = given, os.environ.get("WANDB_MODE", "online")

class _Setup:
    settings = Settings()

def setup():
    return _Setup()

def login(prompt=True):
    assert prompt is False
    return "WANDB_API_KEY" in os.environ

class _Config:
    def update(self, config, allow_val_change=False):
        _note("config", config=config, allow=allow_val_change)

class _Summary:
    def update(self, values):
        _note("summary", values=values)

class _Run:
    def __init__(self, id):
        self.id, self.step, self.config, self.summary = id, 0, _Config(), _Summary()
        self.offline, self.dir, self.url = _Setup.settings.mode == "offline", "folder", "https://me:hunter2@host/run"

    def define_metric(self, name, step_metric=None):
        _note("define", name=name, step_metric=step_metric)

    def log(self, values, step):
        if step < self.step:
            raise ValueError("wandb would drop it")
        self.step = step
        _note("log", values=values, step=step)

    def mark_preempting(self):
        _note("preempting")

    def finish(self, exit_code=None):
        _note("finish", code=exit_code)

def init(*, settings, **given):
    _note("init", settings=settings.given, **given)
    return _Run(given["id"])
"""


def write(folder: Path) -> Path:
    """Write the package `wandb` into a folder, which is then to be on the path."""
    (folder / "wandb").mkdir(parents=True)
    (folder / "wandb" / "__init__.py").write_text(SOURCE)
    return folder


def calls(log: Path, *names: str) -> list[dict]:
    """The calls in a log, those of these names or all."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [row for row in rows if not names or row["call"] in names]
