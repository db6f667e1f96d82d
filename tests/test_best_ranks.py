"""best.pt, early stopping and extensions in processes: on two ranks, sharded or not, and killed."""

import os
import random
import shutil
from pathlib import Path

import pytest

from models.checkpoint import save_load
from models.records import events
from tests.conftest import TINY, rows, same, weights
from tests.processes import start, start_ranks

KILLS = int(os.environ.get("SHOTCRETE_KILLS", 2))
SEED = int(os.environ.get("SHOTCRETE_KILL_SEED", 0))
FLAGS = ["supervised:digits", *TINY, "--run.evaluate-steps=2", "--run.best=top1", "--optim.lr=3e-3"]


def end(ranks: list, code: int = 0) -> None:
    for rank in ranks:
        assert rank.end() == code, rank.err


def best_of(folder: Path) -> int:
    """Step of the first of the best values in the journal."""
    values = {row["step"]: row["values"]["top1"] for row in rows(folder) if row.get("evaluation") == "val"}
    return max(values, key=lambda step: (values[step], -step))


@pytest.mark.parametrize("shard", [[], ["--run.shard"]], ids=["ddp", "sharded"])
def test_ranks_end_after_the_same_step_and_the_best_checkpoint_is_whole(shard, digits, tmp_path):
    argv = [*FLAGS, *shard, f"--data.root={digits}", f"--run.folder={tmp_path / 'run'}"]
    end(start_ranks([*argv, "--run.stop-after=2", "--run.stop-step=5"], tmp_path / "first", 2), 75)
    first = save_load.load(tmp_path / "run" / "best.pt")
    assert first["step"] == best_of(tmp_path / "run")
    end(start_ranks([*argv, "--run.stop-after=2"], tmp_path / "second", 2))
    (done,) = [row for row in events.read(tmp_path / "run") if row["event"] == "done"]
    best, last = (save_load.load(tmp_path / "run" / name) for name in ("best.pt", "last.pt"))
    assert best["step"] == best_of(tmp_path / "run")
    assert last["step"] == done["step"] == min(12, best["step"] + 4)
    assert (best["step"] == first["step"]) == same(best["method"], first["method"])
    one = [*FLAGS, f"--data.root={digits}", f"--run.folder={tmp_path / 'run'}", "--run.stop-after=6"]
    assert start(one, tmp_path / "one").end() == 0  # goes on to the end without the other rank
    assert save_load.load(tmp_path / "run" / "best.pt")["step"] == best_of(tmp_path / "run")


def test_a_sharded_extension_that_is_stopped_ends_as_one_that_never_was(digits, tmp_path):
    def argv(name: str, *more: str) -> list[str]:
        return [*FLAGS, "--run.shard", f"--data.root={digits}", f"--run.folder={tmp_path / name}", *more]

    for name in ("whole", "parts"):
        end(start_ranks(argv(name), tmp_path / f"{name} 1", 2))
    end(start_ranks(argv("whole", "--run.extend=5"), tmp_path / "whole 2", 2))
    end(start_ranks(argv("parts", "--run.extend=5", "--run.stop-step=14"), tmp_path / "parts 2", 2), 75)
    end(start_ranks(argv("parts", "--run.extend=5"), tmp_path / "parts 3", 2))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    assert rows(tmp_path / "parts")[-1]["step"] == 17
    assert len([row for row in events.read(tmp_path / "parts") if row["event"] == "extended"]) == 1


def test_an_extension_that_is_killed_at_any_moment_ends_with_the_same_best_checkpoint(digits, tmp_path):
    """SIGKILL after a number of steps and a fraction of a second that a seed draws, then the same command."""

    def argv(name: str, *more: str) -> list[str]:
        return [*FLAGS, "--run.save-steps=3", f"--data.root={digits}", f"--run.folder={tmp_path / name}", *more]

    longer, moments = "--run.extend=12", random.Random(SEED)
    assert start(argv("straight"), tmp_path / "log").end() == 0
    for kill in range(KILLS):
        shutil.copytree(tmp_path / "straight", tmp_path / f"{kill}")
    assert start(argv("straight", longer), tmp_path / "log straight").end() == 0
    expected = save_load.load(tmp_path / "straight" / "best.pt")
    assert expected["step"] == best_of(tmp_path / "straight")
    for kill in range(KILLS):
        folder = tmp_path / f"{kill}"
        first = start(argv(f"{kill}", longer), tmp_path / f"log {kill}", SLOW="12")
        first.wait_for_steps(moments.randint(0, 11))
        first.process.join(moments.uniform(0, 0.1))
        first.process.kill()
        first.process.join()
        assert start(argv(f"{kill}", longer), tmp_path / f"again {kill}").end() == 0
        assert rows(folder) == rows(tmp_path / "straight")
        assert same(weights(folder), weights(tmp_path / "straight"))
        best = save_load.load(folder / "best.pt")
        assert best["step"] == expected["step"]
        assert same(best["method"], expected["method"])
