"""Select what `auto` means for `data.backend` and `data.views_on` on this machine, and give the reason.

The rule, in this order: memory, if the decoded set fits `memory_mb`. ffcv, if the file holds pixels, which need no
decoder; there dali is refused. ffcv without a GPU, or with CPU views: DALI's CPU decoder is the same library with more
around it. ffcv, if DALI is not installed. The back-end that a resumed run was on. ffcv, if it decodes
ENOUGH_IMAGES_PER_S with the threads that it has. Otherwise the faster of the two, measured on the first images of the
file; DALI must be faster by a tenth, as it takes the GPU's time.

    choose(data, beton, device).describe(before=None)     # "back-end ffcv: DALI is not installed"
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal

import torch

from pipeline.backends.decode_rate import dali_rate, ffcv_rate
from pipeline.concurrency.cores import decode_threads
from pipeline.errors import InputError
from pipeline.spec import Data
from pipeline.store.beton import Beton
from pipeline.store.file_format import Store

ENOUGH_IMAGES_PER_S = 5000
"""Decoded images a second that are assumed to suffice for any step: ViT-S Semi-MAE takes 4,600 on an H100 if it reaches
a quarter of its peak (pipeline.bench.verdict); larger models take fewer."""
WINS_BY = 1.1

BackendName = Literal["ffcv", "dali", "memory"]


@dataclass(frozen=True)
class Choice:
    """A back-end and the reason for it, in words."""

    backend: BackendName
    why: str

    def describe(self, before: BackendName | None) -> str:
        """Put the choice in a line, and add the back-end that a resumed run was on `before`, if it was another."""
        changed = f"; until now the run was on {before}" if before not in (None, self.backend) else ""
        return f"back-end {self.backend}: {self.why}{changed}"


def streamed(data: Data) -> Data:
    """Return the data with a back-end that streams: keeping every image's pixels, or measuring, pays where images are
    read many times, not once."""
    return replace(data, backend="dali" if data.backend == "dali" else "ffcv")


def views_on(data: Data, device: torch.device) -> Literal["cpu", "device"]:
    """Say where a recipe's views are made; auto is the GPU where there is one."""
    return data.views_on if data.views_on != "auto" else "cpu" if device.type == "cpu" else "device"


def choose(data: Data, beton: Beton, device: torch.device, before: BackendName | None = None) -> Choice:
    """Choose the back-end of a run that was on `before` when it was last started; takes seconds where it has to
    measure. Raises InputError where `data.backend dali` is to read a store of pixels.

    All ranks should call it at the same time, as they then share the cores as in training. Their answers may differ;
    the caller decides which counts.
    """
    if data.backend == "dali" and beton.store != "jpeg":
        raise InputError(f"data.backend dali decodes JPEG, {beton.path} holds {beton.store}; set data.backend ffcv")
    if data.backend != "auto":
        return Choice(data.backend, "as data.backend says")
    count = decode_threads(data.threads)
    return rule(
        memory=(decoded_mb(beton), data.memory_mb),
        on_gpu=device.type == "cuda" and views_on(data, device) == "device",
        dali_there=dali_there(),
        before=before,
        ffcv=lambda: ffcv_rate(beton, device, count),
        dali=lambda: dali_rate(beton, data.size, device, count, data.hw_decoder_load),
        stored=beton.store,
    )


def rule(
    memory: tuple[float, float],
    on_gpu: bool,
    dali_there: bool,
    before: BackendName | None,
    ffcv: Callable[[], float],
    dali: Callable[[], float],
    stored: Store = "jpeg",
) -> Choice:
    """Apply the rule of this module.

    memory      MB of the decoded set, and MB that may be kept
    on_gpu      whether a GPU makes the views
    before      the back-end of a resumed run
    ffcv, dali  measure images/s; called where the rule depends on it; dali may raise InputError
    stored      what the file holds
    """
    mb, most_mb = memory
    if mb <= most_mb:
        return Choice("memory", f"the decoded images, {mb:,.0f} MB, fit data.memory_mb {most_mb:,.0f}")
    if stored != "jpeg":
        return Choice("ffcv", f"the images are stored as {stored}, which needs no decoder")
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
    """Compute the size of all images as pixels, in MB."""
    return 3 * beton.pixels / 1e6


def dali_there() -> bool:
    """Say whether DALI and the back-end that uses it are installed, without importing either."""
    names = ("nvidia", "nvidia.dali", "pipeline.backends.dali")
    return all(find_spec(name) is not None for name in names)
