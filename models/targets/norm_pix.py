"""Pixels of each patch, normalised by its own mean and spread (MAE Table 1d, "pixel (w/ norm)")."""

from typing import final

from torch import Tensor

from models.losses import pixel_loss
from models.patches import Normalisation
from models.targets.base import Target


@final
class NormPix(Target):
    """Mean squared, or absolute, error of normalised pixels; pictures need mean and spread, which no prediction has."""

    name = "pixels"

    def __init__(self, patch: int, normalisation: Normalisation, absolute: bool = False) -> None:
        super().__init__()
        self.patch, self.normalisation, self.width, self.absolute = patch, normalisation, 3 * patch * patch, absolute

    def loss(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        how = {"normalise": True, "absolute": self.absolute, "normalisation": self.normalisation}
        return pixel_loss(predicted, images, ids, self.patch, **how)

    def to_pixels(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        return predicted.float()
