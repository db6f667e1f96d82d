import json
import math
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.checkpoint import save_load
from models.distributed.process_group import World
from models.method import PseudoLabelStats
from models.optim.schedule import RunLength
from models.records.metrics import read
from models.reporting.journal import Journal, _memory
from models.reporting.pseudo_label_stats import PseudoLabelCounts
from tests.models.ranks import run_ranks

ALONE = World(0, 1, 0, torch.device("cpu"))
LENGTH = RunLength(total_steps=10, warmup_steps=0, labels_only_steps=0, labels_only_epoch_steps=1.0, epoch_steps=5.0)


def journal(folder: Path, resumed: int = 0) -> Journal:
    return Journal(folder, LENGTH, ALONE, log_steps=4, pseudo_labels=PseudoLabelCounts(3), resumed=resumed)


def losses(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(step)
    label, pseudo, norm = torch.randn(3)
    return label + pseudo, {"label": label, "pseudo": pseudo}, norm


def record(to: Journal, step: int) -> bool:
    torch.manual_seed(100 + step)
    classes = torch.randint(0, 3, (5,))
    stats = [PseudoLabelStats(torch.arange(5), classes, torch.rand(5) > 0.5)]
    loss, parts, norm = losses(step)
    return to.record(step, loss, parts, norm, lr=step / 10, images=8, wait_s=0.0, pseudo_stats=stats)


def untimed(folder: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "timing"} for row in read(folder)]


def test_rows_hold_the_means_since_the_row_before(tmp_path: Path) -> None:
    made = journal(tmp_path)
    assert [step for step in range(1, 11) if record(made, step)] == [4, 8, 10]
    rows = read(tmp_path)
    assert [(row["step"], row["epoch"], row["lr"]) for row in rows] == [(4, 0.8, 0.4), (8, 1.6, 0.8), (10, 2.0, 1.0)]
    for row, steps in zip(rows, ([1, 2, 3, 4], [5, 6, 7, 8], [9, 10]), strict=True):
        for name in ("label", "pseudo"):
            slow = sum(float(losses(step)[1][name]) for step in steps) / len(steps)
            assert row["parts"][name] == pytest.approx(slow, rel=1e-12)
        assert row["loss"] == pytest.approx(sum(float(losses(step)[0]) for step in steps) / len(steps), rel=1e-12)
        assert 0 <= row["pseudo"]["passed"] <= 1
        assert row["timing"]["images_per_s"] > 0
    made.close()


@pytest.mark.parametrize("stop", range(11))
def test_stopping_after_any_step_changes_no_row(tmp_path: Path, stop: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    made = journal(whole)
    for step in range(1, 11):
        record(made, step)
    first = journal(parts)
    for step in range(1, stop + 1):
        record(first, step)
    save_load.save(parts, first.state_dict())
    for step in range(stop + 1, min(stop + 6, 11)):  # work after the checkpoint, lost in a kill
        record(first, step)
    with open(parts / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')
    second = journal(parts, resumed=stop)
    second.load_state_dict(save_load.load(parts / "last.pt"))
    for step in range(stop + 1, 11):
        record(second, step)
    assert untimed(parts) == untimed(whole)
    for name, value in made.pseudo_labels.state_dict().items():
        assert value is None or torch.equal(value, second.pseudo_labels.state_dict()[name])
    seconds = [row["timing"]["elapsed_s"] for row in read(parts)]
    assert seconds == sorted(seconds)
    for each in (made, first, second):
        each.close()


def test_an_interval_that_began_under_a_parts_former_name_goes_on(tmp_path: Path) -> None:
    made, one = journal(tmp_path), torch.ones(())
    for step, name in enumerate(("pixels", "pca", "pca", "pca"), 1):
        made.record(step, one, {name: step * one}, one, lr=0.1, images=8, wait_s=0.0)
    assert read(tmp_path)[0]["parts"] == {"pixels": 1.0, "pca": 3.0}
    made.close()


def test_events_of_steps_run_again_are_not_doubled(tmp_path: Path) -> None:
    first = journal(tmp_path)
    for step in range(1, 9):
        record(first, step)
    first.close()
    second = journal(tmp_path, resumed=4)
    for step in range(5, 11):
        record(second, step)
    second.close()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [4, 8, 10]
    assert "parts/label" in events.Tags()["scalars"]


def test_an_evaluation_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = journal(tmp_path)
    first.evaluation(8, "accuracy", {"top1": 0.5})
    first.close()
    second = journal(tmp_path, resumed=8)
    second.evaluation(8, "accuracy", {"top1": 0.5})
    second.evaluation(10, "accuracy", {"top1": 0.75})
    second.close()
    assert [(row["step"], row["values"]["top1"]) for row in read(tmp_path)] == [(8, 0.5), (10, 0.75)]
    said = capsys.readouterr().out
    assert (said.count("accuracy"), said.count("accuracy: top1 75.0 %")) == (2, 1)


def test_a_loss_that_is_not_a_number_is_still_json(tmp_path: Path) -> None:
    made = journal(tmp_path)
    nan = torch.tensor(math.nan)
    made.record(4, nan, {"label": nan}, nan, lr=0.1, images=8, wait_s=0.0)
    made.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert json.loads(text)["parts"] == {"label": None}


def test_pauses_and_the_first_step_do_not_count_in_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    made = journal(tmp_path)
    for step in range(1, 9):
        clock[0] += 60.0 if step == 1 else 2.0  # compilation
        loss, parts, norm = losses(step)
        made.record(step, loss, parts, norm, lr=0.1, images=8, wait_s=0.5)
        with made.paused():
            clock[0] += 30.0
    first, second = (row["timing"] for row in read(tmp_path))
    assert (first["images_per_s"], first["wait_share"]) == (4.0, 0.25)
    assert (second["images_per_s"], second["wait_share"]) == (4.0, 0.25)
    assert second["elapsed_s"] == 60 + 7 * 2 + 7 * 30
    made.close()


TOGETHER = """
import json, sys
from pathlib import Path
import torch
from models.config.recipe import Run
from models.checkpoint import save_load
from models.distributed.process_group import finish, start
from models.reporting.journal import Journal, _memory
from models.reporting.pseudo_label_stats import PseudoLabelCounts
from models.optim.schedule import RunLength

world = start(Run(device="cpu"))
folder = Path(sys.argv[1])
made = Journal(folder, RunLength(4, 0, 0, 1.0, 1.0), world, log_steps=2, pseudo_labels=PseudoLabelCounts(3))
for step in range(1, 4):
    loss = torch.tensor(float(step + 10 * world.rank))
    stats = [(torch.tensor([0]), torch.tensor([world.rank]), torch.tensor([world.rank == 1]))]
    made.record(step, loss, {"label": loss}, loss, lr=0.1, images=8, wait_s=0.0, pseudo_stats=stats)
state = made.state_dict()
if world.main:
    save_load.save(folder, state)
finish(world)
"""


def test_two_ranks_write_one_row_of_means_and_resume_on_one(tmp_path: Path) -> None:
    run_ranks(TOGETHER, 2, str(tmp_path))
    (row,) = read(tmp_path)
    assert row["loss"] == row["parts"]["label"] == ((1 + 2) / 2 + (11 + 12) / 2) / 2
    assert row["pseudo"] == {"passed": 0.5}
    assert 0 <= row["timing"]["median_own_s"] <= row["timing"]["slowest_own_s"]
    assert row["timing"]["node_images_per_s"] == row["timing"]["images_per_s"]  # both ranks are on one node
    assert row["timing"]["slowest_rank"] in (0, 1)
    state = save_load.load(tmp_path / "last.pt")
    assert state["pseudo_labels"]["predicted"].tolist() == [3, 3, 0]
    assert state["pseudo_labels"]["passed"].tolist() == [0, 3, 0]
    length, counts = RunLength(4, 0, 0, 1.0, 1.0), PseudoLabelCounts(3)
    made = Journal(tmp_path, length, ALONE, log_steps=2, pseudo_labels=counts, resumed=3)
    made.load_state_dict(state)
    loss = torch.tensor(9.0)
    made.record(4, loss, {"label": loss}, loss, lr=0.1, images=8, wait_s=0.0)
    made.close()
    assert read(tmp_path)[1]["loss"] == ((3 + 13) / 2 + 9) / 2


SLOW = """
import sys, time
from pathlib import Path
import torch
from models.config.recipe import Run
from models.distributed.process_group import finish, start
from models.reporting.journal import Journal, _memory
from models.optim.schedule import RunLength

world = start(Run(device="cpu"))
made = Journal(Path(sys.argv[1]), RunLength(99, 0, 0, 1.0, 1.0), world, log_steps=2)
loss = torch.tensor(1.0)
for step in range(1, 13):
    with made.timer.forward():
        time.sleep(0.06 if world.rank == 2 and step > 2 else 0.02)
    made.record(step, loss, {}, loss, lr=0.1, images=12, wait_s=0.01)
finish(world)
"""


def test_a_rank_that_holds_up_the_others_is_named_once(tmp_path: Path) -> None:
    said, *others = run_ranks(SLOW, 3, str(tmp_path))
    assert others == ["", ""]
    (line,) = (line for line in said.splitlines() if "holds up" in line)
    assert line.startswith("rank 2 on ")
    timing = [row["timing"] for row in read(tmp_path)][2:]
    assert {each["slowest_rank"] for each in timing} == {2}
    for each in timing:
        assert each["slowest_own_s"] >= 0.07  # waiting for data, and forward
        assert 0.03 <= each["median_own_s"] < each["slowest_own_s"]


def test_memory_is_what_tensors_take_and_what_is_reserved_for_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2.5e9)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3e9)
    assert _memory(torch.device("cuda", 0)) == {"memory_gb": 2.5, "reserved_gb": 3.0}
    assert _memory(torch.device("cpu")) == {}
