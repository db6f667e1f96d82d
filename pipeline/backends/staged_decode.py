"""Decode a batch in parts through staging buffers; each part crosses to the device as soon as it is decoded.

The host memory is that of the buffers, whatever the batch: 2,048 photographs of 500 pixels would be 1.2 GB decoded.
Stored planes are not decoded: they are copied, half the bytes of RGB, and the device turns them into pixels.
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
from pipeline.backends.staging_buffers import Slot, StagingBuffers
from pipeline.concurrency.pool import Pool
from pipeline.executors.gpu_views import Packed, Planes, as_rgb, change, cut, cuts
from pipeline.views.plan import ViewParams

COPIED = 4  # images that are copied while one would be decoded, at least: as many more of them are a thread's job


class _Decoding(NamedTuple):
    slot: Slot
    places: np.ndarray
    wait: Callable[[], None]


@final
class StagedDecode:
    """The decoding of one batch; threads begin a part as soon as a buffer is free.

    errors i32 [N]: the decoder's code for each image, 0 where it succeeded; complete when the iteration is.

        for images, packed in StagedDecode(source, pool, buffers).to(device): ...
    """

    def __init__(self, source: kernels.Source, pool: Pool, buffers: StagingBuffers) -> None:
        self._source, self._pool, self._buffers = source, pool, buffers
        self._planes, pixels = source.store == kernels.YUV420, source.heights * source.widths
        # even, after a first pixel: each image begins at an odd address (decode_into)
        self._room = source.sizes if self._planes else 3 * (pixels + pixels % 2)
        self.errors = np.zeros(len(pixels), np.int32)
        whole = 3 * (buffers.pixels + 1)
        self._requested = deque((images, self._request(images)) for images in parts(self._room, whole))

    def to(self, device: torch.device) -> Iterator[tuple[slice, Packed | Planes]]:
        """Yield each part's images, and what they are on the device, which stays until the next part is asked for."""
        try:
            while self._requested:
                images, decoding = self._requested[0]
                slot, places, wait = decoding.result()
                wait()
                used = 1 + -(-int(self._room[images].sum()) // 3)
                pixels = slot.pixels[:used].to(device, non_blocking=True)
                heights, widths = self._source.heights[images], self._source.widths[images]
                planes = Planes(pixels.view(-1), places, heights, widths) if self._planes else None
                yield images, planes or Packed(pixels, places // 3, widths)
                self._requested.popleft()
                self._buffers.give_back(slot)
        finally:
            for _, decoding in self._requested:
                with suppress(Exception):  # the first error is being raised; others must not keep the buffers
                    decoding.result().wait()  # no thread may still write when the buffer is handed out again
                self._buffers.give_back(decoding.result().slot)

    def _request(self, images: slice) -> Future[_Decoding]:
        decoding: Future[_Decoding] = Future()
        self._buffers.request(lambda slot: decoding.set_result(self._decode(images, slot)))
        return decoding

    def _decode(self, images: slice, slot: Slot) -> _Decoding:
        s, errors, flat = self._source, self.errors[images], slot.pixels.numpy().reshape(-1)
        part = s._replace(**{name: getattr(s, name)[images] for name in ("offsets", "sizes", "heights", "widths")})
        room = self._room[images]
        places = 3 + np.cumsum(room) - room
        pixels = places // 3

        def decode(first: int, last: int, _: object) -> None:
            kernels.decode_packed(first, last, part, flat, pixels, errors)

        def copy(first: int, last: int, _: object) -> None:
            kernels.copy_packed(COPIED * first, min(COPIED * last, len(places)), part, flat, places)

        n = len(places)
        wait = self._pool.start(copy, -(-n // COPIED)) if self._planes else self._pool.start(decode, n)
        return _Decoding(slot, places, wait)


def start_views(
    pool: Pool,
    buffers: StagingBuffers,
    source: kernels.Source,
    params: ViewParams,
    size: tuple[int, int],
    device: torch.device,
) -> Callable[[], tuple[list[Tensor], np.ndarray]]:
    """Begin the V views of N images, which the pool decodes and the device makes; the result waits: V of
    u8 [N, 3, H, W] on the device, error codes i32 [N]."""
    decoded, kinds = StagedDecode(source, pool, buffers), params.filters.tolist()

    def finish() -> tuple[list[Tensor], np.ndarray]:
        cut_parts = [
            [cut(packed, where, size, kind) for where, kind in zip(cuts(params, images), kinds, strict=True)]
            for images, packed in ((images, as_rgb(found)) for images, found in decoded.to(device))
        ]
        return change([torch.cat(view) for view in zip(*cut_parts, strict=True)], params), decoded.errors

    return finish


def parts(pixels: np.ndarray, room: int) -> Iterator[slice]:
    """Cut a batch (pixels, or bytes, i64 [N]) into the fewest runs of images of at most `room` of them each; no image
    may be larger."""
    first = total = 0
    for i, each in enumerate(pixels.tolist()):
        if total + each > room:
            yield slice(first, i)
            first, total = i, 0
        total += each
    if len(pixels):
        yield slice(first, len(pixels))
