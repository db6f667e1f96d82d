"""Target "tokens": the codes of a tokenizer, a classification of each patch (BEiT; MAE section 4.1, "dVAE token")."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder.patches import Normalisation, gather_patches, grid_of
from models.losses import at_least_f32
from models.masked.targets.target import Target, check_not_empty
from models.masked.targets.tokenizer import Tokenizer, resized


@final
class Tokens(Target):
    """Cross-entropy of the codes of the predicted patches, each patch one cell of the tokenizer's grid."""

    name = "tokens"

    def __init__(self, tokenizer: Tokenizer, patch: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.patch, self.normalisation, self.width = patch, normalisation, tokenizer.codes
        self.tokenizer = tokenizer.requires_grad_(False).eval()

    def loss(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        """Mean cross-entropy of the codes, in f32 or f64."""
        check_not_empty(ids)
        codes = self.codes(images).gather(1, ids)
        return F.cross_entropy(at_least_f32(predicted).flatten(0, 1), codes.flatten())

    def codes(self, images: Tensor) -> Tensor:
        """Codes i64 [N, L] of u8 images, or of floats normalised as the encoder's input is."""
        return self.tokenizer(self._unnormalised(images), grid_of(images, self.patch))

    @torch.no_grad()
    def to_pixels(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor | None:
        """Decode the likeliest codes, among the true codes of the other patches."""
        grid, codes = grid_of(images, self.patch), self.codes(images)
        pictures = self.tokenizer.decode(codes.scatter(1, ids, predicted.argmax(-1)), grid)
        if pictures is None:
            return None
        pixels = gather_patches(resized(pictures.float(), (images.shape[-2], images.shape[-1])), None, ids, self.patch)
        mean, std = self._per_channel(pixels)
        return (pixels.unflatten(2, (-1, 3)) - mean).div(std).flatten(2)

    def _unnormalised(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            return images
        mean, std = (each[:, None, None] for each in self._per_channel(images))
        return images * std + mean

    def _per_channel(self, like: Tensor) -> tuple[Tensor, Tensor]:
        known = self.normalisation
        return torch.tensor(known.mean, device=like.device), torch.tensor(known.std, device=like.device)
