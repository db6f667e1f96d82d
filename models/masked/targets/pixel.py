"""Targets "pixel" and "norm_pix": pixels as the encoder's input has them (MAE section 3, "Reconstruction target")."""

from collections.abc import Callable
from typing import final

from torch import Tensor

from models.encoder.patches import Normalisation
from models.losses import pixel_loss
from models.masked.targets.target import Target


@final
class Pixel(Target):
    """Mean squared, or absolute, error of pixels.

    compiler   back-end of torch.compile for the loss (models.distributed.compile); None runs it eagerly
    normalise  each patch by its own mean and spread (MAE Table 1d, "pixel (w/ norm)"); a prediction then has neither,
               and a picture of it takes them from the image
    """

    name = "pixels"
    compiler: str | Callable | None = None

    def __init__(self, patch: int, normalisation: Normalisation, *, normalise: bool, absolute: bool = False) -> None:
        super().__init__()
        self.patch, self.normalisation, self.width = patch, normalisation, 3 * patch * patch
        self.normalise, self.absolute = normalise, absolute

    def loss(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        """Mean error of the pixels, in f32 or f64."""
        how = {"normalise": self.normalise, "absolute": self.absolute, "normalisation": self.normalisation}
        return pixel_loss(predicted, images, ids, self.patch, compiler=self.compiler, **how)

    def to_pixels(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        """Return the prediction in f32."""
        return predicted.float()
