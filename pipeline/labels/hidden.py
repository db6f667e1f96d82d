"""Read the labels that a split hides, for reports on how good pseudo-labels were.

true = Oracle(beton).labels(np.array([3, 7]))
"""

from typing import final

import numpy as np

from pipeline.store.beton import Beton
from pipeline.store.file_format import metadata


@final
class Oracle:
    """Every label of a file. For reports only: it must be asked for by name, and is never handed to a loader or a
    method, which would then train on what the split hides."""

    def __init__(self, beton: Beton) -> None:
        self._beton = beton

    def labels(self, ids: np.ndarray) -> np.ndarray:
        """The true labels of samples: i64 [N] -> i64 [N], -1 where there never was one."""
        return metadata(self._beton.data, self._beton.n)["label"][ids].astype(np.int64)
