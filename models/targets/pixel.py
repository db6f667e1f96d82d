"""Pixels, as the encoder's input has them (MAE section 3, "Reconstruction target")."""

from typing import final

from torch import Tensor

from models.losses import pixel_loss
from models.patches import Normalisation
from models.targets.base import Target


@final
class Pixel(Target):
    """Mean squared, or absolute, error of pixels."""

    name = "pixels"

    def __init__(self, patch: int, normalisation: Normalisation, absolute: bool = False) -> None:
        super().__init__()
        self.patch, self.normalisation, self.width, self.absolute = patch, normalisation, 3 * patch * patch, absolute

    def loss(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        how = {"normalise": False, "absolute": self.absolute, "normalisation": self.normalisation}
        return pixel_loss(predicted, images, ids, self.patch, **how)

    def to_pixels(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        return predicted.float()
