import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from models.distributed.process_group import World
from models.method import PseudoLabelStats
from models.reporting.pseudo_label_stats import PseudoLabelCounts, few_passed

ALONE = World(0, 1, 0, torch.device("cpu"))
TRUTH = torch.tensor([0, 1, 2, 2, -1, 1])
"""True labels by id; id 4 has none."""
GUESS = some.tuples(some.integers(0, 5), some.integers(0, 2), some.booleans())


@given(some.lists(some.lists(GUESS, max_size=6), max_size=4))
def test_counts_equal_a_slow_count(steps: list[list[tuple[int, int, bool]]]) -> None:
    counts, pending = PseudoLabelCounts(3, oracle=lambda ids: TRUTH[ids]), []
    predicted, passed, confusion = [0] * 3, [0] * 3, [[0] * 3 for _ in range(3)]
    for index, step in enumerate(steps):
        columns = [[one[part] for one in step] for part in range(3)]
        ids, classes, kept = (torch.tensor(column, dtype=torch.int64) for column in columns)
        pending.append(PseudoLabelStats(ids, classes, kept.bool()))
        if index % 2:
            counts.count(pending, ALONE)
            pending = []
        for image, predicted_class, keeps in step:
            predicted[predicted_class] += 1
            passed[predicted_class] += keeps
            if keeps and TRUTH[image] >= 0:
                confusion[TRUTH[image]][predicted_class] += 1
    counts.count(pending, ALONE)
    assert counts.predicted.tolist() == predicted
    assert counts.passed.tolist() == passed
    assert counts.confusion.tolist() == confusion
    shares = counts.interval()
    known = sum(map(sum, confusion))
    assert shares.get("passed") == (sum(passed) / sum(predicted) if sum(predicted) else None)
    assert shares.get("correct") == (sum(confusion[c][c] for c in range(3)) / known if known else None)
    assert counts.interval() == {}


def test_without_an_oracle_there_is_no_confusion() -> None:
    counts = PseudoLabelCounts(3)
    counts.count([PseudoLabelStats(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([True, False]))], ALONE)
    assert counts.confusion is None
    assert counts.interval() == {"passed": 0.5}


def test_counts_go_on_from_their_state() -> None:
    step = PseudoLabelStats(torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([True, True]))
    whole, first, second = (PseudoLabelCounts(3, oracle=lambda ids: TRUTH[ids]) for _ in range(3))
    for counts in (whole, whole, first):
        counts.count([step], ALONE)
    second.load_state_dict(first.state_dict())
    second.count([step], ALONE)
    assert all(torch.equal(second.state_dict()[name], value) for name, value in whole.state_dict().items())
    first.count([step], ALONE)  # the state that was loaded is a copy
    assert second.predicted.sum() == 4


def run(passed: list[float], kind: str = "fixed", lambda_u: float = 1.0) -> tuple[list[dict], dict]:
    """Two rows on labels alone, then one for each share; and the recipe."""
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "evaluation": "val", "values": {}}]
    rows += [{"step": 3 + i, "pseudo": {"passed": share}} for i, share in enumerate(passed)]
    return rows, {"method": {"lambda_u": lambda_u, "pseudo": {"threshold": 0.95, "kind": kind}}}


def test_a_run_at_whose_end_few_pseudo_labels_passed_gets_a_warning_in_one_line() -> None:
    said = few_passed(*run([0.5] * 18 + [0.003, 0.001]))  # the last tenth
    assert "0.2 % passed the threshold of 0.95" in said
    assert said.endswith("--method.pseudo.threshold")
    assert "\n" not in said
    assert few_passed(*run([0.0], kind="freematch")).endswith("--method.pseudo.kind")


@pytest.mark.parametrize(
    "asked",
    [run([]), run([0.0] * 18 + [0.012, 0.009]), run([0.0], lambda_u=0.0), ([{"step": 1, "pseudo": {}}], {})],
    ids=["no pseudo-labels", "enough at the end", "of no weight on purpose", "no counts"],
)
def test_other_runs_get_no_warning(asked: tuple[list[dict], dict]) -> None:
    assert few_passed(*asked) is None
