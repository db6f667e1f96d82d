"""Compute the features of a file's images once, and keep them in the folder `features` beside the run.

cache = FeatureCache.beside(loaded, data, pool="recipe", batch=256)
found = cache.features(beton, ids)        # the second call reads them: found.ids i64 [N], found.features f32 [N, D]
"""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoint import checksummed
from models.config.recipe import Encoder
from models.evaluate.few_shot_protocols.features import FeatureExtractor, Pool
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep, sweep_decodable
from pipeline.spec import Data
from pipeline.store.atomic_write import sync_folder
from pipeline.store.beton import Beton
from pipeline.text import count

FOLDER = "features"
FORMAT = 1
SAVE_S = 60  # seconds after which what is computed so far is kept


class Features(NamedTuple):
    """Features f32 [N, D], on the host, of the images `ids` i64 [N] of a file, ascending; and the ids `gone` i64 [M] of
    images that no longer decode."""

    ids: np.ndarray
    features: Tensor
    gone: np.ndarray


@final
@dataclass(frozen=True, eq=False)
class FeatureCache:
    """Features of a run's images, by its weights in use (the average, where it keeps one).

    A file of features belongs to one .beton (by its digest), one view and one pooling, and says of which weights it is:
    once these have changed, it is computed anew and replaced, which is said. What is kept can be deleted at any time.
    """

    folder: Path
    checkpoint: str
    weights: str
    extractor: FeatureExtractor
    data: Data
    pool: Pool
    batch: int

    @classmethod
    def beside(cls, loaded: Loaded, data: Data, pool: Pool = "recipe", batch: int = 256) -> "FeatureCache":
        """Open the cache of a run. Raises InputError for a pooling that its encoder does not have."""
        extractor = FeatureExtractor(loaded.method, loaded.recipe, pool).eval()
        return cls(
            loaded.path.parent / FOLDER,
            loaded.path.name,
            _weights_sha256(extractor, loaded.recipe.encoder),
            extractor,
            data,
            pool,
            batch,
        )

    def path(self, beton: Beton) -> Path:
        """Return where the features of a file are kept."""
        return self.folder / f"{self.checkpoint}-{beton.path.stem}-{self._key(beton)[:12]}.features"

    def _key(self, beton: Beton) -> str:
        parts = FORMAT, beton.digest, self.pool, self.data.size, sorted(asdict(self.data.evaluate).items())
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def features(self, beton: Beton, ids: np.ndarray, *, every: bool = False) -> Features:
        """Return the features of images `ids` (i64 [N], ascending), of which those that are not kept are computed.

        every  refuse an image that no longer decodes, as where accuracy is measured; otherwise it is left out and named

        What was computed is kept together with what was there; a disk that takes no file is said, and no error. Raises
        InputError as pipeline.evaluation.sweep does.
        """
        kept = self._read(beton)
        if every and len(gone := np.intersect1d(ids, kept.gone)):
            kept = kept._replace(gone=np.setdiff1d(kept.gone, gone))  # decoded again, for the error that names them
        missing = np.setdiff1d(ids, np.union1d(kept.ids, kept.gone))
        if len(missing):
            kept = self._computed(beton, missing, kept, every)
        elif len(kept.ids):
            print(f"features of {count(len(ids), 'image')} of {beton.path}: read from {self.path(beton)}")
        gone = np.intersect1d(ids, kept.gone)
        if len(gone) and not len(missing):
            print(f"{count(len(gone), 'image')} of {beton.path} did not decode when they were computed; left out")
        rows = np.flatnonzero(np.isin(kept.ids, ids))
        return Features(kept.ids[rows], kept.features[torch.from_numpy(rows)], gone)

    def _computed(self, beton: Beton, ids: np.ndarray, kept: Features, every: bool) -> Features:
        began, due = time.perf_counter(), time.perf_counter() + SAVE_S
        done, found = [], []
        with torch.inference_mode():
            for part, images in self._batches(beton, ids, every):
                done.append(part)
                found.append(self.extractor(images))
                if time.perf_counter() > due:  # an interruption loses a minute, not an hour
                    writing = time.perf_counter()
                    self._write(beton, _joined(kept, np.concatenate(done), found, ids[ids <= part[-1]]))
                    due = time.perf_counter() + max(SAVE_S, 20 * (time.perf_counter() - writing))
        computed = np.concatenate([ids[:0], *done])
        joined = _joined(kept, computed, found, ids)
        where = self._write(beton, joined)
        seconds = time.perf_counter() - began
        rate = f"{len(computed) / seconds:,.0f} img/s"
        print(f"features of {count(len(computed), 'image')} of {beton.path}: {seconds:.1f} s, {rate}; {where}")
        return joined

    def _batches(self, beton: Beton, ids: np.ndarray, every: bool) -> Iterator[tuple[np.ndarray, Tensor]]:
        device = next(self.extractor.parameters()).device
        if not every:
            return sweep_decodable(self.data, beton, device, ids, self.batch)
        parts = (ids[first : first + self.batch] for first in range(0, len(ids), self.batch))
        return zip(parts, sweep(self.data, beton, device, ids, self.batch), strict=True)

    def _read(self, beton: Beton) -> Features:
        nothing = Features(np.empty(0, np.int64), torch.empty(0, 0), np.empty(0, np.int64))
        path = self.path(beton)
        if not path.exists():
            return nothing
        try:
            state = checksummed.read(path)
            known = state["key"] == self._key(beton)
            found = Features(state["ids"].numpy(), state["features"], state["gone"].numpy())
        except (InputError, KeyError, AttributeError) as error:
            print(f"{path} cannot be used ({error}): the features are computed again, and it is replaced")
            return nothing
        if not known or state["weights"] != self.weights:
            print(
                f"{path} is of other weights than {self.checkpoint} now holds: the features are computed again, and it "
                "is replaced"
            )
            return nothing
        return found

    def _write(self, beton: Beton, found: Features) -> str:
        path = self.path(beton)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        state = {
            "key": self._key(beton),
            "weights": self.weights,
            "ids": torch.from_numpy(found.ids),
            "gone": torch.from_numpy(found.gone),
            "features": found.features,
        }
        try:
            self.folder.mkdir(exist_ok=True)
            checksummed.write(partial, state)
            os.replace(partial, path)
            sync_folder(self.folder)
        except (OSError, InputError) as error:
            partial.unlink(missing_ok=True)
            return f"not kept ({getattr(error, 'strerror', None) or error})"
        return f"kept in {path}"


def _joined(kept: Features, ids: np.ndarray, features: list[Tensor], asked: np.ndarray) -> Features:
    """Add features of images `ids` i64 to those that were kept; the other ones that were `asked` for do not decode."""
    gone = np.union1d(kept.gone, np.setdiff1d(asked, ids))
    if not len(ids):
        return kept._replace(gone=gone)
    both = np.concatenate([kept.ids, ids])
    order = np.argsort(both)
    new = torch.cat(features).cpu()  # one copy from the device
    values = torch.cat([kept.features, new]) if len(kept.ids) else new
    return Features(both[order], values[torch.from_numpy(order)], gone)


def _weights_sha256(module: nn.Module, encoder: Encoder) -> str:
    """SHA-256 of an encoder's weights and of its settings that are not the default, hex: equal for what computes the
    same features. Settings count because weights do not tell all, the number of heads for one."""
    usual = asdict(Encoder())
    own = sorted((name, value) for name, value in asdict(encoder).items() if value != usual[name])
    digest = hashlib.sha256(repr(own).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
