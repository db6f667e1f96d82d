"""Target "pca": the largest principal components of a patch (MAE section 4.1, "PCA in the patch space", 96 of them)."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder.patches import Normalisation
from models.full_precision import full_precision
from models.losses import at_least_f32
from models.masked.targets.file import NoTarget, read
from models.masked.targets.target import Target, check_not_empty, true_patches


@final
class PCA(Target):
    """Mean squared error of coefficients: (x - mean) · basis / scale, for x the pixels of a patch, normalised.

    mean   f32 [P]      of the patches that it was fitted on
    basis  f32 [P, K]   orthonormal columns, the largest variance first
    scale  f32 [K]      K equal numbers, by which predicting the mean costs what it costs for pixels, so that rates and
                        loss weights keep their meaning (ours; the paper gives none). Whitened: one for each
                        coefficient, by which all weigh the same
    """

    name = "pca"

    def __init__(self, mean: Tensor, basis: Tensor, scale: Tensor, patch: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.patch, self.normalisation, self.width = patch, normalisation, basis.shape[1]
        self.register_buffer("mean", mean.clone())
        self.register_buffer("basis", basis.clone())
        self.register_buffer("scale", scale.clone())

    def loss(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        """Mean squared error of the coefficients, in f32 or f64."""
        check_not_empty(ids)
        predicted = at_least_f32(predicted)
        with full_precision(predicted.device), torch.no_grad():
            pixels = true_patches(images, ids, self.patch, predicted.dtype, self.normalisation)
            coefficients = (pixels - self.mean) @ self.basis / self.scale
        return F.mse_loss(predicted, coefficients.to(predicted.dtype))

    def to_pixels(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        """Undo the projection: f32 [N, M, P]."""
        with full_precision(predicted.device):
            return (self.mean + (at_least_f32(predicted) * self.scale) @ self.basis.T).float()


def load_pca(file: str | None, patch: int, normalisation: Normalisation) -> PCA:
    """Load what `models.masked.fit_pca` wrote. Raises NoTarget if it is for another patch or normalisation."""
    held = read(file, "pca", patch)
    if (held["mean_rgb"], held["std_rgb"]) != (list(normalisation.mean), list(normalisation.std)):
        raise NoTarget(f"{file} was fitted on pixels normalised otherwise than the encoder's; fit it with", "pca")
    return PCA(held["mean"], held["basis"], held["scale"], patch, normalisation)
