"""RankMe, the effective rank of an encoder's features (Garrido et al. 2023): collapse shown without a label."""

import math
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
import torch
from torch import Tensor

from models.evaluate.evaluator import Evaluator, Result
from models.evaluate.knn import Tokens, check_tokens, feature_bank
from models.full_precision import full_precision
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep_decodable
from pipeline.flags import AT_LEAST_1, check_bounds

EPSILON = 1e-7  # of equation 1, for float32
IMAGES = 10_000  # of the training file, as many as k-NN encodes; the paper takes 25,600
LEAST = 2


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """Compute RankMe of features f32 [N, C], one image a row: a number from 1 to min(N, C).

    exp(-sum_k p_k log p_k) with p_k = s_k / sum_j s_j + 1e-7 over the singular values s (Garrido et al. 2023, eq. 1).
    The features are neither centred nor normalised; nan unless all are finite and some is not 0.
    """
    if not torch.isfinite(features).all() or not features.any():
        return math.nan
    values = torch.linalg.svdvals(features.double())
    share = values / values.sum() + EPSILON
    return float((-share * share.log()).sum().exp())


def rankme_ids(n: int, most: int = IMAGES) -> np.ndarray:
    """Return the ids i64 of the images of a file that RankMe is measured on: the first of its `n`, as a file's samples
    were shuffled when it was written."""
    return np.arange(min(n, most))


@final
@dataclass(frozen=True)
class RankMe(Evaluator):
    """Effective rank of the features of training images, without labels (RankMe)."""

    most: Annotated[int, AT_LEAST_1] = IMAGES
    """Images to encode, the first of the training file (the paper: 25,600)."""
    tokens: Tokens = "avg"
    """Features that are measured: the mean of the patches, or the class token."""

    def run(self, loaded: Loaded) -> Result:
        """Measure rankme, from 1 to the smaller of `images` and the encoder's width. Reads no labels.

        The images are those of the recipe's training file, or of `data.file`.
        """
        check_bounds(self, "--")
        encoder = loaded.method.eval_encoder
        check_tokens(encoder, self.tokens, str(loaded.path))
        beton = self.open(loaded, self.data.file or loaded.recipe.data.train, same_classes=False)
        ids = rankme_ids(beton.n, self.most)
        if len(ids) < LEAST:
            raise InputError(f"RankMe compares images, expected {LEAST} or more, got {len(ids)}")
        device = next(encoder.parameters()).device
        with full_precision(device):
            batches = sweep_decodable(self.data_of(loaded), beton, device, ids, self.batch)
            kept, found = feature_bank(encoder, batches, self.tokens)
            return Result({"rankme": rankme(found), "images": float(len(kept)), "width": float(found.shape[1])})
