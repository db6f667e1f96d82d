"""Open the file and the back-end that a recipe's Data asks for.

beton = open_data(data, data.train)
backend = open_backend(data, beton, torch.device("cuda"))
"""

from pathlib import Path

import torch

from pipeline.backends.backend import Backend
from pipeline.backends.dali import Dali
from pipeline.backends.ffcv import FFCV
from pipeline.backends.in_memory import InMemoryBackend
from pipeline.backends.select import choose, views_on
from pipeline.convert.digits import ensure_digits
from pipeline.executors.gpu_views import check_device
from pipeline.spec import Data
from pipeline.store.beton import Beton, open_beton

DIGITS = "data/digits"
BACKENDS = {"ffcv": FFCV, "dali": Dali, "memory": InMemoryBackend}


def open_data(data: Data, name: str) -> Beton:
    """Open a file of `data.root`. Where that is the embedded digits' folder and they are absent, they are written
    first."""
    if data.root == DIGITS:
        ensure_digits(Path(DIGITS))
    return open_beton(Path(data.root) / name)


def open_backend(data: Data, beton: Beton, device: torch.device) -> Backend:
    """Open the back-end that a recipe asks for; pipeline.backends.select chooses what auto means on this machine.

    Raises InputError where the back-end, or Triton that is to make the views, does not run on this machine.
    """
    where = views_on(data, device)
    if where == "device":
        check_device(device)
    name = choose(data, beton, device).backend
    options = {"hw_decoder_load": data.hw_decoder_load} if name == "dali" else {}
    return BACKENDS[name](beton, data.size, device, where, data.threads, **options)
