"""Decode a batch in parts through staging buffers; each part crosses to the device as soon as it is decoded.

The host memory is that of the buffers, whatever the batch: 2,048 photographs of 500 pixels would be 1.2 GB decoded.
A JPEG whose chroma is halved is decoded up to its planes, half the bytes of RGB, which the device turns into pixels;
stored planes are copied.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from pipeline.backends import jpeg_planes, kernels
from pipeline.backends.staging_buffers import Slot, StagingBuffers
from pipeline.concurrency.pool import Pool
from pipeline.executors.gpu_views import Decoded, as_rgb, change, cut, cuts, takes_planes
from pipeline.views.plan import ViewParams

COPIED = 4  # images that are copied while one would be decoded, at least: as many more of them are a thread's job


class _Decoding(NamedTuple):
    slot: Slot
    places: np.ndarray
    planes: np.ndarray
    used: int
    wait: Callable[[], None]


@final
class StagedDecode:
    """The decoding of one batch; threads begin a part as soon as a buffer is free.

    errors i32 [N]: the decoder's code for each image, 0 where it succeeded; complete when the iteration is.

        for images, decoded in StagedDecode(source, pool, buffers).to(device): ...
    """

    def __init__(self, source: kernels.Source, pool: Pool, buffers: StagingBuffers, *, planes: bool = True) -> None:
        """planes: whether JPEGs may arrive as planes, too."""
        self._source, self._pool, self._buffers, self._planes = source, pool, buffers, planes
        stored, pixels = source.store == kernels.YUV420, source.heights * source.widths
        # even, after a first pixel: each image of RGB begins at an odd address (decode_into); planes take less
        self._room = source.sizes if stored else 3 * (pixels + pixels % 2)
        self.errors = np.zeros(len(pixels), np.int32)
        whole = 3 * (buffers.pixels + 1)
        self._requested = deque((images, self._request(images)) for images in parts(self._room, whole))

    def to(self, device: torch.device) -> Iterator[tuple[slice, Decoded]]:
        """Yield each part's images, and what they are on the device, which stays until the next part is asked for."""
        try:
            while self._requested:
                images, decoding = self._requested[0]
                slot, places, planes, used, wait = decoding.result()
                wait()
                pixels = slot.pixels[:used].to(device, non_blocking=True)
                heights, widths = self._source.heights[images], self._source.widths[images]
                yield images, Decoded(pixels, places, heights, widths, planes)
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
        stored = s.store == kernels.YUV420
        planes = np.full(len(errors), stored)
        if self._planes and s.store == kernels.JPEG:
            kernels.find_planes(part, planes)
        places, end = layout(part.heights, part.widths, self._room[images], planes)

        def decode(first: int, last: int, _: object) -> None:
            kernels.decode_mixed(first, last, part, flat, places, planes, errors)

        def copy(first: int, last: int, _: object) -> None:
            kernels.copy_packed(COPIED * first, min(COPIED * last, len(places)), part, flat, places)

        n = len(places)
        wait = self._pool.start(copy, -(-n // COPIED)) if stored else self._pool.start(decode, n)
        return _Decoding(slot, places, planes, -(-end // 3), wait)


def layout(heights: np.ndarray, widths: np.ndarray, room: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, int]:
    """Lay images out in a buffer of pixels: the byte at which each begins, i64 [N], and the byte at which all end.

    Images that are planes (bool [N]) lie first; behind them those of RGB, each in its room and at an odd pixel.
    """
    least = np.minimum(room, jpeg_planes.room(heights, widths))  # stored planes have no padding
    first, rest = np.where(planes, least, 0), np.where(planes, 0, room)
    behind = 3 * ((-(-(3 + int(first.sum())) // 3)) | 1)
    places = np.where(planes, 3 + np.cumsum(first) - first, behind + np.cumsum(rest) - rest)
    return places, behind + int(rest.sum())


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
    decoded = StagedDecode(source, pool, buffers, planes=takes_planes(device.type))
    kinds = params.filters.tolist()

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
