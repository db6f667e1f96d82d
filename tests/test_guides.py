"""The guides are run: every block of one-batch.md in order, and the three files that new-method.md builds."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import train
from models.config import catalogue
from models.evaluate import __main__ as evaluate
from pipeline.views import masks
from tests.conftest import rows
from tests.test_layout import ROOT

GUIDE = ROOT / "docs" / "guide"


def blocks(page: str, language: str = "python") -> list[str]:
    """The code blocks of a page, in order."""
    return re.findall(rf"```{language}\n(.*?)```", (GUIDE / page).read_text(), re.DOTALL)


def test_one_batch_goes_from_disk_to_loss_as_the_page_says(digits, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits").symlink_to(digits)
    monkeypatch.chdir(tmp_path)
    found = blocks("one-batch.md")
    assert len(found) == 10
    assert all(3 <= len(block.strip().splitlines()) <= 10 for block in found)
    named: dict = {}
    for step, block in enumerate(found, 1):
        exec(compile(block, f"one-batch.md step {step}", "exec"), named)
    assert all(parameter.grad is not None for parameter in named["method"].encoder.parameters())


def test_each_step_of_one_batch_names_its_file():
    steps = re.split(r"^\*\*\d+\. ", (GUIDE / "one-batch.md").read_text(), flags=re.MULTILINE)[1:]
    assert [bool(re.search(r"`(?:pipeline|models)/[\w/]+\.py`", step)) for step in steps] == [True] * 10


@pytest.fixture
def built(tmp_path, monkeypatch):
    """The files of new-method.md, each where the packages find it: built(file) -> its dotted name."""
    homes = {"models/methods": "models.methods", "pipeline/views/masks": "pipeline.views.masks",
             "models/evaluate": "models.evaluate"}  # fmt: skip
    for block in blocks("new-method.md"):
        path = Path(block.splitlines()[0].removeprefix("# "))
        target = tmp_path / path
        target.parent.mkdir(parents=True)
        target.write_text(block)
        package = importlib.import_module(homes[str(path.parent)])
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(target.parent)])
        monkeypatch.setitem(sys.modules, f"{package.__name__}.{path.stem}", None)  # restored after the test
        del sys.modules[f"{package.__name__}.{path.stem}"]
    monkeypatch.setattr(catalogue, "METHODS", tmp_path / "models" / "methods")
    monkeypatch.setattr(evaluate, "HERE", tmp_path / "models" / "evaluate")


@pytest.mark.usefixtures("built")
def test_the_method_the_mask_and_the_evaluator_of_the_page_run(tiny, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    assert tiny("entmin:digits", run, "--method.lambda-u=0.3") == train.DONE
    losses = [row["parts"] for row in rows(run) if "parts" in row]
    assert all(set(parts) == {"label", "entropy"} and parts["entropy"] > 0 for parts in losses)

    ids, _ = masks.draw(masks.Mask("chess", ratio=0.5), masks_keys(64), 4)
    assert {tuple(row) for row in ids.tolist()} == {(0, 2, 5, 7, 8, 10, 13, 15), (1, 3, 4, 6, 9, 11, 12, 14)}

    monkeypatch.setattr(sys, "argv", ["evaluate", "mirror", str(run), "--device=cpu"])
    evaluate.main()
    assert 0 <= float(re.search(r"agreement +([\d.]+) %", capsys.readouterr().out)[1]) <= 100


def masks_keys(n: int):
    from pipeline import rng

    return rng.keys(0, 0, range(n), rng.MASK)
