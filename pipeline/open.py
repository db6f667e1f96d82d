"""From a recipe's Data to the file, back-end and loader that serve it."""

from pathlib import Path

import torch

from pipeline.backends.base import Backend
from pipeline.backends.dali import Dali
from pipeline.backends.ffcv import FFCV
from pipeline.backends.gpu_views import check_device
from pipeline.backends.in_memory import InMemoryBackend
from pipeline.backends.select import choose, views_on
from pipeline.convert.digits import ensure_digits
from pipeline.spec import Data
from pipeline.store.beton import Beton, open_beton

DIGITS = "data/digits"
BACKENDS = {"ffcv": FFCV, "dali": Dali, "memory": InMemoryBackend}


def open_data(data: Data, name: str) -> Beton:
    """Open a file of `data.root`; the embedded digits are written first where they are asked for and absent."""
    if data.root == DIGITS:
        ensure_digits(Path(DIGITS))
    return open_beton(Path(data.root) / name)


def open_backend(data: Data, beton: Beton, device: torch.device) -> Backend:
    """The back-end that a recipe asks for; what auto means is chosen here and now (pipeline.backends.select).

    Raises InputError where the back-end, or Triton that is to make the views, does not run on this machine.
    """
    where = views_on(data, device)
    if where == "device":
        check_device(device)
    made = BACKENDS[choose(data, beton, device).backend]
    return made(beton, data.size, device, where, data.threads)
