"""Time steps that take turns: by CUDA events on a GPU, by the wall clock and the CPU time of this process elsewhere.

times = interleaved({"a": step_a, "b": step_b}, rounds=5, repeat=1, device=torch.device("cpu"))
faster = times_faster(work_s(times["a"]), work_s(times["b"]))
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import timm
import torch

from pipeline.errors import InputError

StepFunction = Callable[[], object]


class StepTime(NamedTuple):
    """Seconds of one step.

    wall_s  on the wall clock
    work_s  CPU seconds of this process, which other programs hardly change; on CUDA both are the device's seconds
    """

    wall_s: float
    work_s: float


def interleaved(
    steps: dict[str, StepFunction], rounds: int, repeat: int, device: torch.device
) -> dict[str, list[StepTime]]:
    """Run every step in each of `rounds` rounds, `repeat` times in a row, and return the times of each round.

    One more round before them is not counted: it allocates, chooses kernels and compiles.
    """
    found: dict[str, list[StepTime]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            taken = timed(step, repeat, device)
            if number:
                found[name].append(taken)
    return found


def timed(step: StepFunction, repeat: int, device: torch.device) -> StepTime:
    """Return the mean time of `repeat` steps in a row, which the host may queue ahead of a GPU as in training."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeat):
            step()
        end.record()
        end.synchronize()
        seconds = start.elapsed_time(end) / 1000 / repeat
        return StepTime(seconds, seconds)
    wall, work = time.perf_counter(), time.process_time()
    for _ in range(repeat):
        step()
    return StepTime((time.perf_counter() - wall) / repeat, max(time.process_time() - work, 1e-9) / repeat)


def work_s(times: Sequence[StepTime]) -> list[float]:
    """Return the seconds of work of each round."""
    return [each.work_s for each in times]


def spread(seconds: Sequence[float]) -> float:
    """Return (largest - smallest) / median."""
    return (max(seconds) - min(seconds)) / statistics.median(seconds)


def times_faster(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Return how many times the first are faster than the others: the median over rounds of others / seconds."""
    return statistics.median(other / own for other, own in zip(others, seconds, strict=True))


def check_device(name: str) -> None:
    """Raise InputError for a CUDA device where there is none."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device was found; use --device cpu")


def machine(device: str) -> dict[str, str]:
    """Describe what times hold for: the device and its threads, versions of torch and timm, and the clock."""
    cuda = device.startswith("cuda")
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} thread(s)"
    return {"device": name, "torch": torch.__version__, "timm": timm.__version__,
            "clock": "CUDA events" if cuda else "process time"}  # fmt: skip
