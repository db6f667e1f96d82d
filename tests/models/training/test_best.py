"""The best value of val: which evaluation it is of, when a run has to end, and that best.pt is the checkpoint of it."""

import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from models.checkpoint import save_load
from models.training.best import BestValue, check_best, restore_best
from pipeline.errors import InputError
from tests.models.ranks import run_ranks


def slowly(values: list[float | None], lower: bool) -> tuple[int | None, int]:
    """Index of the first of the best, and how many stand behind it, by sorting."""
    known = [(value if lower else -value, i) for i, value in enumerate(values) if value is not None]
    first = min(known)[1] if known else None
    return first, len(values) - 1 - (-1 if first is None else first)


@given(some.lists(some.one_of(some.none(), some.integers(0, 3).map(float))), some.sampled_from(["top1", "loss_raw"]))
def test_the_first_of_the_best_counts_and_so_do_the_evaluations_since(values: list, name: str) -> None:
    best = BestValue(name)
    better = [best.add(step, {name: value, "other": 9.0}) for step, value in enumerate(values, 1)]
    first, since = slowly(values, lower=name == "loss_raw")
    assert best.step == (None if first is None else first + 1)
    assert best.without == since
    assert [i for i, found in enumerate(better) if found][-1:] == ([] if first is None else [first])


def test_what_is_missing_or_not_finite_is_never_better_and_a_step_counts_once() -> None:
    best = BestValue("knn")
    assert [best.add(step, values) for step, values in enumerate([{}, {"knn": math.nan}, {"knn": math.inf}], 1)] == [
        False
    ] * 3
    assert best.describe() is None
    assert best.add(4, {"knn": 0.5})
    assert not best.add(4, {"knn": 0.9})
    assert (best.step, best.value, best.without) == (4, 0.5, 0)
    assert best.describe() == "best val knn 50.0 % after step 4"


def test_a_run_is_exhausted_after_so_many_evaluations_without_a_better_one() -> None:
    best = BestValue("top1", stop_after=2, ends=(40,))
    ended = []
    for step, value in zip(range(5, 40, 5), (0.1, 0.3, 0.3, 0.2, 0.4, 0.1, 0.1), strict=True):
        best.add(step, {"top1": value})
        ended.append(best.exhausted(step))
    assert ended == [False, False, False, True, False, False, True]
    assert best.why() == "no better val top1 in 2 evaluations"
    patient = BestValue("top1", ends=(40,))
    for step in range(5, 40, 5):
        patient.add(step, {"top1": 0.0})
    assert not patient.exhausted(35)


def test_an_extension_counts_from_its_own_first_evaluation() -> None:
    best = BestValue("top1", stop_after=2, ends=(20, 40))
    for step, value in ((5, 0.5), (15, 0.1), (20, 0.1)):  # the last one ends the run itself
        best.add(step, {"top1": value})
    assert not best.exhausted(20)  # the step after it is the extension's
    best.add(25, {"top1": 0.2})
    assert (best.without, best.exhausted(25)) == (1, False)
    best.add(30, {"top1": 0.2})
    assert best.exhausted(30)
    assert (best.step, best.value) == (5, 0.5)


def test_the_state_is_that_of_the_journals_rows() -> None:
    best = BestValue("top1")
    best.add_rows([
        {"step": 3, "loss": 1.0}, {"step": 5, "evaluation": "val", "values": {"top1": 0.2}},
        {"step": 5, "evaluation": "test", "values": {"top1": 0.9}},
        {"step": 9, "evaluation": "val", "values": {"top1": None}},
    ])  # fmt: skip
    assert (best.step, best.value, best.without, best.last) == (5, 0.2, 1, 9)


def test_a_value_that_is_not_measured_is_refused_with_those_that_are() -> None:
    check_best("knn", ("top1", "knn"))
    with pytest.raises(InputError, match=r"run\.best is acc, expected a value of val: top1, knn; choose one"):
        check_best("acc", ("top1", "knn"))


def saved(folder: Path, step: int, *, best: bool = False) -> None:
    save_load.save(folder, {"step": step, "weights": torch.full((3,), float(step))})
    if best:
        save_load.keep_best(folder)


def at(step: int, value: float = 0.5) -> BestValue:
    best = BestValue("top1")
    best.add(step, {"top1": value})
    return best


def test_the_best_checkpoint_stays_while_later_ones_are_saved(tmp_path: Path) -> None:
    saved(tmp_path, 5, best=True)
    assert os.path.samefile(tmp_path / "best.pt", tmp_path / "last.pt")  # no space of its own yet
    for step in (10, 15):
        saved(tmp_path, step)
    assert [save_load.load(tmp_path / name)["step"] for name in ("best.pt", "previous.pt", "last.pt")] == [5, 10, 15]
    assert torch.equal(save_load.load(tmp_path / "best.pt")["weights"], torch.full((3,), 5.0))
    assert restore_best(tmp_path, at(5), 15) is None
    assert save_load.load(tmp_path / "best.pt")["step"] == 5


def test_a_kill_between_the_checkpoint_and_its_second_name_is_made_good(tmp_path: Path) -> None:
    saved(tmp_path, 5, best=True)
    saved(tmp_path, 10)  # the journal says that it is the best; the link was not made
    assert restore_best(tmp_path, at(10), 10) is None
    assert save_load.load(tmp_path / "best.pt")["step"] == 10


@pytest.mark.parametrize("damage", ["of a lost step", "damaged", "missing"])
def test_a_best_checkpoint_that_is_not_the_journals_is_removed_and_that_is_said(damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 20, best=damage == "of a lost step")
    if damage == "damaged":
        (tmp_path / "best.pt").write_bytes(b"no checkpoint")
    note = restore_best(tmp_path, at(5), 10)
    assert note is not None
    assert "not that of the best val top1 50.0 % after step 5" in note
    assert "\n" not in note
    assert not (tmp_path / "best.pt").exists()
    assert restore_best(tmp_path, BestValue("top1"), 10) is None  # no evaluation yet: nothing is lost


def test_a_disk_that_refuses_the_second_name_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot save a checkpoint"):
        save_load.keep_best(tmp_path)


KILLS = """
import os, sys
from pathlib import Path
import torch
from models.checkpoint import save_load
from models.training.best import BestValue, restore_best
from tests.models.checkpoint.killing import kill_at

folder, weight = Path(sys.argv[1]), torch.arange(2_000.0)

def save(step):
    save_load.save(folder, {"step": step, "weight": weight + step})

def whole(name, step):
    found = save_load.load(folder / name)
    assert found["step"] == step and torch.equal(found["weight"], weight + step)

event, finished = 0, False
while not finished:
    for path in folder.iterdir():
        path.unlink()
    save(1)
    save_load.keep_best(folder)
    save(2)
    child = os.fork()
    if child == 0:
        kill_at(event)
        save(3)  # which is better than all before
        save_load.keep_best(folder)
        os._exit(0)
    finished = os.waitpid(child, 0)[1] == 0
    whole("best.pt", 3 if finished else save_load.load(folder / "best.pt")["step"])
    last = save_load.latest(folder)[0]["step"]
    best = BestValue("top1")  # of the journal's rows up to that step
    best.add(1, {"top1": 0.5})
    if last == 3:
        best.add(3, {"top1": 0.6})
    assert restore_best(folder, best, last) is None
    whole("best.pt", 3 if last == 3 else 1)
    save(4)
    whole("best.pt", 3 if last == 3 else 1)
    event += 1
print(event)
"""


def test_a_kill_in_any_phase_leaves_a_best_checkpoint_that_is_the_journals(tmp_path: Path) -> None:
    phases = int(run_ranks(KILLS, 1, str(tmp_path))[0])
    assert phases >= 10  # those of a save, and the second name's unlink, link, replace, unlink and fsync
