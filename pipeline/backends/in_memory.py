"""Back-end that decodes a small set once and keeps it: in main memory for CPU views, on the device for GPU views."""

from typing import final

import numpy as np
import torch

from pipeline.backends import kernels, libffcv
from pipeline.backends.backend import Backend, PendingViews, check_decoded, sample_source
from pipeline.backends.cpu_views import start_views
from pipeline.concurrency.pool import Pool
from pipeline.executors.gpu_views import Packed, make_views
from pipeline.spec import Size
from pipeline.store.beton import Beton
from pipeline.views.plan import Plan


@final
class InMemoryBackend(Backend):
    """Holds every image of a .beton as pixels and makes the views of FFCV, of up to `size`, without decoding again."""

    def __init__(self, beton: Beton, size: Size, device: torch.device, views_on: str, threads: int | None = None):
        libffcv.load()
        self._beton, self._device, self._on_cpu = beton, device, views_on == "cpu"
        self.heights, self.widths = beton.heights, beton.widths
        self._pool = Pool(threads, lambda: kernels.scratch(1, size))
        ends = np.cumsum(self.heights[:] * self.widths[:])
        self._places = np.concatenate([[0], ends[:-1]])
        pixels, self._errors = _decode_all(beton, self._pool, self._places, int(ends[-1]))
        if self._on_cpu:
            self._flat = pixels.reshape(-1)
        else:
            self._pixels = torch.from_numpy(pixels).to(device)  # the host keeps no copy

    def start(self, plan: Plan) -> PendingViews:
        ids, places = plan.ids, self._places[plan.ids]
        if self._errors[ids].any():
            return lambda: check_decoded(self._beton, ids, self._errors[ids]) or []  # it raises
        if not self._on_cpu:
            packed = Packed(self._pixels, places, self.widths[ids])
            return lambda: make_views(packed, plan.params, plan.size)
        unused = np.zeros(len(ids), np.int64)
        source = kernels.Source(
            self._flat.ctypes.data, 3 * places, unused, self.heights[ids], self.widths[ids], kernels.RAW
        )
        wait = start_views(self._pool, source, plan.params, plan.size, self._device)
        return lambda: wait()[0]

    def close(self) -> None:
        self._pool.close()


def _decode_all(beton: Beton, pool: Pool, places: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    decoded, errors = np.empty((pixels, 3), np.uint8), np.zeros(beton.n, np.int32)
    flat = decoded.reshape(-1)
    source = sample_source(beton, np.arange(beton.n))
    pool.start(lambda first, last, _: kernels.decode_packed(first, last, source, flat, places, errors), beton.n)()
    return decoded, errors
