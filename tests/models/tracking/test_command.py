"""python -m models.tracking: what a service lacks is sent afterwards."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.records import events
from models.tracking import __main__ as tracking
from pipeline.errors import InputError, Unavailable
from tests.models.tracking.standin import calls, write


@pytest.fixture
def folder(trained, tmp_path, monkeypatch) -> Iterator[Path]:
    """A finished run that nobody followed; the stand-in of wandb is installed."""
    monkeypatch.syspath_prepend(write(tmp_path / "packages"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("STANDIN_FILE", str(tmp_path / "log"))
    monkeypatch.setenv("WANDB_API_KEY", "sesame")
    made = tmp_path / "run"
    made.mkdir()
    for name in ("recipe.json", "metrics.jsonl", "events.jsonl", "report.html"):
        (made / name).write_bytes((trained("mae:digits") / name).read_bytes())
    yield made
    sys.modules.pop("wandb", None)


def asked(monkeypatch, *argv: object) -> None:
    monkeypatch.setattr(sys, "argv", ["models.tracking", *map(str, argv)])
    tracking.main()


def test_a_run_is_sent_and_then_nothing_is_left(folder, monkeypatch, capsys):
    asked(monkeypatch, folder, "--to", "wandb")
    asked(monkeypatch, folder, "--to=wandb")
    out = capsys.readouterr().out
    assert f"{folder}: 6 rows sent to wandb" in out
    assert f"{folder}: 0 rows sent to wandb" in out
    log = folder.parent / "log"
    assert [row["step"] for row in calls(log, "log")] == [3, 6, 9, 12, 12, 12]
    assert [row["code"] for row in calls(log, "finish")] == [0, 0]
    assert calls(log, "init")[0]["pid"] == os.getpid()


def test_a_run_that_is_under_way_stays_so(folder, monkeypatch):
    events.append(folder, "resumed", rank=0, step=6)
    asked(monkeypatch, folder, "--to", "wandb")
    assert len(calls(folder.parent / "log", "preempting")) == 1


def test_a_service_that_fails_is_one_line_and_another_try_may_succeed(folder, monkeypatch):
    monkeypatch.setenv("STANDIN_LOG", "raise")
    with pytest.raises(
        Unavailable, match=r"wandb: RuntimeError: cannot reach .* with .*; the same command sends"
    ) as said:
        asked(monkeypatch, folder, "--to", "wandb")
    assert "sesame" not in str(said.value)
    assert said.value.code == 1
    monkeypatch.delenv("STANDIN_LOG")
    asked(monkeypatch, folder, "--to", "wandb")
    assert {row["id"] for row in calls(folder.parent / "log", "init")} == {
        calls(folder.parent / "log", "init")[0]["id"]
    }


@pytest.mark.parametrize(("argv", "said"), [
    ([], "expected a run folder: python -m models.tracking RUN --to mlflow|trackio|wandb"),
    (["--to", "wandb"], "expected a run folder"),
    (["nowhere", "--to", "wandb"], "cannot read nowhere/recipe.json: No such file or directory; give the folder"),
    (["nowhere", "--to", "wanbd"], "--to is 'wanbd', and no service is called so; did you mean wandb?"),
    (["nowhere"], "--to"),
])  # fmt: skip
def test_wrong_input_is_one_line(argv, said, folder, monkeypatch):
    with pytest.raises(InputError) as refused:
        asked(monkeypatch, *argv)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
