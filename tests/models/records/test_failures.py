import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.records import events, failures
from models.records.failures import FailureLog, LostPeer
from pipeline.errors import InputError


def fail(folder: Path, rank: int, ranks: int, error: BaseException, began: bool = True) -> None:
    with FailureLog(folder, rank, ranks) as failures:
        if began:
            failures.run_began()
        raise error


def test_the_first_cause_comes_before_its_consequences(tmp_path: Path) -> None:
    assert failures.first_cause(tmp_path) is None
    failures.record(tmp_path, 0, "RuntimeError: [..] Connection closed by peer [127.0.0.1]:1")
    assert failures.first_cause(tmp_path)["rank"] == 0
    failures.record(tmp_path, 2, "ValueError: one")
    failures.record(tmp_path, 1, "KeyError: 'later'")
    assert failures.describe(failures.first_cause(tmp_path)) == f"rank 2 on {events.NODE}: ValueError: one"


def test_without_a_run_folder_nothing_is_written(tmp_path: Path) -> None:
    assert failures.record(tmp_path / "absent", 0, "ValueError: x")["error"] == "ValueError: x"
    assert not (tmp_path / "absent").exists()


def test_a_single_process_records_its_error_and_raises_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"):
        fail(tmp_path, 0, 1, ValueError("boom\nsecond line"))
    found = json.loads((tmp_path / "failed" / "rank-0.json").read_text())
    assert (found["error"], found["code"], found["secondary"]) == ("ValueError: boom", 1, False)
    assert [row["event"] for row in events.read(tmp_path)] == ["failed"]


def test_bad_input_is_recorded_once_the_folder_is_claimed(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        fail(tmp_path, 0, 1, InputError("another run's folder"), began=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError):
        fail(tmp_path, 0, 1, InputError("not finite"))
    assert failures.first_cause(tmp_path)["code"] == 2


@pytest.mark.parametrize("asked", [KeyboardInterrupt, SystemExit])
def test_an_exit_on_purpose_is_no_failure(tmp_path: Path, asked: type[BaseException]) -> None:
    with pytest.raises(asked):
        fail(tmp_path, 0, 1, asked())
    assert failures.first_cause(tmp_path) is None


def test_a_full_disk_is_bad_input_and_other_trouble_with_files_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space left on device; free some space"):
        fail(tmp_path, 0, 1, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(PermissionError):
        fail(tmp_path, 0, 1, PermissionError(errno.EACCES, "no"))


def test_a_rank_that_lost_its_peer_reports_the_peers_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "PEER_WAIT_S", 0.1)
    lost, own = RuntimeError("Connection closed by peer [127.0.0.1]:26093"), f"rank 0 on {events.NODE}"
    for cause in ("it ended without an error of its own", f"rank 1 on {events.NODE}: ValueError: boom"):
        with pytest.raises(LostPeer) as caught:
            fail(tmp_path, 0, 2, lost)
        assert str(caught.value) == f"{own}: connection closed by peer: {cause}"
        failures.record(tmp_path, 1, "ValueError: boom")


def test_before_a_run_began_its_folder_may_hold_another_ones_failures(tmp_path: Path) -> None:
    failures.record(tmp_path, 1, "ValueError: of another start")
    with pytest.raises(LostPeer, match="it ended before the run began; its own message says why"):
        fail(tmp_path, 0, 2, RuntimeError("Connection reset by peer"), began=False)


def test_torchrun_reads_the_cause_and_no_consequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "PEER_WAIT_S", 0.1)
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "lost.json"))
    with pytest.raises(LostPeer):
        fail(tmp_path, 0, 2, RuntimeError("Connection reset by peer"))
    assert not (tmp_path / "lost.json").exists()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "own.json"))
    with pytest.raises(KeyError):
        fail(tmp_path, 1, 2, KeyError("planted"))
    read = ProcessFailure(local_rank=1, pid=7, exitcode=1, error_file=str(tmp_path / "own.json"))
    assert read.message == f"rank 1 on {events.NODE}: KeyError: 'planted'"
    assert read.timestamp > 0


def test_a_new_start_forgets_its_own_failure_and_those_of_ranks_that_are_no_more(tmp_path: Path) -> None:
    for rank in range(4):
        failures.record(tmp_path, rank, "ValueError: x")
    FailureLog(tmp_path, 0, 2).run_began()
    assert sorted(path.name for path in (tmp_path / "failed").iterdir()) == ["rank-1.json"]


LEAVES = """
import atexit, sys
from models.records.failures import LostPeer, run_rank
from pipeline.errors import InputError
atexit.register(print, "torn down")
def main():
    print("out")
    %s
run_rank(main)
"""


@pytest.mark.parametrize(
    ("ending", "code", "err"),
    [
        ("return 0", 0, ""),
        ("return 75", 75, ""),
        ("raise InputError('bad')", 2, "error: bad\n"),
        ("raise LostPeer('gone')", 1, "gone\n"),
        ("sys.exit('no')", 1, "no\n"),
        ("raise KeyError('x')", 1, "KeyError: 'x'\n"),
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_one_rank_of_several_is_gone_at_once_after_a_failure(ending: str, code: int, err: str, ranks: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LEAVES % ending], capture_output=True, text=True,
        env={"WORLD_SIZE": str(ranks), "RANK": "0", "PATH": ""}, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert run.returncode == code
    assert run.stderr.endswith(err)
    assert ("torn down" in run.stdout) == (ranks == 1 or code == 0)
    assert "out" in run.stdout
