"""Pixels of each patch, normalised by its own mean and spread (MAE Table 1d, "pixel (w/ norm)")."""

from typing import final

from torch import Tensor

from models.losses import pixel_loss
from models.patches import Normalisation
from models.targets.base import Target


@final
class NormPix(Target):
    """Mean squared error of normalised pixels; pictures need the mean and spread, which no prediction holds."""

    def __init__(self, patch: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.patch, self.normalisation, self.width = patch, normalisation, 3 * patch * patch

    def loss(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        return pixel_loss(predicted, images, ids, self.patch, normalise=True, normalisation=self.normalisation)

    def to_pixels(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        return predicted.float()
