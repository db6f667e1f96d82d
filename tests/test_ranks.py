"""Several processes: the same images, losses and weights as one, and one end for all of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.checkpoint import save_load
from models.records import events, failures
from tests.conftest import DECODER, TINY, assert_close, rows, same, weights
from tests.processes import Started, start, start_ranks

RECIPES = {
    "semi_mae:digits": ["--method.pseudo.threshold=0.108", "--optim.labels-only-epochs=4"],
    "supmae:digits": [],
}
SEMI_MAE = pytest.mark.parametrize("runs", ["semi_mae:digits"], indirect=True)
OWN = ("running_mean", "running_var", "num_batches_tracked")  # each rank's batch norm counts its own images


@pytest.fixture(scope="module")
def argv(digits):
    """argv(recipe, folder, *flags): a tiny run's command line."""
    return lambda recipe, folder, *flags: [
        recipe, *TINY, *DECODER, *RECIPES[recipe], f"--data.root={digits}", f"--run.folder={folder}", *flags
    ]  # fmt: skip


@pytest.fixture(scope="module", params=RECIPES)
def runs(request, argv, tmp_path_factory) -> dict[str, tuple[Path, list[Started]]]:
    """A recipe on two ranks, and on one process in two micro-batches and in one."""
    root, recipe = tmp_path_factory.mktemp("runs"), request.param
    found = {"ranks": (root / "ranks", start_ranks(argv(recipe, root / "ranks"), root / "log", 2))}
    end(found["ranks"][1])
    for name, flags in {"parts": ["--run.device-images=16"], "whole": []}.items():
        found[name] = root / name, [start(argv(recipe, root / name, *flags), root / f"log {name}")]
        end(found[name][1])
    return found


def end(ranks: list[Started]) -> None:
    for rank in ranks:
        assert rank.end() == 0, rank.err


def test_two_ranks_see_the_images_of_one(runs):
    (_, ranks), (_, parts), (_, (whole,)) = runs["ranks"], runs["parts"], runs["whole"]
    first, second = (rank.ids() for rank in ranks)
    assert whole.ids() == {step: sorted(first[step] + second[step]) for step in range(12)}
    assert whole.ids() == parts[0].ids()
    assert all(len(first[step]) == len(second[step]) == 16 for step in range(12))


def test_two_ranks_learn_what_one_learns_in_two_micro_batches(runs):
    (ranks, _), (parts, started) = runs["ranks"], runs["parts"]
    assert "2 micro-batches" in started[0].out
    assert_equal_but_for_rounding(ranks, parts)


@SEMI_MAE
def test_two_ranks_learn_what_one_learns_from_the_whole_batch(runs):
    """Without batch norm, whose batches would be others."""
    assert_equal_but_for_rounding(runs["ranks"][0], runs["whole"][0])


def assert_equal_but_for_rounding(a: Path, b: Path) -> None:
    """Losses, their parts, and shares of pseudo-labels in every row; weights at the end."""
    for x, y in zip(rows(a), rows(b), strict=True):
        assert x["step"] == y["step"]
        assert x.get("loss", 0) == pytest.approx(y.get("loss", 0), rel=1e-5)
        assert x.get("parts", {}) == pytest.approx(y.get("parts", {}), rel=1e-5)
        assert x.get("pseudo", {}).get("passed", 0) == pytest.approx(y.get("pseudo", {}).get("passed", 0))
    one, other = ({n: t for n, t in weights(each).items() if not n.endswith(OWN)} for each in (a, b))
    assert_close(one, other)


@SEMI_MAE
def test_the_labels_only_phase_and_pseudo_labels_were_in_play(runs):
    steps = [row for row in rows(runs["ranks"][0]) if "loss" in row]
    assert set(steps[0]["parts"]) == {"label"}
    assert set(steps[2]["parts"]) == {"label", "pseudo", "pixels"}
    assert any(row.get("pseudo", {}).get("passed", 0) > 0 for row in steps)


def test_one_line_and_one_journal_however_many_ranks(runs):
    folder, (_, second) = runs["ranks"]
    assert second.out == ""
    assert [row["step"] for row in rows(folder) if "loss" in row] == [3, 6, 9, 12]


@pytest.mark.slow
def test_torchrun_stops_as_a_whole_and_resumes_to_the_bit(argv, tmp_path):
    """SIGTERM to one worker of torchrun: both save and exit with 75, which torchrun reports, exiting with 1 itself."""
    steps = "--optim.epochs=40"
    straight = start_ranks(argv("semi_mae:digits", tmp_path / "straight", steps), tmp_path / "log", 2)
    end(straight)
    folder = tmp_path / "stopped"
    flags = argv("semi_mae:digits", folder, steps)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*torchrun, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as run:
        for line in run.stdout:
            if line.startswith(" 3/40"):
                break
        os.kill(children(run.pid)[1], signal.SIGTERM)
        out, err = run.communicate(timeout=120)
    stopped = save_load.load(folder / "last.pt")["step"]
    assert f"stopped after step {stopped} and saved" in out
    assert run.returncode == 1
    assert "exitcode  : 75" in err
    end(start_ranks(flags, tmp_path / "again", 2))
    assert same(weights(folder), weights(tmp_path / "straight"))
    assert rows(folder) == rows(tmp_path / "straight")


@SEMI_MAE
def test_four_ranks_that_accumulate_see_and_learn_what_one_does(runs, argv, tmp_path):
    four = start_ranks(argv("semi_mae:digits", tmp_path / "four", "--run.device-images=4"), tmp_path / "log", 4)
    end(four)
    assert "2 micro-batches" in four[0].out
    assert merged(four) == runs["whole"][1][0].ids()
    assert_equal_but_for_rounding(tmp_path / "four", runs["whole"][0])


@SEMI_MAE
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_run_that_stopped_on_two_ranks_goes_on_with_others(ranks, runs, argv, tmp_path):
    folder = tmp_path / "run"
    first = start_ranks(argv("semi_mae:digits", folder, "--run.stop-step=5"), tmp_path / "first", 2)
    assert [rank.end() for rank in first] == [75, 75]
    then = start_ranks(argv("semi_mae:digits", folder), tmp_path / "then", ranks)
    end(then)
    assert merged(first) | merged(then) == runs["whole"][1][0].ids()
    assert not merged(first).keys() & merged(then).keys()
    assert_equal_but_for_rounding(folder, runs["whole"][0])
    said = [row["event"] for row in events.read(folder)]
    assert [event for event in said if event != "decoding"] == ["started", "stopped", "resumed", "done"]


def merged(ranks: list[Started]) -> dict[int, list[int]]:
    """The images of each step over all ranks, sorted."""
    each = [rank.ids() for rank in ranks]
    return {step: sorted(image for ids in each for image in ids[step]) for step in each[0]}


@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_any_rank_stops_all_after_the_same_step(told, argv, tmp_path):
    ranks = start_ranks(argv("semi_mae:digits", tmp_path / "run", "--optim.epochs=2000"), tmp_path / "log", 2)
    ranks[told].wait_for_steps(6)
    ranks[told].signal(signal.SIGUSR2)
    heard = len(ranks[told].steps)
    assert [rank.end() for rank in ranks] == [75, 75]
    stopped = save_load.load(tmp_path / "run" / "last.pt")["step"]
    assert [rank.steps[-1] + 1 for rank in ranks] == [stopped, stopped]
    assert stopped <= heard + 6  # the step that was under way, the vote after it; and those while the test looked
    assert [rank.err for rank in ranks] == ["", ""]


def test_the_rank_that_fails_is_named_by_all_and_nobody_waits(argv, tmp_path):
    """Its exception comes first, not the connection that the others lose by it."""
    ranks = start_ranks(argv("semi_mae:digits", tmp_path / "run"), tmp_path / "log", 2, FAULT="1 5 raise")
    assert [rank.end(30) for rank in ranks] == [1, 1]
    cause = f"rank 1 on {events.NODE}: KeyError: 'planted'"
    assert ranks[1].err.count(cause) == 1
    assert "Traceback" in ranks[1].err
    assert ranks[0].err == f"rank 0 on {events.NODE}: connection closed by peer: {cause}\n"
    found = failures.first_cause(tmp_path / "run")
    assert (found["rank"], found["error"], found["code"]) == (1, "KeyError: 'planted'", 1)
    assert found["log"] == str(tmp_path / "log" / "1" / "err")
    assert ranks[1].err.splitlines()[found["line"] - 1].startswith("rank 1 on ")
    noted = [row["rank"] for row in events.read(tmp_path / "run") if row["event"] == "failed"]
    assert 1 in noted
    end(start_ranks(argv("semi_mae:digits", tmp_path / "run"), tmp_path / "again", 2))
    assert failures.first_cause(tmp_path / "run") is None


def test_a_rank_that_hangs_says_where_and_the_run_ends(argv, tmp_path):
    flags = argv("semi_mae:digits", tmp_path / "run", "--run.hang-timeout-s=3")
    ranks = start_ranks(flags, tmp_path / "log", 2, FAULT="1 5 hang")
    ranks[1].wait_for_steps(5)
    began = time.monotonic()
    assert [rank.end(60) for rank in ranks] == [1, 1]
    assert time.monotonic() - began < 30
    assert "no step for 3 s after step 5, in processes.py" in ranks[1].err
    assert "MainThread" in ranks[1].err
    found = failures.first_cause(tmp_path / "run")
    assert found["rank"] == 1
    assert not found["secondary"]


def test_a_rank_that_is_frozen_ends_the_others(argv, tmp_path):
    """As a node that is lost: no connection closes, and it records no error itself."""
    flags = argv("semi_mae:digits", tmp_path / "run", "--run.hang-timeout-s=3", "--optim.epochs=2000")
    ranks = start_ranks(flags, tmp_path / "log", 2)
    ranks[1].wait_for_steps(5)
    ranks[1].signal(signal.SIGSTOP)
    try:
        assert ranks[0].end(60) == 1
    finally:
        ranks[1].process.kill()
    assert "timed out waiting for other ranks, whose last heartbeats are of steps" in ranks[0].err
    assert "(rank 1 on" in ranks[0].err


def test_a_rank_that_is_killed_ends_the_others_at_once(argv, tmp_path):
    ranks = start_ranks(argv("semi_mae:digits", tmp_path / "run", "--optim.epochs=2000"), tmp_path / "log", 2)
    ranks[1].wait_for_steps(3)
    ranks[1].process.kill()
    assert ranks[0].end(30) == 1
    assert ranks[0].err == f"rank 0 on {events.NODE}: connection closed by peer: it ended without an error of its own\n"


def children(pid: int) -> list[int]:
    """The processes that a process has started, once there are two."""
    while len(found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) < 2:
        time.sleep(0.01)
    return [int(child) for child in found]
