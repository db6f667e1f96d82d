"""Go once through images that lie decoded in an array, in the evaluation view.

for images in sweep_pixels(np.load("images.npy", mmap_mode="r"), data, device, batch=256): ...
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.backends import kernels, libffcv
from pipeline.backends.cpu_views import start_views
from pipeline.concurrency.ahead import ahead
from pipeline.concurrency.pool import Pool
from pipeline.spec import Data
from pipeline.store.image_size import checked_size
from pipeline.views.plan import evaluation_plan


def sweep_pixels(pixels: np.ndarray, data: Data, device: torch.device, batch: int) -> Iterator[Tensor]:
    """Yield every image of u8 [N, H, W, 3] once, in order, in the evaluation view of `data`: u8 [n, 3, h, w] for n up
    to `batch`. The array may be a map of a file. While a batch is used the next one is made."""
    libffcv.load()
    pool = Pool(data.threads, lambda: kernels.scratch(1, data.size))
    parts = (np.ascontiguousarray(pixels[first : first + batch]) for first in range(0, len(pixels), batch))
    try:
        for finish in ahead(_start(part, data, pool, device) for part in parts):
            yield finish()
    finally:
        pool.close()


def _start(part: np.ndarray, data: Data, pool: Pool, device: torch.device) -> Callable[[], Tensor]:
    n, height, width, _ = part.shape
    checked_size(width, height)
    heights, widths, zeros = np.full(n, height, np.int64), np.full(n, width, np.int64), np.zeros(n, np.int64)
    places = 3 * height * width * np.arange(n, dtype=np.int64)
    plan = evaluation_plan(data, zeros, heights, widths)
    source = kernels.Source(part.ctypes.data, places, zeros, heights, widths, kernels.RAW)
    wait = start_views(pool, source, plan.params, plan.size, device)

    def finish(_keep: np.ndarray = part) -> Tensor:  # the threads hold the address of its memory, and nothing else
        return wait()[0][0]

    return finish
