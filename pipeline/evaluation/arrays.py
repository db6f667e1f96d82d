"""Images that lie decoded in an array, shown as images are evaluated."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline import rng
from pipeline.backends import kernels, libffcv
from pipeline.backends.cpu_views import start_views
from pipeline.concurrency.pool import Pool
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Data
from pipeline.store.image_size import checked_size
from pipeline.views.plan import ViewSpec, draw


def sweep_pixels(pixels: np.ndarray, data: Data, device: torch.device, batch: int) -> Iterator[Tensor]:
    """Every image of u8 [N, H, W, 3] once, in order, through the evaluation view of `data`: u8 [n, 3, S, S] for n up to
    `batch`. The array may be a map of a file. While a batch is used the next one is made."""
    libffcv.load()
    pool = Pool(data.threads, lambda: kernels.scratch(1, data.size))
    begun: list[Callable[[], tuple[list[Tensor], np.ndarray]]] = []
    try:
        for first in range(0, len(pixels), batch):
            begun.append(_start(np.ascontiguousarray(pixels[first : first + batch]), data, pool, device))
            if len(begun) > 1:
                yield begun.pop(0)()[0][0]
        for last in begun:
            yield last()[0][0]
    finally:
        pool.close()


def _start(
    part: np.ndarray, data: Data, pool: Pool, device: torch.device
) -> Callable[[], tuple[list[Tensor], np.ndarray]]:
    n, height, width, _ = part.shape
    checked_size(width, height)
    heights, widths, nothing = np.full(n, height, np.int64), np.full(n, width, np.int64), np.zeros(n, np.int64)
    places = 3 * height * width * np.arange(n, dtype=np.int64)
    plan = draw(
        ViewSpec({"images": (data.evaluate, rng.WEAK)}, data.size), SampleIds(nothing, nothing), heights, widths, 0
    )
    source = kernels.Source(part.ctypes.data, places, nothing, heights, widths, True)
    wait = start_views(pool, source, plan.params, data.size, device)

    def finish(_keep: np.ndarray = part) -> tuple[list[Tensor], np.ndarray]:  # threads hold its address only
        return wait()

    return finish
