"""Runs that are followed by a process of their own, with a package that stands in for wandb's."""

import os
import signal
import subprocess
import sys
import time
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path

import pytest

from models.records import events
from models.tracking import child, follow, tracker_of
from models.tracking.follow import following
from models.tracking.sender import Sender
from pipeline.errors import InputError
from tests.conftest import rows, same, weights
from tests.models.tracking.standin import calls, write

FLAGS = ["--run.track=wandb", "--run.evaluate-steps=6", "--data.test=None"]


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    """The stand-in is installed; what it is asked for is in this file."""
    package = write(tmp_path / "packages")
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.setenv("STANDIN_FILE", str(tmp_path / "log"))
    monkeypatch.setenv("WANDB_API_KEY", "sesame-open")
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "log"


def wait_for(log: Path, call: str, count: int = 1) -> list[dict]:
    until = time.monotonic() + 60
    while len(found := calls(log, call)) < count and time.monotonic() < until:
        time.sleep(0.02)
    return found


def test_a_run_sends_its_journal_and_goes_on_in_the_same_one(tiny, tmp_path, log, capfd):
    folder = tmp_path / "run"
    assert tiny("mae:digits", folder, *FLAGS, "--run.stop-step=7") == 75
    assert tiny("mae:digits", folder, *FLAGS) == 0
    assert tiny("mae:digits", folder, *FLAGS) == 0  # finished: nothing is opened
    begun = calls(log, "init")
    assert len(begun) == 2
    assert {row["id"] for row in begun} == {begun[0]["id"]}
    assert all((row["resume"], row["name"], row["group"], row["project"]) == ("allow", "run", None, "shotcrete")
               for row in begun)  # fmt: skip
    assert begun[0]["settings"] == {"console": "off", "silent": True, "disable_git": True, "save_code": False}
    sent = [
        (row["values"]["step"], row["values"].get("loss"), row["values"].get("val/knn")) for row in calls(log, "log")
    ]
    held = rows(folder)
    assert sent == [(row["step"], row.get("loss"), row.get("values", {}).get("knn")) for row in held]
    assert [row["step"] for row in calls(log, "log")] == [row["step"] for row in held]
    config = calls(log, "config")[0]["config"]
    assert (config["optim.epochs"], config["run.track"], config["name"]) == (12, "wandb", "mae:digits")
    assert config["environment.device"] == "CPU"
    assert [(row["call"], row.get("code")) for row in calls(log, "preempting", "finish")] == [
        ("preempting", None), ("finish", 1), ("finish", 0)
    ]  # fmt: skip
    (summary,) = (row["values"] for row in calls(log, "summary")[1:])
    assert (summary["state"], summary["events/resumed"], summary["final/val/knn"]) == (
        "finished",
        1,
        held[-1]["values"]["knn"],
    )
    assert not any(row["torch"] or row["pid"] == os.getpid() for row in calls(log))
    printed = capfd.readouterr()
    assert printed.out.count("tracking: wandb, https://***@host/run\n") == 2
    assert "noise" not in printed.out + printed.err
    assert "tracking" not in printed.err


def test_no_secret_is_in_the_run_folder(tiny, tmp_path, log):
    assert tiny("mae:digits", tmp_path / "run", *FLAGS) == 0
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert calls(log, "log")
    assert b"sesame" not in written
    assert b"hunter2" not in written


def test_weights_and_journal_are_those_of_a_run_that_nobody_follows(tiny, tmp_path, log):
    assert tiny("mae:digits", tmp_path / "followed", *FLAGS) == 0
    assert tiny("mae:digits", tmp_path / "alone", *FLAGS[1:]) == 0
    assert same(weights(tmp_path / "followed"), weights(tmp_path / "alone"))
    assert rows(tmp_path / "followed") == rows(tmp_path / "alone")
    assert not (tmp_path / "alone" / "tracking").exists()
    assert len(calls(log, "init")) == 1


@pytest.mark.parametrize("call", ["init", "log"])
def test_a_service_that_fails_is_said_once_and_the_rest_is_sent_later(call, tiny, tmp_path, log, capfd, monkeypatch):
    monkeypatch.setenv(f"STANDIN_{call.upper()}", "raise")
    assert tiny("mae:digits", tmp_path / "run", *FLAGS, "--run.stop-step=7") == 75
    said = [line for line in capfd.readouterr().err.splitlines() if "tracking" in line]
    first, *last = said
    why, _, then = first.partition(" with ***; ")
    assert why == "warning: tracking: wandb: RuntimeError: cannot reach https://***@host/x"
    if last:  # the machine was quick enough for a try before the run's end
        assert then == "further tries are silent"
        (then,) = last
        assert then.startswith("warning: tracking: wandb: the tries failed to the end; `python -m models.tracking /")
    assert then.endswith("sends what is missing")
    monkeypatch.delenv(f"STANDIN_{call.upper()}")
    assert tiny("mae:digits", tmp_path / "run", *FLAGS) == 0
    sent = [row["values"]["step"] for row in calls(log, "log")]
    assert sent[-len(rows(tmp_path / "run")) :] == [row["step"] for row in rows(tmp_path / "run")]
    assert capfd.readouterr().err == ""


def test_a_service_that_hangs_holds_nobody_up(tiny, tmp_path, log, capfd, monkeypatch):
    monkeypatch.setenv("STANDIN_INIT", "hang")
    monkeypatch.setattr(follow, "END_S", 0.5)
    began = time.monotonic()
    assert tiny("mae:digits", tmp_path / "run", *FLAGS) == 0
    assert time.monotonic() - began < 20
    (left,) = follow._left
    assert "warning: tracking: wandb still sends, and the run does not wait for it" in capfd.readouterr().err
    assert left.poll() is None
    left.kill()  # it would end by itself after child.LAST_S
    left.wait()
    follow._left.clear()


def test_a_process_that_hangs_ends_by_itself_and_one_that_is_killed_is_said(
    tmp_path, log, capfd, monkeypatch, run_folder
):
    monkeypatch.setenv("STANDIN_INIT", "hang")
    code = "from models.tracking import child; child.LAST_S = 1; child.main()"
    command = [sys.executable, "-c", code, str(run_folder), "wandb"]
    hung = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{follow.ROOT}:{os.environ['PYTHONPATH']}"},
    )
    wait_for(log, "init")
    hung.stdin.close()
    assert hung.wait(20) == -signal.SIGALRM
    hung.stdout.close()
    monkeypatch.setenv("STANDIN_INIT", "kill")
    with following(run_folder, "wandb"):
        wait_for(log, "init", 2)
    assert "the process for wandb ended with code -9; `python -m models.tracking` sends" in capfd.readouterr().err


def test_a_start_waits_for_the_process_of_the_one_before(run_folder, log, monkeypatch, capfd):
    with following(run_folder, "wandb"):
        with Sender(run_folder, "wandb", tracker_of("wandb")):  # as that process has it
            time.sleep(0.5)
            assert not calls(log)
        events.append(run_folder, "done", rank=0)
    assert [row["code"] for row in calls(log, "finish")] == [0]
    assert capfd.readouterr().err == ""


def test_signals_are_for_the_run_and_an_error_is_not_waited_for(run_folder, log):
    def failing() -> None:
        with following(run_folder, "wandb"):
            pid = wait_for(log, "log")[0]["pid"]
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
                os.kill(pid, number)
            assert os.getpgid(pid) != os.getpgid(0)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    (child_left,) = follow._left
    follow._left.clear()
    events.append(run_folder, "failed", rank=0)
    assert child_left.wait(20) == 0
    assert calls(log, "finish")[0]["code"] == 1
    assert calls(log, "summary")[0]["values"]["state"] == "failed"


@pytest.fixture
def run_folder(trained, tmp_path) -> Path:
    """What a run has left that is under way."""
    folder = tmp_path / "under_way"
    folder.mkdir()
    for name in ("recipe.json", "metrics.jsonl"):
        (folder / name).write_bytes((trained("mae:digits") / name).read_bytes())
    events.append(folder, "started", rank=0, step=0)
    return folder


def test_a_package_that_is_missing_is_said_before_the_folder_is_begun(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()  # as the package leaves behind; it is no package
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    if find_spec("wandb").origin is not None:
        pytest.skip("wandb is installed here")
    with pytest.raises(InputError, match=r"run.track is wandb, whose package is not installed here; .*extra `wandb`"):
        tiny("mae:digits", tmp_path / "run", "--run.track=wandb")
    with pytest.raises(InputError, match=r"run.track is 'wanbd', and no service is called so; did you mean wandb\?"):
        tiny("mae:digits", tmp_path / "run", "--run.track=wanbd")
    assert not (tmp_path / "run").exists()


def test_a_process_that_cannot_be_started_is_said_and_the_run_goes_on(run_folder, monkeypatch, capfd):
    monkeypatch.setattr(follow.sys, "executable", "/nowhere/python")
    with following(run_folder, "wandb"):
        pass
    assert "no process for wandb could be started (No such file or directory)" in capfd.readouterr().err


def test_nothing_is_followed_by_default(run_folder, monkeypatch):
    monkeypatch.setattr(follow, "_start", lambda *_: pytest.fail("a process was started"))
    with following(run_folder, None):
        pass


def test_a_run_that_ends_without_a_word_has_failed(run_folder, monkeypatch):
    monkeypatch.setattr(child, "VERDICT_S", 0.1)
    assert child._verdict(run_folder) == "failed"
    events.append(run_folder, "stopped", rank=0)
    assert child._verdict(run_folder) == "stopped"
    events.append(run_folder, "done", rank=0)
    assert child._verdict(run_folder) == "finished"
