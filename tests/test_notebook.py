"""The notebook of README's story runs from its first cell to its last, with fewer steps of training.

Jupyter is not needed: Python cells are executed in one namespace; of a %%bash cell each `python` line is called as that
module's command line, here, and the other lines are given to a shell. What cells show is kept in `shown`.
"""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_docs import lost_links, lost_modules, lost_paths, lost_recipes
from tests.test_layout import ROOT

NOTEBOOK = ROOT / "docs" / "guide" / "your-photos.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
TEXT = "\n".join("".join(cell["source"]) for cell in CELLS)
LONG = "--optim.epochs 600 --optim.labels-only-epochs 200 --optim.warmup-epochs 40"
SHORT = "--optim.epochs 6 --optim.labels-only-epochs 3 --optim.warmup-epochs 1 --run.device cpu"


def typed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carry out one line of a terminal."""
    words = shlex.split(line, comments=True)
    if words[:1] != ["python"]:
        assert subprocess.run(["bash", "-ec", line], stdin=subprocess.DEVNULL).returncode == 0, line
        return
    name, arguments = ("train", words[2:]) if words[1] == "train.py" else (words[2], words[3:])
    if (ROOT / name.replace(".", "/") / "__main__.py").exists():
        name = f"{name}.__main__"
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    assert not importlib.import_module(name).main(), line


def run(cell: str, named: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute a cell as IPython would."""
    if not cell.startswith("%%bash\n"):
        exec(compile(cell, str(NOTEBOOK), "exec"), named)
        return
    for line in cell.replace("\\\n", " ").splitlines()[1:]:
        typed(line, monkeypatch)


@pytest.fixture
def shown(monkeypatch):
    """What cells show, in order: text of HTML, and bytes of pictures."""
    seen: list[str | bytes] = []
    display = SimpleNamespace(HTML=str, Image=lambda path: Path(path).read_bytes(), display=seen.append)
    ipython = SimpleNamespace(display=display, get_ipython=lambda: None, version_info=(9, 0))  # matplotlib asks for it
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return seen


@pytest.mark.slow
def test_every_cell_runs(shown, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", os.environ["PATH"])  # restored after the test; the first cell adds to it
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    inside = tmp_path / "docs" / "guide"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    named: dict = {}
    assert sum(LONG in cell for cell in CODE) == 1
    for cell in CODE:
        run(cell.replace(LONG, SHORT), named, monkeypatch)
    assert Path.cwd() == tmp_path
    labels, views, report = shown
    assert labels[:4] == views[:4] == b"\x89PNG"
    assert "<iframe" in report
    assert "pseudo" in report
    assert named["model"].num_classes == 10
    said = capfd.readouterr().out
    assert "1,497 images" in said
    assert "--dry-run: nothing was sent" in said
    assert re.search(r"^.*\.png,digit \d,0\.\d+$", said, re.MULTILINE)


def test_nothing_that_a_run_printed_is_stored():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)


def test_what_the_notebook_names_is_there():
    text = TEXT.replace("runs/", "")
    assert lost_links(TEXT, NOTEBOOK.parent) == []
    assert lost_paths(text) + lost_recipes(text) + lost_modules(text) == []


def test_a_cell_that_fails_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        run("1 / 0", {}, monkeypatch)
    with pytest.raises(AssertionError):
        run("%%bash\nhead -1 nothing", {}, monkeypatch)
