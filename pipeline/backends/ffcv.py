"""FFCV's format and decoder under our own threads: views on the CPU (T0), or decode only and views on the GPU (T2)."""

from typing import final

import numpy as np
import torch
from torch import Tensor

from pipeline import kernels, libffcv
from pipeline.backends.base import Backend, Views, check_decoded, jpeg_source
from pipeline.beton import Beton
from pipeline.on_cpu import start_views
from pipeline.on_device import Packed, make_views
from pipeline.plan import Plan
from pipeline.pool import Pool


@final
class FFCV(Backend):
    """Streams JPEG from a .beton.

    size      side of the largest view that a plan will ask for
    views_on  "cpu": crops and colours in numba beside the decoder. "device": the CPU only decodes, into a packed
              pinned buffer; it crosses to the device as it is, and every view is cut there.
    """

    def __init__(self, beton: Beton, size: int, device: torch.device, views_on: str, threads: int | None = None):
        libffcv.load()
        self._beton, self._device, self._on_cpu = beton, device, views_on == "cpu"
        self.heights, self.widths = beton.heights, beton.widths
        largest = int((beton.heights * beton.widths).max()) if self._on_cpu else 1
        self._pool = Pool(threads, lambda: kernels.scratch(largest, size))

    def start(self, plan: Plan) -> Views:
        return self._views_on_cpu(plan) if self._on_cpu else self._views_on_device(plan)

    def close(self) -> None:
        self._pool.close()

    def _views_on_cpu(self, plan: Plan) -> Views:
        wait = start_views(self._pool, jpeg_source(self._beton, plan.ids), plan.stacked, plan.size, self._device)

        def finish() -> list[Tensor]:
            views, errors = wait()
            check_decoded(self._beton, plan.ids, errors)
            return views

        return finish

    def _views_on_device(self, plan: Plan) -> Views:
        source = jpeg_source(self._beton, plan.ids)
        ends = np.cumsum(source.heights * source.widths)
        places = np.concatenate([[0], ends[:-1]])
        # torch's pinned allocator hands a block out again only after the copy that read it: the ring of slots and
        # events that a loader needs, kept by the library
        pixels = torch.empty(int(ends[-1]), 3, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        flat, errors = pixels.numpy().reshape(-1), np.zeros(len(plan.ids), np.int32)
        wait = self._pool.start(
            lambda first, last, _: kernels.decode_packed(first, last, source, flat, places, errors), len(plan.ids)
        )

        def finish() -> list[Tensor]:
            wait()
            check_decoded(self._beton, plan.ids, errors)
            packed = Packed(pixels.to(self._device, non_blocking=True), places, source.widths)
            return make_views(packed, plan.stacked, plan.size)

        return finish
