"""What a back-end is: compressed bytes in, the planned views out, each image read and decoded once."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import numpy as np
from torch import Tensor

from pipeline.backends import kernels
from pipeline.errors import InputError
from pipeline.store.beton import Beton, Column
from pipeline.store.sample_names import read_name
from pipeline.views.plan import Plan

Views = Callable[[], list[Tensor]]


@final
class Undecodable(InputError):
    """Images `ids` (i64 [n], each once) of a file that decoded when it was written and no longer do."""

    def __init__(self, beton: Beton, ids: np.ndarray):
        self.beton, self.ids = beton, np.unique(ids)
        said = f"{self.named(self.ids[0])} no longer decodes"
        said += f" (and {len(self.ids) - 1} more)" if len(self.ids) > 1 else ""
        super().__init__(
            f"{beton.path}: {said}, though it did when the file was written; run python -m pipeline.store {beton.path}"
        )

    def named(self, i: int) -> str:
        """Image 7, and the name of the file that it was made of if that is known: "image 7 (n01440764/x.JPEG)"."""
        name = read_name(self.beton, int(i))
        return f"image {i}" + (f" ({name})" if name else "")


class Backend(ABC):
    """Reads one .beton file; `heights` and `widths` are what a plan needs to know of it."""

    heights: Column
    widths: Column

    @abstractmethod
    def start(self, plan: Plan) -> Views:
        """Begin a plan's work and return at once; the result, when called, waits for it and gives one
        u8 [N, 3, S, S] (channels last, on the device) for each view of the plan.

        The result raises Undecodable, after all its work, if images of the plan cannot be decoded.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop and join every thread."""


def jpeg_source(beton: Beton, ids: np.ndarray) -> kernels.Source:
    """Where the stored bytes of samples `ids` (i64 [N]) lie, for the kernels; the caller keeps `beton` open.

    From here on they are being read: a decoder that comes to them later does not wait for storage.
    """
    offsets, sizes, heights, widths = beton.where(ids)
    beton.readahead(offsets, sizes)
    return kernels.Source(beton.data.ctypes.data, offsets, sizes, heights, widths, False)


def check_decoded(beton: Beton, ids: np.ndarray, errors: np.ndarray) -> None:
    """Raise Undecodable if the decoder reported errors (i32 [N], 0 where all is well) for images `ids` (i64 [N])."""
    if errors.any():
        raise Undecodable(beton, ids[errors != 0])
