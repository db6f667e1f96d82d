"""Make every view by numba kernels on the pool's threads, where the images are decoded."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pipeline.backends import kernels
from pipeline.concurrency.pool import Pool
from pipeline.views.plan import ViewParams


def start_views(
    pool: Pool, source: kernels.Source, params: ViewParams, size: tuple[int, int], device: torch.device
) -> Callable[[], tuple[list[Tensor], np.ndarray]]:
    """Begin the V views of N images; the result waits: V of u8 [N, 3, H, W] on the device, error codes i32 [N]."""
    views, n = params.flips.shape
    out = torch.empty(views, n, *size, 3, dtype=torch.uint8, pin_memory=device.type == "cuda")
    pixels, errors = out.numpy(), np.zeros(n, np.int32)
    wait = pool.start(lambda first, last, own: kernels.make_views(first, last, source, params, pixels, errors, own), n)

    def finish() -> tuple[list[Tensor], np.ndarray]:
        wait()
        return [view.permute(0, 3, 1, 2) for view in out.to(device, non_blocking=True)], errors

    return finish
