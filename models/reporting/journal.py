"""What a run tells while it trains: metrics.jsonl, TensorBoard events and a line on the terminal every log_steps."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor

from models.distributed.process_group import World, sum_over_ranks
from models.optim.schedule import RunLength
from models.records import metrics
from models.reporting.progress import Clock, Stragglers, line
from models.reporting.pseudo_label_stats import Tally
from pipeline.store.atomic_write import write_whole
from pipeline.text import measured

BOARD = "events"
"""Folder of TensorBoard's event files, in the run folder."""


@final
class Journal:
    """Sums what steps report on the device and reads it every `log_steps`; only the main rank writes.

    A row is {step, epoch, lr, loss, gradient_norm, parts, pseudo, timing}: means over the steps since the row before,
    and over ranks. Where images stood in for others that do not decode, `replaced` counts them. Everything but `timing`
    is a function of the recipe and its seed: a resumed run writes the rows of an uninterrupted one, bit for bit (on as
    many ranks). Evaluations are rows {step, epoch, evaluation, values}.
    """

    def __init__(
        self,
        folder: Path,
        length: RunLength,
        world: World,
        *,
        log_steps: int,
        tally: Tally | None = None,
        resumed: int = 0,
    ) -> None:
        """Carry on after step `resumed`: rows of later steps, which will be run again, are dropped."""
        self.folder, self.length, self.world, self.log_steps, self.tally = folder, length, world, log_steps, tally
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.began = time.perf_counter()
        self.clock, self.stragglers = Clock(world.device), Stragglers(world.nodes)
        self.board, self.elapsed_before = None, 0.0
        if world.main:
            kept = _truncate(folder, resumed)
            self.elapsed_before = max((row["timing"]["elapsed_s"] for row in kept if "timing" in row), default=0.0)
            self.evaluated = {(row["step"], row["evaluation"]) for row in kept if "evaluation" in row}
            self.board = _board(folder, resumed)

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
    ) -> bool:
        """Note the update that made it `step` updates; True if a row was due: then the device was waited for.

        loss, parts, norm  f32 []  of this rank's share of the step, on the device
        images             of the step, over all ranks
        wait_s             for the loader, on this rank
        replaced           images of this rank that do not decode and were replaced (pipeline.backends.replacement)
        """
        noted = {"loss": loss, "gradient_norm": norm, "replaced": torch.full_like(loss, replaced)}
        for name, value in {**noted, **{f"parts/{n}": v for n, v in parts.items()}}.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()
            self.counts[name] = self.counts.get(name, 0) + 1
        self.clock.step(images, wait_s)
        due = step % self.log_steps == 0 or step == self.length.total_steps
        if due:
            row, step_s = self._interval(step, lr)
            if self.world.main:
                self._tell(row, step_s)
        return due

    def evaluation(self, step: int, name: str, values: dict[str, float]) -> None:
        """Note an evaluation; one that is already there for this step is not written twice."""
        if not self.world.main or (step, name) in self.evaluated:
            return
        self.evaluated.add((step, name))
        self._write({"step": step, "epoch": self.length.epoch(step), "evaluation": name, "values": values})
        for key, value in values.items():
            self.board.add_scalar(f"{name}/{key}", value, step)
        said = "  ".join(f"{key} {measured(key, value)}" for key, value in values.items())
        print(f"{self._place(step)}  {name}: {said}", flush=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of images_per_s what happens inside: evaluations and saves."""
        began = time.perf_counter()
        yield
        self.clock.skip(time.perf_counter() - began)

    def state_dict(self) -> dict:
        """The interval so far, of every rank, for the checkpoint; collective."""
        names = list(self.sums)
        sums = torch.stack(list(self.sums.values())).cpu() if names else torch.zeros(0, dtype=torch.float64)
        ranks = [torch.empty_like(sums) for _ in range(self.world.size)]
        if self.world.size > 1:
            dist.all_gather(ranks, sums, group=self.world.control)
        else:
            ranks = [sums]
        if self.tally is not None:
            self.tally.settle(self.world)
        tally = None if self.tally is None else self.tally.state_dict()
        return {"names": names, "counts": [self.counts[n] for n in names], "sums": torch.stack(ranks), "tally": tally}

    def load_state_dict(self, state: dict) -> None:
        """Go on with the interval of a checkpoint; on another number of ranks its total goes to the main one."""
        ranks, size = state["sums"], self.world.size
        if len(ranks) == size:
            mine = ranks[self.world.rank]
        else:
            mine = ranks.sum(0) * (size / len(ranks) if self.world.main else 0.0)
        self.sums = dict(zip(state["names"], mine.to(self.world.device), strict=True))
        self.counts = dict(zip(state["names"], state["counts"], strict=True))
        if self.tally is not None and state["tally"] is not None:
            self.tally.load_state_dict(state["tally"])

    def close(self) -> None:
        """Write out the events."""
        if self.board is not None:
            self.board.close()

    def _interval(self, step: int, lr: float) -> tuple[dict, float | None]:
        """The row of the steps since the row before, over all ranks, and seconds of a step; the next interval begins.

        Waits for the device. A collective call.
        """
        names = list(self.sums)
        means = torch.stack([self.sums[name] / self.counts[name] for name in names]).cpu()
        timing, size = self.clock.read(), self.world.size
        own_s = torch.zeros(size, dtype=torch.float64)
        own_s[self.world.rank] = timing.pop("own_s") * size
        wait = torch.tensor([timing.pop("wait_share")], dtype=torch.float64)
        numbers = (sum_over_ranks(torch.cat([means, wait, own_s]), self.world) / size).tolist()
        of, wait_share, own_s = dict(zip(names, numbers, strict=False)), numbers[len(names)], numbers[-size:]
        replaced = round(of.pop("replaced") * self.counts["replaced"] * size)
        self.sums, self.counts = {}, {}
        step_s = timing.pop("step_s")
        timing |= self.stragglers.timing(own_s, timing["images_per_s"]) if size > 1 else {}
        elapsed_s = self.elapsed_before + time.perf_counter() - self.began

        row = {"step": step, "epoch": self.length.epoch(step), "lr": lr}
        row |= {"loss": of.pop("loss"), "gradient_norm": of.pop("gradient_norm")}
        row |= {"parts": {name.removeprefix("parts/"): value for name, value in of.items()}}
        if self.tally is not None:
            self.tally.settle(self.world)
            row |= {"pseudo": shares} if (shares := self.tally.interval()) else {}
        row |= {"replaced": replaced} if replaced else {}
        row["timing"] = {**timing, "wait_share": wait_share, "elapsed_s": elapsed_s, **_memory(self.world.device)}
        return row, step_s

    def _tell(self, row: dict, step_s: float | None) -> None:
        """A row into the file and the events, and as a line on the terminal."""
        self._write(row)
        self._to_board(row)
        left_s = (self.length.total_steps - row["step"]) * step_s if step_s else None
        print(line(self._place(row["step"]), row, left_s), flush=True)
        if self.world.size > 1 and (slow := self.stragglers.line(row["timing"], step_s)):
            print(slow, flush=True)

    def _write(self, row: dict) -> None:
        with open(self.folder / metrics.FILE, "a") as file:
            file.write(json.dumps(_finite(row)) + "\n")

    def _to_board(self, row: dict) -> None:
        for key, value in row.items():
            for name, number in value.items() if isinstance(value, dict) else [(None, value)]:
                if key != "step" and number is not None:
                    self.board.add_scalar(f"{key}/{name}" if name else key, number, row["step"])

    def _place(self, step: int) -> str:
        total = str(self.length.total_steps)
        return f"{step:>{len(total)}}/{total}"


def _truncate(folder: Path, step: int) -> list[dict]:
    kept = [row for row in metrics.read(folder) if row["step"] <= step]
    write_whole(folder / metrics.FILE, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


def _board(folder: Path, resumed: int):
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder / BOARD, purge_step=resumed + 1)


def _memory(device: torch.device) -> dict[str, float]:
    return {"memory_gb": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {}


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(held) for key, held in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no NaN
