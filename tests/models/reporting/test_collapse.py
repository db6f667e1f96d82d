"""A run whose pseudo-labels collapse, or never pass, says so on the terminal, once, while it trains."""

import math
from pathlib import Path

import pytest
import torch

from models.method import PseudoLabelStats
from models.optim.schedule import RunLength
from models.reporting.collapse import CollapseWatch, effective_classes
from models.reporting.journal import Journal
from models.reporting.pseudo_label_stats import PseudoLabelCounts
from tests.models.reporting.test_journal import ALONE

CLASSES, EACH = 10, 100
FIXED = {"lambda_u": 1.0, "pseudo": {"kind": "fixed", "threshold": 0.95, "align": "none"}}
LENGTH = RunLength(total_steps=30, warmup_steps=0, labels_only_steps=10, labels_only_epoch_steps=1.0, epoch_steps=1.0)
ONE_CLASS, TEN_CLASSES = [0] * EACH, list(range(CLASSES)) * (EACH // CLASSES)


def warnings(rows: list[tuple[int, list[int], float]], method: dict = FIXED) -> list[str | None]:
    """Warnings at rows (step, predicted classes, share that passes, the first ones)."""
    watch, counts = CollapseWatch(method, LENGTH), PseudoLabelCounts(CLASSES)
    found = []
    for step, classes, share in rows:
        passed = torch.arange(len(classes)) < share * len(classes)
        counts.count([PseudoLabelStats(torch.arange(len(classes)), torch.tensor(classes), passed)], ALONE)
        found.append(watch.after_row(step, counts))
    return found


def test_nearly_all_passing_in_one_class_is_a_collapse_and_said_once():
    first, second, third = warnings([(12, TEN_CLASSES, 1.0), (15, ONE_CLASS, 0.95), (18, ONE_CLASS, 1.0)])
    assert (first, third) == (None, None)
    assert "\n" not in second
    assert second.startswith(
        "pseudo-labels collapse: 95.0 % pass, but they are of about 1.0 of 10 classes; try a lower"
    )
    assert all(
        flag in second for flag in ("--optim.lr", "pseudo.threshold", "pseudo.align", "labels-only", "run.start")
    )


def test_where_a_threshold_of_zero_lets_all_pass_chance_on_val_is_no_collapse_and_one_class_is():
    none = FIXED | {"pseudo": {"kind": "fixed", "threshold": 0.0, "align": "none"}}
    for method, warned in ((FIXED, True), (none, False)):
        watch, counts = CollapseWatch(method, LENGTH), PseudoLabelCounts(CLASSES)
        passed = torch.ones(EACH, dtype=torch.bool)
        counts.count([PseudoLabelStats(torch.arange(EACH), torch.tensor(TEN_CLASSES), passed)], ALONE)
        assert watch.after_row(12, counts) is None
        assert (watch.after_evaluation({"top1": 0.1}) is not None) == warned
    assert warnings([(12, ONE_CLASS, 1.0)], none)[0] is not None


def test_nothing_passing_is_said_once_after_a_fifth_of_the_steps_with_pseudo_labels():
    rows = [(13, ONE_CLASS, 0.0), (14, TEN_CLASSES, 0.0), (15, TEN_CLASSES, 0.0)]
    assert [line is None for line in warnings(rows)] == [True, False, True]
    assert "0 % of the last 100 passed the threshold of 0.95, after 14 of 30 steps; try a lower" in warnings(rows)[1]
    (learned,) = warnings([(14, TEN_CLASSES, 0.0)], {"pseudo": {"kind": "freematch", "threshold": 0.95}})
    assert "passed the threshold, after" in learned
    assert "another --method.pseudo.kind" in learned


@pytest.mark.parametrize(("rows", "method"), [
    ([(20, ONE_CLASS, 0.5)], FIXED),
    ([(20, [0] * 25 + [1] * 25 + [2] * 25 + [3] * 25, 1.0)], FIXED),
    ([(20, TEN_CLASSES, 0.02)], FIXED),
    ([(20, ONE_CLASS[:99], 1.0)], FIXED),
    ([(20, ONE_CLASS, 1.0), (22, TEN_CLASSES, 0.0)], FIXED | {"lambda_u": 0.0}),
], ids=["half pass", "four classes", "few pass", "too few to tell", "of no weight"])  # fmt: skip
def test_other_rows_bring_no_warning(rows, method):
    assert set(warnings(rows, method)) == {None}


def test_small_intervals_are_counted_together():
    assert [line is None for line in warnings([(step, ONE_CLASS[:40], 1.0) for step in (11, 12, 13)])] == [1, 1, 0]


def test_val_at_chance_while_nearly_all_pass_is_a_collapse():
    watch, counts = CollapseWatch(FIXED, LENGTH), PseudoLabelCounts(CLASSES)
    assert watch.after_evaluation({"top1": 0.1}) is None  # nothing has passed
    stats = PseudoLabelStats(torch.arange(EACH), torch.tensor(TEN_CLASSES), torch.ones(EACH, dtype=torch.bool))
    counts.count([stats], ALONE)
    assert watch.after_row(12, counts) is None
    assert watch.after_evaluation({"top1": 0.2}) is watch.after_evaluation({"knn": 0.1}) is None
    line = watch.after_evaluation({"top1": 0.104})
    assert "100.0 % pass, but val top1 is 10.4 %, and chance 10.0 %; try" in line
    assert watch.after_evaluation({"top1": 0.1}) is None


def test_effective_classes_are_exp_of_the_entropy():
    assert effective_classes(torch.tensor([5, 5, 5, 0])) == pytest.approx(3)
    assert effective_classes(torch.tensor([0, 7])) == 1
    assert effective_classes(torch.tensor([3, 1])) == pytest.approx(4 / 3**0.75)
    assert math.isclose(math.log(4 / 3**0.75), -0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_a_resumed_run_is_judged_by_what_comes_after(tmp_path: Path, capsys):
    def journal(resumed: int) -> Journal:
        watch, counts = CollapseWatch(FIXED, LENGTH), PseudoLabelCounts(CLASSES)
        return Journal(tmp_path, LENGTH, ALONE, log_steps=1, pseudo_labels=counts, collapse=watch, resumed=resumed)

    def record(to: Journal, step: int, classes: list[int]) -> None:
        one, passed = torch.ones(()), torch.ones(EACH, dtype=torch.bool)
        stats = [PseudoLabelStats(torch.arange(EACH), torch.tensor(classes), passed)]
        to.record(step, one, {}, one, lr=0.1, images=8, wait_s=0.0, pseudo_stats=stats)

    first = journal(0)
    for step in (1, 2):
        record(first, step, TEN_CLASSES)
    state = first.state_dict()
    second = journal(2)
    second.load_state_dict(state)
    capsys.readouterr()
    record(second, 3, ONE_CLASS)
    assert capsys.readouterr().out.count("about 1.0 of 10 classes") == 1
    for made in (first, second):
        made.close()


@pytest.mark.parametrize(("flags", "said"), [
    (["--method.pseudo.threshold=0", "--optim.lr=1", "--optim.warmup-epochs=0"], "collapse: 100.0 % pass"),
    (["--method.pseudo.threshold=1"], "passed the threshold of 1, after"),
], ids=["collapse", "none passes"])  # fmt: skip
def test_the_terminal_says_it_before_the_last_row(flags, said, tiny, tmp_path, capsys):
    assert tiny("fixmatch:digits", tmp_path / "run", "--optim.epochs=15", "--optim.epoch-unit=step", *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    (found,) = (i for i, line in enumerate(lines) if "try a" in line)
    (last,) = (i for i, line in enumerate(lines) if line.startswith("15/15  loss"))
    assert said in lines[found]
    assert found < last
