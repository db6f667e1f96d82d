"""What the autos of `data.backend` and `data.views_on` mean on this machine, and why.

The rule, in this order: memory, if the decoded set fits `memory_mb`. Without a GPU, or with the views made on the CPU,
ffcv: DALI's CPU decoder is the same library with more around it. What the run was on before, if it was. ffcv, if DALI
is not installed, or if ffcv decodes ENOUGH_IMAGES_PER_S with the threads that it has. Otherwise the faster of the two,
measured on the first images of the file; DALI must win by a tenth, as it takes the GPU's time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal

import torch

from pipeline.backends.decode_rate import dali_rate, ffcv_rate
from pipeline.concurrency.pool import cores
from pipeline.errors import InputError
from pipeline.spec import Data
from pipeline.store.beton import Beton

ENOUGH_IMAGES_PER_S = 5000
"""Decoded images a second that no step is reckoned to outrun: ViT-S Semi-MAE takes 4,600 on an H100 if it reaches a
quarter of its peak (pipeline.bench.verdict); larger models take fewer."""
WINS_BY = 1.1

Backend = Literal["ffcv", "dali", "memory"]


@dataclass(frozen=True)
class Choice:
    """A back-end and the reason in words."""

    backend: Backend
    why: str

    def said(self, before: Backend | None) -> str:
        """The choice in a line, and what a run that carries on was on before, if that was another."""
        changed = f"; until now the run was on {before}" if before not in (None, self.backend) else ""
        return f"back-end {self.backend}: {self.why}{changed}"


def streamed(data: Data) -> Data:
    """The same data, read anew by whoever opens it: to keep every image's pixels, or to measure, pays for many looks at
    them, not for one."""
    return replace(data, backend="dali" if data.backend == "dali" else "ffcv")


def views_on(data: Data, device: torch.device) -> Literal["cpu", "device"]:
    """Where a recipe wants its views made; auto is the GPU where there is one."""
    return data.views_on if data.views_on != "auto" else "cpu" if device.type == "cpu" else "device"


def choose(data: Data, beton: Beton, device: torch.device, before: Backend | None = None) -> Choice:
    """The back-end of a run that was on `before` when it was last started; takes seconds where it has to measure.

    Every rank may call it at the same time, and should: then they share the cores as in training. Whose answer counts
    is the caller's affair.
    """
    if data.backend != "auto":
        return Choice(data.backend, "as data.backend says")
    count = data.threads or cores()
    return rule(
        memory=(decoded_mb(beton), data.memory_mb),
        on_gpu=device.type == "cuda" and views_on(data, device) == "device",
        dali_there=dali_there(),
        before=before,
        ffcv=lambda: ffcv_rate(beton, device, count),
        dali=lambda: dali_rate(beton, data.size, device, count),
    )


def rule(
    memory: tuple[float, float],
    on_gpu: bool,
    dali_there: bool,
    before: Backend | None,
    ffcv: Callable[[], float],
    dali: Callable[[], float],
) -> Choice:
    """The rule itself.

    memory      MB of the decoded set, and that may be kept
    on_gpu      whether the GPU makes the views
    ffcv, dali  measure images/s, called only where the rule depends on it; dali may raise InputError
    """
    mb, most_mb = memory
    if mb <= most_mb:
        return Choice("memory", f"the decoded images, {mb:,.0f} MB, fit data.memory_mb {most_mb:,.0f}")
    if not on_gpu:
        return Choice("ffcv", "the views are made on the CPU, where DALI would only add to the same decoder")
    if not dali_there:
        return Choice("ffcv", "DALI is not installed")
    if before in ("ffcv", "dali"):
        return Choice(before, "what this run was begun on")
    by_ffcv = ffcv()
    if by_ffcv >= ENOUGH_IMAGES_PER_S:
        return Choice("ffcv", f"it decodes {by_ffcv:,.0f} images/s here, a step takes {ENOUGH_IMAGES_PER_S:,} at most")
    try:
        by_dali = dali()
    except InputError as error:
        return Choice("ffcv", f"it decodes {by_ffcv:,.0f} images/s here, and {error}")
    figures = f"DALI decodes {by_dali:,.0f} images/s here, ffcv {by_ffcv:,.0f}"
    return Choice("dali" if by_dali > WINS_BY * by_ffcv else "ffcv", figures)


def decoded_mb(beton: Beton) -> float:
    """Size of all images as pixels."""
    return 3 * beton.pixels / 1e6


def dali_there() -> bool:
    """Whether DALI is installed, and our back-end for it is there; neither is imported."""
    names = ("nvidia", "nvidia.dali", "pipeline.backends.dali")
    return all(find_spec(name) is not None for name in names)
