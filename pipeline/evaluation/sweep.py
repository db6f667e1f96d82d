"""Go once through images of a .beton, in order, in the evaluation view, while one batch is decoded ahead.

for images in sweep(data, beton, device, ids=np.arange(beton.n), batch=256): ...     # u8 [n, 3, H, W]
"""

import sys
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from pipeline.backends.backend import Backend, PendingViews, Undecodable
from pipeline.backends.select import streamed
from pipeline.concurrency.ahead import ahead
from pipeline.concurrency.transfer import copy_stream
from pipeline.errors import InputError
from pipeline.open import open_backend
from pipeline.sampling.replacement import too_many
from pipeline.spec import Data
from pipeline.store.beton import Beton
from pipeline.views.plan import evaluation_plan


def sweep(data: Data, beton: Beton, device: torch.device, ids: np.ndarray, batch: int) -> Iterator[Tensor]:
    """Yield every image of `ids` once, in order, in the evaluation view: u8 [n, 3, H, W] for n up to `batch`, on the
    device. Raises InputError for an image that cannot be decoded."""
    with closing(open_backend(streamed(data), beton, device)) as backend:
        for _, pending in _started(data, backend, ids, batch):
            yield _images(pending, device)


def sweep_decodable(
    data: Data, beton: Beton, device: torch.device, ids: np.ndarray, batch: int, *, say: bool = True
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield the ids and images of `sweep` without those that no longer decode; `say` names each of these on stderr.

    For images that are learned from or compared with: a score over fewer images would be another score. Raises
    InputError if more than two and more than a tenth of them cannot be decoded.
    """
    gone = 0
    with closing(open_backend(streamed(data), beton, device)) as backend:
        for part, pending in _started(data, backend, ids, batch):
            try:
                images = _images(pending, device)
            except Undecodable as error:
                gone += len(error.ids)
                for i in error.ids if say else ():
                    print(f"warning: {error.named(i)} no longer decodes; it is left out", file=sys.stderr, flush=True)
                if too_many(gone, len(ids)):
                    raise InputError(f"{gone} of {len(ids)} images do not decode: {error}") from error
                part = part[~np.isin(part, error.ids)]
                if not len(part):
                    continue
                images = _images(_start(data, backend, part), device)
            yield part, images


def _started(data: Data, backend: Backend, ids: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, PendingViews]]:
    parts = (np.asarray(ids[first : first + batch]) for first in range(0, len(ids), batch))
    return ahead((part, _start(data, backend, part)) for part in parts)


def _start(data: Data, backend: Backend, ids: np.ndarray) -> PendingViews:
    return backend.start(evaluation_plan(data, ids, backend.heights[ids], backend.widths[ids]))


def _images(pending: PendingViews, device: torch.device) -> Tensor:
    """Wait for a batch, which is made on the stream of the copies: on the network's stream its copies would wait for
    what the network still computes, and the decoders for the buffers that are being copied."""
    copying = copy_stream(device)
    if copying is None:
        return pending()[0]
    with torch.cuda.stream(copying):
        images = pending()[0]
    computing = torch.cuda.current_stream(device)
    computing.wait_stream(copying)
    images.record_stream(computing)  # else the next batch could take its memory while the network reads it
    return images
