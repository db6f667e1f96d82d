"""Measure a run while it trains, losses and speed, and write metrics.jsonl, TensorBoard events and terminal lines."""

import contextlib
import json
import math
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from models.distributed.process_group import World, sum_over_ranks
from models.method import PseudoLabelStats
from models.optim.schedule import RunLength
from models.records import metrics
from models.reporting.collapse import CollapseWatch
from models.reporting.pseudo_label_stats import PseudoLabelCounts
from models.reporting.stragglers import Stragglers
from models.reporting.terminal import progress_line
from pipeline.store.atomic_write import write_whole
from pipeline.text import measured

BOARD = "events"
"""Folder of TensorBoard's event files, in the run folder."""


@final
class StepTimer:
    """Images and waiting since the last reading; the first step, which compiles and fills queues, is not timed.

    with timer.forward(): ...          # the forward pass of each micro-batch
    timer.step(images, wait_s)         # after each step
    timer.read()                       # {"images_per_s", "wait_share", "step_s", "own_s"}
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._since: float | None = None
        self._steps, self._images, self._wait_s, self._forward_s = 0, 0, 0.0, 0.0
        self._forwards: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def forward(self) -> Generator[None]:
        """Time a forward pass, on the device. Ranks wait for each other in the backward pass, but not in this one."""
        if self.device.type == "cuda":
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            yield
            ended.record()
            self._forwards.append((began, ended))
        else:
            began = time.perf_counter()
            yield
            self._forward_s += time.perf_counter() - began

    def step(self, images: int, wait_s: float) -> None:
        """Count a step of so many images over all ranks, for which this rank waited `wait_s` for the loader."""
        if self._since is None:
            self._since, self._forward_s, self._forwards = time.perf_counter(), 0.0, []
        else:
            self._steps, self._images, self._wait_s = self._steps + 1, self._images + images, self._wait_s + wait_s

    def skip(self, seconds: float) -> None:
        """Leave so many seconds, which have just passed, out of the interval."""
        if self._since is not None:
            self._since += seconds

    def read(self) -> dict[str, float | None]:
        """Means since the last reading; call it when the device has done its steps.

        own_s  seconds of a step that this rank spends alone, on data and in the forward pass
        """
        now = time.perf_counter()
        assert self._since is not None  # a step has been counted
        spent, steps, images, wait_s = now - self._since, self._steps, self._images, self._wait_s
        forward_s = self._forward_s + sum(began.elapsed_time(ended) for began, ended in self._forwards) / 1000
        self._since, self._forwards = now, []
        self._steps, self._images, self._wait_s, self._forward_s = 0, 0, 0.0, 0.0
        if steps == 0:
            return {"images_per_s": None, "wait_share": 0.0, "step_s": None, "own_s": 0.0}
        return {
            "images_per_s": images / spent,
            "wait_share": min(1.0, wait_s / spent),
            "step_s": spent / steps,
            "own_s": (wait_s + forward_s) / steps,
        }


@final
class Journal:
    """Sums on the device what steps report, and reads the sums every `log_steps`; the main rank writes.

    journal = Journal(folder, length, world, log_steps=50)
    journal.record(step, loss, parts, norm, lr=lr, images=256, wait_s=0.0)     # after each step
    journal.evaluation(step, "val", {"top1": 0.9})

    A row is {step, epoch, lr, loss, gradient_norm, parts, pseudo, timing}: means over the steps since the row before,
    and over ranks. `replaced` counts images that stood in for others that cannot be decoded, where there were any. All
    but `timing` is a function of the recipe and its seed: a resumed run writes the rows of an uninterrupted one, bit
    for bit, on as many ranks. Evaluations are rows {step, epoch, evaluation, values}, with recall, the share of right
    answers of each class (null: it has no image), where the classes differ (models.evaluate.validator).
    """

    def __init__(
        self,
        folder: Path,
        length: RunLength,
        world: World,
        *,
        log_steps: int,
        pseudo_labels: PseudoLabelCounts | None = None,
        collapse: CollapseWatch | None = None,
        resumed: int = 0,
    ) -> None:
        """Continue after step `resumed`: rows of later steps, which will run again, are removed from the file."""
        self.folder, self.length, self.world, self.log_steps = folder, length, world, log_steps
        self.pseudo_labels, self.collapse = pseudo_labels, collapse
        self.timer, self.stragglers = StepTimer(world.device), Stragglers(world.nodes)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._pseudo_stats: list[PseudoLabelStats] = []
        self._began = time.perf_counter()
        self._board: Any = None  # a SummaryWriter, on the main rank where TensorBoard is installed
        self._elapsed_before = 0.0
        if world.main:
            kept = _truncate(folder, resumed)
            self._elapsed_before = max((row["timing"]["elapsed_s"] for row in kept if "timing" in row), default=0.0)
            self._evaluated = {(row["step"], row["evaluation"]) for row in kept if "evaluation" in row}
            self._board = _board(folder, resumed)

    def record(
        self,
        step: int,
        loss: Tensor,
        parts: dict[str, Tensor],
        norm: Tensor,
        *,
        lr: float,
        images: int,
        wait_s: float,
        replaced: int = 0,
        pseudo_stats: Sequence[PseudoLabelStats] = (),
    ) -> bool:
        """Add the update after which `step` updates are done; -> whether a row was due, for which the device was
        waited for.

        loss, parts, norm  f32 []  of this rank's share of the step, on the device
        images             of the step, over all ranks
        wait_s             seconds that this rank waited for the loader
        replaced           images of this rank that were replaced (pipeline.sampling.replacement)
        pseudo_stats       of this rank's micro-batches, on the device
        """
        values = {"loss": loss, "gradient_norm": norm, "replaced": torch.full_like(loss, replaced)}
        for name, value in {**values, **{f"parts/{n}": v for n, v in parts.items()}}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().double()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._pseudo_stats += pseudo_stats
        self.timer.step(images, wait_s)
        due = step % self.log_steps == 0 or step in self.length.ends
        if due:
            row, step_s = self._interval(step, lr)
            if self.world.main:
                self._publish(row, step_s)
        return due

    def evaluation(
        self, step: int, name: str, values: dict[str, float], recalls: dict[str, list[float | None]] | None = None
    ) -> None:
        """Write and print an evaluation; one that the file has for this step already is skipped. `recalls` is written
        alone."""
        if not self.world.main or (step, name) in self._evaluated:
            return
        self._evaluated.add((step, name))
        row = {"step": step, "epoch": self.length.epoch(step), "evaluation": name, "values": values}
        self._write(row | (recalls or {}))
        for key, value in values.items() if self._board is not None else ():
            self._board.add_scalar(f"{name}/{key}", value, step)
        text = "  ".join(f"{key} {measured(key, value)}" for key, value in values.items())
        print(f"{self._of_all(step)}  {name}: {text}", flush=True)
        if self.collapse is not None and name == "val":
            self._warn(self.collapse.after_evaluation(values))

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """Leave the time inside out of images_per_s: for evaluations and saves."""
        began = time.perf_counter()
        yield
        self.timer.skip(time.perf_counter() - began)

    def state_dict(self) -> dict:
        """The sums of the interval so far, of every rank, for the checkpoint. A collective call."""
        names = list(self._sums)
        sums = torch.stack(list(self._sums.values())).cpu() if names else torch.zeros(0, dtype=torch.float64)
        ranks = [torch.empty_like(sums) for _ in range(self.world.size)]
        if self.world.size > 1:
            dist.all_gather(ranks, sums, group=self.world.control)
        else:
            ranks = [sums]
        self._count_pseudo_labels()
        counts = [self._counts[n] for n in names]
        pseudo = None if self.pseudo_labels is None else self.pseudo_labels.state_dict()
        return {"names": names, "counts": counts, "sums": torch.stack(ranks), "pseudo_labels": pseudo}

    def load_state_dict(self, state: dict) -> None:
        """Continue the interval of a checkpoint; if the number of ranks has changed the main rank takes the total."""
        ranks, size = state["sums"], self.world.size
        if len(ranks) == size:
            mine = ranks[self.world.rank]
        else:
            mine = ranks.sum(0) * (size / len(ranks) if self.world.main else 0.0)
        self._sums = dict(zip(state["names"], mine.to(self.world.device), strict=True))
        self._counts = dict(zip(state["names"], state["counts"], strict=True))
        if self.pseudo_labels is not None and state["pseudo_labels"] is not None:
            self.pseudo_labels.load_state_dict(state["pseudo_labels"])
            if self.collapse is not None:
                self.collapse.begin(self.pseudo_labels)

    def close(self) -> None:
        """Flush and close TensorBoard's events."""
        if self._board is not None:
            self._board.close()

    def _interval(self, step: int, lr: float) -> tuple[dict, float | None]:
        """The row of the steps since the row before, over all ranks, and the seconds of a step; begins a new interval.

        Waits for the device. A collective call.
        """
        names = list(self._sums)
        means = torch.stack([self._sums[name] / self._counts[name] for name in names]).cpu()
        timing, size = self.timer.read(), self.world.size
        own_s = torch.zeros(size, dtype=torch.float64)
        alone_s = timing.pop("own_s")
        assert alone_s is not None
        own_s[self.world.rank] = alone_s * size
        wait = torch.tensor([timing.pop("wait_share")], dtype=torch.float64)
        numbers = (sum_over_ranks(torch.cat([means, wait, own_s]), self.world) / size).tolist()
        of, wait_share, own_s = dict(zip(names, numbers, strict=False)), numbers[len(names)], numbers[-size:]
        replaced = round(of.pop("replaced") * self._counts["replaced"] * size)
        self._sums, self._counts = {}, {}
        step_s = timing.pop("step_s")
        timing |= self.stragglers.timing(own_s, timing["images_per_s"]) if size > 1 else {}
        elapsed_s = self._elapsed_before + time.perf_counter() - self._began

        row: dict[str, Any] = {"step": step, "epoch": self.length.epoch(step), "lr": lr}
        row |= {"loss": of.pop("loss"), "gradient_norm": of.pop("gradient_norm")}
        row |= {"parts": {name.removeprefix("parts/"): value for name, value in of.items()}}
        if self.pseudo_labels is not None:
            self._count_pseudo_labels()
            row |= {"pseudo": shares} if (shares := self.pseudo_labels.interval()) else {}
        row |= {"replaced": replaced} if replaced else {}
        row["timing"] = {**timing, "wait_share": wait_share, "elapsed_s": elapsed_s, **_memory(self.world.device)}
        return row, step_s

    def _count_pseudo_labels(self) -> None:
        if self.pseudo_labels is not None:
            self.pseudo_labels.count(self._pseudo_stats, self.world)
        self._pseudo_stats = []

    def _publish(self, row: dict, step_s: float | None) -> None:
        """Write a row to the file and to TensorBoard, and print it."""
        self._write(row)
        self._add_scalars(row)
        left_s = (self.length.total_steps - row["step"]) * step_s if step_s else None
        print(progress_line(self._of_all(row["step"]), row, left_s), flush=True)
        if self.world.size > 1 and (slow := self.stragglers.warning(row["timing"], step_s)):
            print(slow, flush=True)
        if self.collapse is not None and self.pseudo_labels is not None:
            self._warn(self.collapse.after_row(row["step"], self.pseudo_labels))

    def _warn(self, line: str | None) -> None:
        if line is not None:
            print(line, flush=True)

    def _write(self, row: dict) -> None:
        with open(self.folder / metrics.FILE, "a") as file:
            file.write(json.dumps(_finite(row)) + "\n")

    def _add_scalars(self, row: dict) -> None:
        for key, value in row.items():
            for name, number in value.items() if isinstance(value, dict) else [(None, value)]:
                if key != "step" and number is not None and self._board is not None:
                    self._board.add_scalar(f"{key}/{name}" if name else key, number, row["step"])

    def _of_all(self, step: int) -> str:
        total = str(self.length.total_steps)
        return f"{step:>{len(total)}}/{total}"


def _truncate(folder: Path, step: int) -> list[dict]:
    kept = [row for row in metrics.read(folder) if row["step"] <= step]
    write_whole(folder / metrics.FILE, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


def _board(folder: Path, resumed: int):
    """A SummaryWriter, or None, and a line that says so, where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        print(f"no events for TensorBoard are written: {error.name} is not installed; {metrics.FILE} has all of them")
        return None
    return SummaryWriter(folder / BOARD, purge_step=resumed + 1)


def _memory(device: torch.device) -> dict[str, float]:
    """The most memory of tensors, and of all that torch's allocator holds for them, so far, in GB; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return {"memory_gb": allocated / 1e9, "reserved_gb": reserved / 1e9}


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(held) for key, held in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no NaN
