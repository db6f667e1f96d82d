"""From a recipe's Data to the file, back-end and loader that serve it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import rng
from pipeline.backends.base import Backend
from pipeline.backends.dali import Dali
from pipeline.backends.ffcv import FFCV
from pipeline.backends.memory import Memory
from pipeline.beton import Beton, open_beton
from pipeline.digits import ensure_digits
from pipeline.order import Picks
from pipeline.plan import Wanted, draw
from pipeline.spec import Data

DIGITS = "data/digits"


def open_data(data: Data, name: str) -> Beton:
    """Open a file of `data.root`; the embedded digits are written first where they are asked for and absent."""
    if data.root == DIGITS:
        ensure_digits(Path(DIGITS))
    return open_beton(Path(data.root) / name)


def open_backend(data: Data, beton: Beton, device: torch.device) -> Backend:
    """The back-end that a recipe asks for; auto keeps a set in memory if its pixels fit into `memory_mb`."""
    views_on = data.views_on if data.views_on != "auto" else "cpu" if device.type == "cpu" else "device"
    pixels_mb = 3 * beton.pixels / 1e6
    memory = data.backend == "memory" or (data.backend == "auto" and pixels_mb <= data.memory_mb)
    made = Dali if data.backend == "dali" else Memory if memory else FFCV
    return made(beton, data.size, device, views_on, data.threads)


def sweep(data: Data, backend: Backend, ids: np.ndarray, batch: int) -> Iterator[Tensor]:
    """Every image of `ids` once, in order, as evaluated: u8 [n, 3, S, S] for n up to `batch`."""
    wanted = Wanted({"images": (data.evaluate, rng.WEAK)}, data.size)
    starts = []
    for first in range(0, len(ids), batch):
        part = np.asarray(ids[first : first + batch])
        picks = Picks(part, np.zeros_like(part))
        starts.append(backend.start(draw(wanted, picks, backend.heights[part], backend.widths[part], 0)))
        if len(starts) > 1:  # one batch decodes while another is used
            yield starts.pop(0)()[0]
    for start in starts:
        yield start()[0]
