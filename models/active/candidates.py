"""Images to choose from: files, or the images of a run's own training file that have no known label."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from models.evaluate.semi_supervised.feature_cache import FeatureCache
from pipeline.errors import InputError
from pipeline.evaluation.files import sweep_files
from pipeline.evaluation.sweep import sweep
from pipeline.sources.encode import Decoding
from pipeline.store.beton import Beton
from pipeline.store.sample_names import escape, read_names


class Candidates(ABC):
    """Images without a label: features f32 [M, D], on the host, and names, escaped, in one order."""

    def __init__(self, names: list[str], features: Tensor, cache: FeatureCache) -> None:
        self.names, self.features, self.cache = names, features, cache
        self.device = next(cache.extractor.parameters()).device

    @abstractmethod
    def images(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Yield some of the images again, in order, as the run is evaluated: u8 [n, 3, H, W] on its device."""


@final
class OfBeton(Candidates):
    """Images of a .beton, whose features the run's cache keeps."""

    def __init__(self, beton: Beton, known: np.ndarray, cache: FeatureCache, pool: np.ndarray | None = None) -> None:
        """Take all images of a file, or of a pool, but the `known` ones (ids i64). Raises InputError if there is
        none."""
        ids = np.setdiff1d(np.arange(beton.n) if pool is None else pool, known)
        if not len(ids):
            raise InputError(f"every image of {beton.path} has a known label; name images to choose from: IMAGES...")
        found, names = cache.features(beton, ids), read_names(beton)
        super().__init__([names[i] for i in found.ids], found.features, cache)
        self.beton, self.ids = beton, found.ids

    def images(self, rows: Sequence[int]) -> Iterator[Tensor]:
        return sweep(self.cache.data, self.beton, self.device, self.ids[list(rows)], self.cache.batch)


@final
class OfFiles(Candidates):
    """Image files, of which those that cannot be read are in `rejected`, each with the reason."""

    def __init__(self, paths: Sequence[Path], cache: FeatureCache, decoding: Decoding) -> None:
        """Read all files once, and compute their features."""
        device, kept, features = next(cache.extractor.parameters()).device, [], []
        self.rejected: list[tuple[Path, str]] = []
        with torch.inference_mode():
            for shown in sweep_files(paths, cache.data, device, cache.batch, decoding):
                self.rejected += shown.rejected
                if shown.paths:
                    kept += shown.paths
                    features.append(cache.extractor(shown.images))
        found = torch.cat(features).cpu() if features else torch.empty(0, 1)
        super().__init__([escape(str(path)) for path in kept], found, cache)
        self.paths, self.decoding = kept, decoding

    def images(self, rows: Sequence[int]) -> Iterator[Tensor]:
        paths = [self.paths[row] for row in rows]
        for shown in sweep_files(paths, self.cache.data, self.device, self.cache.batch, self.decoding):
            for path, why in shown.rejected:
                raise InputError(f"{escape(str(path))} changed while images were chosen: {why}; run it again")
            yield shown.images
