"""A run where TensorBoard and matplotlib are not installed: it says what is not written, and trains to the end."""

import sys
from pathlib import Path

from models.training import finish
from tests.conftest import rows


def test_a_run_without_them_says_so_and_has_every_row(tiny, tmp_path: Path, monkeypatch, capsys):
    assert tiny("supervised:digits", tmp_path / "with") == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(finish, "find_spec", lambda _: None)
    assert tiny("supervised:digits", tmp_path / "without", report=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("no events for TensorBoard are written" in line for line in lines) == 1
    assert lines[-1] == "no report is written: matplotlib is not installed; metrics.jsonl has its numbers"
    assert not (tmp_path / "without" / "report.html").exists()
    assert rows(tmp_path / "without") == rows(tmp_path / "with")
