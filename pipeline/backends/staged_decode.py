"""T2's share of the CPU: a batch decoded in pieces through a ring of buffers, each crossing as soon as it is whole.

Host memory is the ring's, whatever the batch: 2,048 photographs of 500 pixels would be 1.2 GB decoded.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from pipeline.backends import kernels
from pipeline.backends.gpu_views import Packed, change, cut, cuts
from pipeline.backends.staging_buffers import Slot, StagingBuffers
from pipeline.concurrency.pool import Pool
from pipeline.views.plan import ViewParams


class _Decoding(NamedTuple):
    slot: Slot
    places: np.ndarray
    wait: Callable[[], None]


@final
class StagedDecode:
    """One batch on its way; threads decode as soon as the ring has room.

    errors i32 [N]: the decoder's code for each image, 0 where all is well; complete when the iteration is.
    """

    def __init__(self, source: kernels.Source, pool: Pool, buffers: StagingBuffers) -> None:
        self._source, self._pool, self._buffers = source, pool, buffers
        pixels = source.heights * source.widths
        self._room = pixels + pixels % 2  # even, after a first pixel: each image begins at an odd address (decode_into)
        self.errors = np.zeros(len(pixels), np.int32)
        self._asked = deque((images, self._ask(images)) for images in pieces(self._room, buffers.pixels + 1))

    def to(self, device: torch.device) -> Iterator[tuple[slice, Packed]]:
        """Each piece's images, and their pixels on the device until the next piece is asked for."""
        try:
            while self._asked:
                images, decoding = self._asked[0]
                slot, places, wait = decoding.result()
                wait()
                used = 1 + int(self._room[images].sum())
                pixels = slot.pixels[:used].to(device, non_blocking=True)
                yield images, Packed(pixels, places, self._source.widths[images])
                self._asked.popleft()
                self._buffers.give_back(slot)
        finally:
            for _, decoding in self._asked:
                with suppress(Exception):  # the first error is on its way already; others must not keep the slots
                    decoding.result().wait()  # no thread may still write when the slot has a new owner
                self._buffers.give_back(decoding.result().slot)

    def _ask(self, images: slice) -> Future[_Decoding]:
        decoding: Future[_Decoding] = Future()
        self._buffers.ask(lambda slot: decoding.set_result(self._decode(images, slot)))
        return decoding

    def _decode(self, images: slice, slot: Slot) -> _Decoding:
        s, errors, flat = self._source, self.errors[images], slot.pixels.numpy().reshape(-1)
        part = s._replace(**{name: getattr(s, name)[images] for name in ("offsets", "sizes", "heights", "widths")})
        room = self._room[images]
        places = 1 + np.cumsum(room) - room
        wait = self._pool.start(
            lambda first, last, _: kernels.decode_packed(first, last, part, flat, places, errors), len(places)
        )
        return _Decoding(slot, places, wait)


def start_views(
    pool: Pool, buffers: StagingBuffers, source: kernels.Source, plan: ViewParams, size: int, device: torch.device
) -> Callable[[], tuple[list[Tensor], np.ndarray]]:
    """As `pipeline.backends.cpu_views.start_views`, but that the pool only decodes and every view is made on the device."""
    decoded = StagedDecode(source, pool, buffers)

    def finish() -> tuple[list[Tensor], np.ndarray]:
        parts = [[cut(packed, where, size) for where in cuts(plan, images)] for images, packed in decoded.to(device)]
        return change([torch.cat(view) for view in zip(*parts, strict=True)], plan), decoded.errors

    return finish


def pieces(pixels: np.ndarray, room: int) -> Iterator[slice]:
    """The fewest runs of images (pixels i64 [N]) that fit into `room` pixels each; no image may be larger."""
    first = total = 0
    for i, each in enumerate(pixels.tolist()):
        if total + each > room:
            yield slice(first, i)
            first, total = i, 0
        total += each
    if len(pixels):
        yield slice(first, len(pixels))
