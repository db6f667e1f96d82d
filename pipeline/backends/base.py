"""What a back-end is: compressed bytes in, the planned views out, each image read and decoded once."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from torch import Tensor

from pipeline import kernels
from pipeline.beton import Beton, Column
from pipeline.errors import InputError
from pipeline.plan import Plan

Views = Callable[[], list[Tensor]]


class Backend(ABC):
    """Reads one .beton file; `heights` and `widths` are what a plan needs to know of it."""

    heights: Column
    widths: Column

    @abstractmethod
    def start(self, plan: Plan) -> Views:
        """Begin a plan's work and return at once; the result, when called, waits for it and gives one
        u8 [N, 3, S, S] (channels last, on the device) for each view of the plan.

        The result raises InputError naming the first image that cannot be decoded.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop and join every thread."""


def jpeg_source(beton: Beton, ids: np.ndarray) -> kernels.Source:
    """Where the stored bytes of samples `ids` (i64 [N]) lie, for the kernels; the caller keeps `beton` open.

    From here on they are being read: a decoder that comes to them later does not wait for storage.
    """
    offsets, sizes, heights, widths = beton.where(ids)
    beton.fetch(offsets, sizes)
    return kernels.Source(beton.data.ctypes.data, offsets, sizes, heights, widths, False)


def check_decoded(beton: Beton, ids: np.ndarray, errors: np.ndarray) -> None:
    """Raise InputError for the first image whose decoder reported an error (i32 [N], 0 where all is well)."""
    if errors.any():
        bad = int(ids[errors.nonzero()[0][0]])
        raise InputError(
            f"{beton.path}: image {bad} no longer decodes, though it did when the file was written; "
            f"run python -m pipeline.beton {beton.path}"
        )
