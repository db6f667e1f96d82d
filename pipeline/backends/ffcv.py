"""Back-end of FFCV's decoder under our own threads, with CPU views or GPU views; it reads the stores of pixels, too."""

from typing import final

import torch
from torch import Tensor

from pipeline.backends import cpu_views, kernels, libffcv, staged_decode
from pipeline.backends.backend import Backend, PendingViews, check_decoded, sample_source
from pipeline.backends.staging_buffers import staging_buffers_for
from pipeline.concurrency.pool import Pool
from pipeline.spec import Size
from pipeline.store.beton import Beton
from pipeline.views.plan import Plan


@final
class FFCV(Backend):
    """Streams images from a .beton.

    size      of the largest view that a plan will ask for
    views_on  "cpu": numba kernels make the views right behind the decoder. "device": the CPU decodes into packed
              pinned buffers, they cross to the device as they are, and every view is made there. Stored pixels and
              planes are copied into the buffers instead.
    """

    def __init__(self, beton: Beton, size: Size, device: torch.device, views_on: str, threads: int | None = None):
        libffcv.load()
        self._beton, self._device, self._on_cpu = beton, device, views_on == "cpu"
        self.heights, self.widths = beton.heights, beton.widths
        largest = beton.largest
        self._pool = Pool(threads, lambda: kernels.scratch(largest if self._on_cpu else 1, size))
        self._buffers = staging_buffers_for(largest, threads, device)

    def start(self, plan: Plan) -> PendingViews:
        source = sample_source(self._beton, plan.ids)
        if self._on_cpu:
            wait = cpu_views.start_views(self._pool, source, plan.params, plan.size, self._device)
        else:
            wait = staged_decode.start_views(self._pool, self._buffers, source, plan.params, plan.size, self._device)

        def finish() -> list[Tensor]:
            views, errors = wait()
            check_decoded(self._beton, plan.ids, errors)
            return views

        return finish

    def close(self) -> None:
        self._pool.close()
