"""Go once through images of a .beton, as they are evaluated: no chance, in order, one batch decoding ahead."""

import sys
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from pipeline import rng
from pipeline.backends.base import Backend, Undecodable, Views
from pipeline.backends.replacement import MOST
from pipeline.backends.select import streamed
from pipeline.concurrency.transfer import copies
from pipeline.errors import InputError
from pipeline.open import open_backend
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Data
from pipeline.store.beton import Beton
from pipeline.views.plan import ViewSpec, draw


def sweep(data: Data, beton: Beton, device: torch.device, ids: np.ndarray, batch: int) -> Iterator[Tensor]:
    """Every image of `ids` once, in order, as evaluated: u8 [n, 3, S, S] for n up to `batch`, on the device."""
    with closing(open_backend(streamed(data), beton, device)) as backend:
        for _, views in _started(data, backend, ids, batch):
            yield _made(views, device)


def sweep_decodable(
    data: Data, beton: Beton, device: torch.device, ids: np.ndarray, batch: int, *, say: bool = True
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """As `sweep`, with their ids, but without the images that no longer decode; `say` names each on stderr.

    For images that are learned from or compared with: a score over fewer images would be another score. Raises
    InputError if more than two and more than a tenth of them are gone.
    """
    gone = 0
    with closing(open_backend(streamed(data), beton, device)) as backend:
        for part, views in _started(data, backend, ids, batch):
            try:
                images = _made(views, device)
            except Undecodable as error:
                gone += len(error.ids)
                for i in error.ids if say else ():
                    said = f"{error.beton.path}: {error.named(i)} no longer decodes; it is left out"
                    print(f"warning: {said}", file=sys.stderr, flush=True)
                if gone > max(2, MOST * len(ids)):
                    raise InputError(f"{gone} of {len(ids)} images do not decode: {error}") from error
                part = part[~np.isin(part, error.ids)]
                if not len(part):
                    continue
                images = _made(_start(data, backend, part), device)
            yield part, images


def _started(data: Data, backend: Backend, ids: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, Views]]:
    """Batches of ids with their views: one decodes while another is used."""
    started: list[tuple[np.ndarray, Views]] = []
    for first in range(0, len(ids), batch):
        part = np.asarray(ids[first : first + batch])
        started.append((part, _start(data, backend, part)))
        if len(started) > 1:
            yield started.pop(0)
    yield from started


def _start(data: Data, backend: Backend, ids: np.ndarray) -> Views:
    wanted = ViewSpec({"images": (data.evaluate, rng.WEAK)}, data.size)
    return backend.start(draw(wanted, SampleIds(ids, np.zeros_like(ids)), backend.heights[ids], backend.widths[ids], 0))


def _made(views: Views, device: torch.device) -> Tensor:
    """A batch of a sweep, made beside what the network still computes: behind that, its copies would wait, and the
    decoders for the buffers that they are from."""
    beside = copies(device)
    if beside is None:
        return views()[0]
    with torch.cuda.stream(beside):
        images = views()[0]
    computing = torch.cuda.current_stream(device)
    computing.wait_stream(beside)
    images.record_stream(computing)  # else the next batch could take its memory while the network reads it
    return images
