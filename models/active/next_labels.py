"""Name the images whose label would help a run most, in order, as a CSV and as a picture.

asking = NextLabels(loaded, loaded.recipe.data, batch=256)
chosen = asking.choose(asking.own(), budget=20)
print(write(chosen, Path("next.csv")))
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.active.candidates import Candidates, OfBeton, OfFiles
from models.active.selection import Pick, select
from models.evaluate.class_probabilities import probabilities
from models.evaluate.knn import labels_in_use, split_in_use
from models.evaluate.semi_supervised.feature_cache import FeatureCache
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.open import open_data
from pipeline.preview.picture import captioned_sheet
from pipeline.sources.encode import Decoding
from pipeline.spec import Data
from pipeline.store.atomic_write import write_whole
from pipeline.store.beton import Beton
from pipeline.store.sample_names import printable
from pipeline.text import count

HEADER = "file", "reason", "cluster_size", "typicality", "margin", "class", "confidence"
WHY = {"typical": "typical of a cluster without a label", "uncertain": "uncertain"}


class Chosen(NamedTuple):
    """The chosen images: rows of HEADER, the choices, and their pictures u8 [h, w, 3], as the network sees
    them; `of` how many there were to choose from."""

    rows: list[list[str]]
    picks: list[Pick]
    pictures: list[np.ndarray]
    of: int


@final
@dataclass(frozen=True, eq=False)
class NextLabels:
    """A run that images are chosen for: what it knows are the images of its training file with a known label."""

    loaded: Loaded
    data: Data
    batch: int

    @cached_property
    def cache(self) -> FeatureCache:
        """Return the features that are kept beside the run."""
        return FeatureCache.beside(self.loaded, self.data, batch=self.batch)

    @cached_property
    def train(self) -> Beton:
        """Open the run's training file."""
        return open_data(self.data, self.data.train)

    @cached_property
    def known(self) -> np.ndarray:
        """Return the ids i64 of its images with a known label."""
        if self.train.manifest.classes is None:
            return np.empty(0, np.int64)
        return np.asarray(labels_in_use(self.loaded, self.train, None, own=True).ids)

    def own(self) -> OfBeton:
        """Choose from the images of the training file without a known label, or from the unlabelled ones that the split
        names. Raises InputError if there is none."""
        split = None
        if self.train.manifest.classes is not None:
            split = split_in_use(self.loaded, self.train, None, own=True)
        return OfBeton(self.train, self.known, self.cache, None if split is None else split.unlabelled)

    def files(self, paths: Sequence[Path], decoding: Decoding) -> OfFiles:
        """Choose from files; those that cannot be read are in `rejected`."""
        return OfFiles(paths, self.cache, decoding)

    def choose(self, candidates: Candidates, budget: int) -> Chosen:
        """Choose the `budget` images to label next, the most useful first.

        Raises InputError if there are fewer.
        """
        n = len(candidates.names)
        if not n:
            raise InputError(f"--next {budget}: none of them is an image that can be read")
        if budget > n:
            raise InputError(f"--next {budget}: there are {count(n, 'image')} to choose from; ask for {n} or fewer")
        known = self.cache.features(self.train, self.known).features if len(self.known) else candidates.features[:0]
        both = normalize(torch.cat([known, candidates.features]), dim=1)

        def margins() -> Tensor:
            return _margins(torch.cat([self._probabilities(each) for each in candidates.images(range(n))]))

        picks = select(both, len(known), budget, margins if self.loaded.method.has_classifier else None)
        rows, pictures = [], []
        for images in candidates.images([pick.row for pick in picks]):
            pictures += list(images.permute(0, 2, 3, 1).cpu().numpy())
            rows += self._predicted(images)
        described = [
            [candidates.names[pick.row], pick.reason, str(pick.size), _written(pick.typicality), *predicted]
            for pick, predicted in zip(picks, rows, strict=True)
        ]
        return Chosen(described, picks, pictures, n)

    @torch.inference_mode()
    def _probabilities(self, images: Tensor) -> Tensor:
        return probabilities(self.loaded, images).cpu()

    def _predicted(self, images: Tensor) -> list[list[str]]:
        """Return the last columns of HEADER, of images u8 [n, 3, H, W]; empty without a
        classifier."""
        if not self.loaded.method.has_classifier:
            return [["", "", ""]] * len(images)
        probabilities = self._probabilities(images)
        sure, classes = probabilities.max(1)
        found = zip(_margins(probabilities).tolist(), classes.tolist(), sure.tolist(), strict=True)
        return [[f"{margin:.6f}", printable(self.loaded.classes[c]), f"{value:.6f}"] for margin, c, value in found]


def _written(typicality: float | None) -> str:
    return "" if typicality is None else f"{typicality:.4f}"


def _margins(probabilities: Tensor) -> Tensor:
    """Of f32 [N, C] the likeliest class's probability less the second's: f32 [N]."""
    two = probabilities.topk(min(2, probabilities.shape[1]), dim=1).values
    return two[:, 0] - two[:, -1] if two.shape[1] > 1 else two[:, 0]


def picture_path(out: Path) -> Path:
    """next.csv -> next.png."""
    return out.with_suffix(".png")


def write(chosen: Chosen, out: Path) -> str:
    """Write the CSV, whose first column counts from 1, and the picture with the same numbers; -> a line about them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", *HEADER])
    writer.writerows([str(i), *row] for i, row in enumerate(chosen.rows, 1))
    captions = [
        [f"{i}. {row[0].rpartition('/')[2]}", f"{row[1]}{f', {row[5]}?' if row[5] else ''}"]
        for i, row in enumerate(chosen.rows, 1)
    ]
    png = io.BytesIO()
    captioned_sheet(chosen.pictures, captions).save(png, "png")
    write_whole(picture_path(out), png.getvalue())
    write_whole(out, text.getvalue())
    reasons = Counter(pick.reason for pick in chosen.picks)
    said = ", ".join(f"{n:,} {WHY[reason]}" for reason, n in reasons.items())
    named = f"{out}: {count(len(chosen.rows), 'image')} of {chosen.of:,} to label next"
    return f"{named}, {said}; {picture_path(out)} shows them"
