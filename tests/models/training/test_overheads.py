import re
import statistics
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from models.optim.update import FiniteGuard
from models.training import overheads

CPU = torch.device("cpu")
FIGURE = r"-?[\d.]+ \(-?[\d.]+ to -?[\d.]+\)"


def test_the_rows_of_saves_are_numbers(tmp_path: Path) -> None:
    row = overheads.saves("vit_tiny_patch16_224", tmp_path, CPU, rounds=1)
    assert re.fullmatch(rf"\| vit_tiny_patch16_224 \| 69 \|( {FIGURE} \|){{3}}", row)  # 5.7 M x 3 x 4 bytes


def test_a_check_that_takes_longer_is_seen_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plain = FiniteGuard.step

    def slow(self: FiniteGuard, *given: object) -> None:
        time.sleep(0.03)
        plain(self, *given)

    monkeypatch.setattr(FiniteGuard, "step", slow)
    small = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 2))
    monkeypatch.setattr(overheads, "build_encoder", lambda name, **_: small)
    step_s = overheads.updates(CPU, rounds=5)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "skips what is not finite" in line]
    _, _, spent, percent, _ = row.split("|")
    assert float(spent.split("(")[0]) > 20
    assert float(percent) == pytest.approx(float(spent.split("(")[0]) / (10 * step_s), rel=0.02)


def test_calls_take_turns_in_both_orders_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    spent = overheads.in_turn((lambda: calls.append("a"), lambda: calls.append("b")), 3, CPU)
    assert "".join(calls) == "ba" + "ab" + "ba" + "ab"
    assert [len(each) for each in spent] == [3, 3]


def test_a_figure_is_the_median_and_the_quartiles() -> None:
    values = [0.004, 0.001, 0.003, 0.002, 0.010]
    low, _, high = statistics.quantiles(values, method="inclusive")
    assert overheads.ms(values, 1) == f"3.0 ({1000 * low:.1f} to {1000 * high:.1f})"
