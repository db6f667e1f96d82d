"""Back-end of NVIDIA DALI's decoder: nvJPEG on a GPU, else libjpeg-turbo on the CPU; our executors make the views."""

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import final

import numpy as np
import torch
from torch import Tensor

from pipeline.backends import kernels, libffcv
from pipeline.backends.backend import Backend, PendingViews
from pipeline.backends.cpu_views import start_views
from pipeline.backends.dali_decoder import Decoder
from pipeline.concurrency.cores import decode_threads
from pipeline.concurrency.pool import Pool
from pipeline.errors import InputError
from pipeline.executors.gpu_views import Packed, make_views
from pipeline.spec import HW_DECODER_LOAD, Size
from pipeline.store.beton import Beton
from pipeline.views.plan import Plan


@final
class Dali(Backend):
    """Streams JPEG from a .beton, whose memory map DALI reads in place.

    size             of the largest view that a plan will ask for
    views_on         "cpu": DALI decodes on the CPU, numba kernels make the views. "device": DALI decodes on the device,
                     on a GPU through nvJPEG, and the views are made there.
    hw_decoder_load  share of a batch that the GPU's own JPEG engine decodes (dali_pipe.Pipe)

    DALI decodes and does nothing else. Its own resize with a region of interest has another filter than the area filter
    of the other back-ends, and no reflected padding. So the decoded images go as one packed buffer, without a copy, to
    the executors that ffcv uses. Pixels differ from ffcv's by nothing on the CPU, and on a GPU by the rounding of the
    inverse transform.

    Decoders also differ in the damage that they find: where an image's header is whole and its data does not end
    early, DALI decodes wrong bits that libffcv reports.
    """

    def __init__(
        self,
        beton: Beton,
        size: Size,
        device: torch.device,
        views_on: str,
        threads: int | None = None,
        hw_decoder_load: float = HW_DECODER_LOAD,
    ):
        libffcv.load()
        self._device, self._on_cpu = device, views_on == "cpu"
        self.heights, self.widths = beton.heights, beton.widths
        on_gpu = device.type == "cuda" and not self._on_cpu
        self._pool = Pool(threads, lambda: kernels.scratch(1, size))
        try:
            gpu = device if on_gpu else None
            self._decoder = Decoder(beton, gpu, decode_threads(threads), self._pool, hw_decoder_load)
        except InputError:
            self._pool.close()
            raise
        self._end = weakref.finalize(self, self._decoder.close)
        self._reading: deque[tuple[torch.cuda.Event, Tensor]] = deque()
        self._lock = threading.Lock()

    def start(self, plan: Plan) -> PendingViews:
        decoded = self.decode(plan.ids)
        return lambda: self._make_views(decoded(), plan)

    def decode(self, ids: np.ndarray) -> Callable[[], Packed]:
        """Begin to decode images `ids` (i64 [N]) without making views; the result waits for them."""
        areas = self.heights[ids] * self.widths[ids]
        pixels, places = self._decoder.start(ids), np.cumsum(areas) - areas
        return lambda: Packed(pixels.result(), places, self.widths[ids])

    def close(self) -> None:
        self._end()
        self._pool.close()
        for read, _ in self._reading:
            read.synchronize()
        self._reading.clear()

    def _make_views(self, packed: Packed, plan: Plan) -> list[Tensor]:
        if not self._on_cpu:
            views = make_views(packed, plan.params, plan.size)
            if packed.pixels.device.type == "cuda":
                self._keep(packed.pixels)
            return views
        sides, unused = (self.heights[plan.ids], packed.widths), np.zeros(len(plan.ids), np.int64)
        source = kernels.Source(packed.pixels.data_ptr(), 3 * packed.places, unused, *sides, kernels.RAW)
        return start_views(self._pool, source, plan.params, plan.size, self._device)()[0]

    def _keep(self, pixels: Tensor) -> None:
        """Hold pixels until the device has read them: DALI overwrites memory as soon as torch lets go of it."""
        read = torch.cuda.Event()
        read.record(torch.cuda.current_stream(pixels.device))
        with self._lock:
            self._reading.append((read, pixels))
            while self._reading and self._reading[0][0].query():
                self._reading.popleft()
