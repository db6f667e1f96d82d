"""Pixels, as the encoder's input has them (MAE section 3, "Reconstruction target")."""

from typing import final

from torch import Tensor

from models.losses import pixel_loss
from models.patches import Normalisation
from models.targets.base import Target


@final
class Pixel(Target):
    """Mean squared error of pixels."""

    def __init__(self, patch: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.patch, self.normalisation, self.width = patch, normalisation, 3 * patch * patch

    def loss(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        return pixel_loss(predicted, images, ids, self.patch, normalise=False, normalisation=self.normalisation)

    def to_pixels(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        return predicted.float()
