"""From a recipe's Data to the file, back-end and loader that serve it."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import rng
from pipeline.backends.base import Backend, Undecodable, Views
from pipeline.backends.dali import Dali
from pipeline.backends.ffcv import FFCV
from pipeline.backends.memory import Memory
from pipeline.beton import Beton, open_beton
from pipeline.choose import choose, streamed, views_on
from pipeline.digits import ensure_digits
from pipeline.errors import InputError
from pipeline.on_device import check_device
from pipeline.order import Picks
from pipeline.plan import Wanted, draw
from pipeline.replace import MOST
from pipeline.send import copies
from pipeline.spec import Data

DIGITS = "data/digits"
BACKENDS = {"ffcv": FFCV, "dali": Dali, "memory": Memory}


def open_data(data: Data, name: str) -> Beton:
    """Open a file of `data.root`; the embedded digits are written first where they are asked for and absent."""
    if data.root == DIGITS:
        ensure_digits(Path(DIGITS))
    return open_beton(Path(data.root) / name)


def open_backend(data: Data, beton: Beton, device: torch.device) -> Backend:
    """The back-end that a recipe asks for; what auto means is chosen here and now (pipeline.choose).

    Raises InputError where the back-end, or Triton that is to make the views, does not run on this machine.
    """
    where = views_on(data, device)
    if where == "device":
        check_device(device)
    made = BACKENDS[choose(data, beton, device).backend]
    return made(beton, data.size, device, where, data.threads)


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
    wanted = Wanted({"images": (data.evaluate, rng.WEAK)}, data.size)
    return backend.start(draw(wanted, Picks(ids, np.zeros_like(ids)), backend.heights[ids], backend.widths[ids], 0))


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
