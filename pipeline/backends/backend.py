"""Interface of a back-end: a plan in, its views out; each image of the plan is read and decoded once.

backend = FFCV(beton, size=224, device=torch.device("cpu"), views_on="cpu")
weak, strong = backend.start(plan)()     # u8 [N, 3, 224, 224] each
backend.close()
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import numpy as np
from torch import Tensor

from pipeline.backends import kernels
from pipeline.errors import InputError
from pipeline.store.beton import Beton, Column
from pipeline.store.file_format import STORES
from pipeline.store.sample_names import read_name
from pipeline.views.plan import Plan

PendingViews = Callable[[], list[Tensor]]
"""Waits for the views of a batch and returns them, one u8 [N, 3, H, W] for each view of the plan."""


@final
class Undecodable(InputError):
    """Error that names the images `ids` (i64 [n], each once) of a file that were whole when it was written and can no
    longer be decoded."""

    def __init__(self, beton: Beton, ids: np.ndarray):
        self.beton, self.ids = beton, np.unique(ids)
        more = f" (and {len(self.ids) - 1} more)" if len(self.ids) > 1 else ""
        super().__init__(
            f"{self.named(self.ids[0])} no longer decodes{more}, though it did when the file was written; "
            f"run python -m pipeline.store {beton.path}"
        )

    def named(self, i: int) -> str:
        """Name an image by its file, its id, and the file that it was made of if that is known:
        "train.beton: image 7 (n01440764/x.JPEG)"."""
        name = read_name(self.beton, int(i))
        return f"{self.beton.path}: image {i}" + (f" ({name})" if name else "")


class Backend(ABC):
    """Reader of one .beton file. `heights` and `widths` are the images' sizes in pixels, which a plan is drawn for."""

    heights: Column
    widths: Column

    @abstractmethod
    def start(self, plan: Plan) -> PendingViews:
        """Begin a plan's work and return at once. The result, when called, waits and returns one u8 [N, 3, H, W]
        (channels last, on the device) for each view of the plan.

        The result raises Undecodable, after all its work, if images of the plan cannot be decoded.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop and join every thread."""


def jpeg_source(beton: Beton, ids: np.ndarray) -> kernels.Source:
    """Do as `sample_source` for a decoder that knows JPEG only. Raises InputError in a store of pixels."""
    if beton.store != "jpeg":
        raise InputError(f"{beton.path} holds no JPEG but {beton.store}, which needs no decoder; set data.backend ffcv")
    return sample_source(beton, ids)


def sample_source(beton: Beton, ids: np.ndarray) -> kernels.Source:
    """Tell the kernels where the stored bytes of samples `ids` (i64 [N]) lie; the caller keeps `beton` open.

    The system is asked to read these bytes now, so that a decoder that comes to them later does not wait for storage.
    """
    offsets, sizes, heights, widths = beton.where(ids)
    beton.readahead(offsets, sizes)
    return kernels.Source(beton.data.ctypes.data, offsets, sizes, heights, widths, STORES.index(beton.store))


def check_decoded(beton: Beton, ids: np.ndarray, errors: np.ndarray) -> None:
    """Raise Undecodable if the decoder reported errors (i32 [N], 0 where all is well) for images `ids` (i64 [N])."""
    if errors.any():
        raise Undecodable(beton, ids[errors != 0])
