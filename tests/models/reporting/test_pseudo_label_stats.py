import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from models.distributed.process_group import World
from models.method import PseudoLabelStats
from models.reporting.pseudo_label_stats import Tally, scarce

ALONE = World(0, 1, 0, torch.device("cpu"))
TRUTH = torch.tensor([0, 1, 2, 2, -1, 1])
"""True labels by id; id 4 has none."""
GUESS = some.tuples(some.integers(0, 5), some.integers(0, 2), some.booleans())


@given(some.lists(some.lists(GUESS, max_size=6), max_size=4))
def test_tallies_equal_a_slow_count(steps: list[list[tuple[int, int, bool]]]) -> None:
    tally = Tally(3, oracle=lambda ids: TRUTH[ids])
    guessed, passed, confusion = [0] * 3, [0] * 3, [[0] * 3 for _ in range(3)]
    for index, step in enumerate(steps):
        columns = [[one[part] for one in step] for part in range(3)]
        ids, classes, kept = (torch.tensor(column, dtype=torch.int64) for column in columns)
        tally.add(PseudoLabelStats(ids, classes, kept.bool()))
        if index % 2:
            tally.settle(ALONE)
        for image, guess, keeps in step:
            guessed[guess] += 1
            passed[guess] += keeps
            if keeps and TRUTH[image] >= 0:
                confusion[TRUTH[image]][guess] += 1
    tally.settle(ALONE)
    assert tally.guessed.tolist() == guessed
    assert tally.passed.tolist() == passed
    assert tally.confusion.tolist() == confusion
    shares = tally.interval()
    judged = sum(map(sum, confusion))
    assert shares.get("passed") == (sum(passed) / sum(guessed) if sum(guessed) else None)
    assert shares.get("correct") == (sum(confusion[c][c] for c in range(3)) / judged if judged else None)
    assert tally.interval() == {}


def test_without_an_oracle_nothing_is_judged() -> None:
    tally = Tally(3)
    tally.add(PseudoLabelStats(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([True, False])))
    tally.settle(ALONE)
    assert tally.confusion is None
    assert tally.interval() == {"passed": 0.5}


def test_a_tally_carries_on_from_its_state() -> None:
    step = PseudoLabelStats(torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([True, True]))
    whole, first, second = (Tally(3, oracle=lambda ids: TRUTH[ids]) for _ in range(3))
    for tally in (whole, whole, first):
        tally.add(step)
        tally.settle(ALONE)
    second.load_state_dict(first.state_dict())
    second.add(step)
    second.settle(ALONE)
    assert all(torch.equal(second.state_dict()[name], value) for name, value in whole.state_dict().items())
    first.add(step)  # the state that was loaded is a copy
    first.settle(ALONE)
    assert second.guessed.sum() == 4


def run(passed: list[float], kind: str = "fixed", lambda_u: float = 1.0) -> tuple[list[dict], dict]:
    """Two rows on labels alone, then one for each share; and the recipe."""
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "evaluation": "val", "values": {}}]
    rows += [{"step": 3 + i, "pseudo": {"passed": share}} for i, share in enumerate(passed)]
    return rows, {"method": {"lambda_u": lambda_u, "pseudo": {"threshold": 0.95, "kind": kind}}}


def test_a_run_at_whose_end_hardly_a_pseudo_label_passed_is_told_in_a_line() -> None:
    said = scarce(*run([0.5] * 18 + [0.003, 0.001]))  # the last tenth
    assert "0.2 % passed the threshold of 0.95" in said
    assert said.endswith("--method.pseudo.threshold")
    assert "\n" not in said
    assert scarce(*run([0.0], kind="freematch")).endswith("--method.pseudo.kind")


@pytest.mark.parametrize(
    "asked",
    [run([]), run([0.0] * 18 + [0.012, 0.009]), run([0.0], lambda_u=0.0), ([{"step": 1, "pseudo": {}}], {})],
    ids=["no pseudo-labels", "enough at the end", "of no weight on purpose", "an empty tally"],
)
def test_other_runs_are_told_nothing(asked: tuple[list[dict], dict]) -> None:
    assert scarce(*asked) is None
