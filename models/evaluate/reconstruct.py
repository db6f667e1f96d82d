"""Pictures of what the masked branch predicts, at several mask ratios, in the images' own colours."""

import numpy as np
import torch
from torch import Tensor

from models.method import Method
from models.patches import gather_patches, hidden_from_visible, normalised, patchify, unpatchify
from models.vit import normalisation_of
from pipeline import rng
from pipeline.plan import visible_patches
from pipeline.preview import mask
from pipeline.spec import Mask
from pipeline.views import mask_random

RATIOS = (0.5, 0.75, 0.9)


@torch.no_grad()
def reconstruct(method: Method, images: Tensor, ratio: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
    """What the encoder saw and what the decoder made of it: two u8 [N, S, S, 3] for images u8 [N, 3, S, S]; None where
    a prediction is no picture.

    Visible patches are shown as they are. Normalised targets are put back on each patch's own mean and spread, which
    the network was never told: the picture shows structure, not brightness, that it found.
    """
    branch, patch = method.reconstruction, method.reconstruction.patch
    grid = images.shape[-1] // patch
    keys = rng.keys(seed, 0, np.arange(len(images)), rng.MASK)
    visible_ids = mask_random.draw(keys, grid, visible_patches(Mask(ratio=ratio), grid))
    visible = torch.from_numpy(visible_ids).to(images.device)
    hidden = hidden_from_visible(visible, grid * grid)
    predicted = branch.predict(method.encoder, images, visible)
    if predicted is None:
        return None
    normalisation = normalisation_of(method.encoder)
    if branch.settings.target == "norm_pix":
        truth = normalised(gather_patches(images, None, hidden, patch), torch.float32, normalisation)
        variance, mean = torch.var_mean(truth, dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    pixels = patchify(images, patch).float()
    pixels.scatter_(1, hidden[..., None].expand_as(predicted), _to_pixels(predicted, normalisation))
    made = unpatchify(pixels, (grid, grid), patch).clamp(0, 255).round().to(torch.uint8)
    originals = images.permute(0, 2, 3, 1).cpu().numpy()
    seen = np.stack([mask(image, ids, patch) for image, ids in zip(originals, visible_ids, strict=True)])
    return seen, made.permute(0, 2, 3, 1).cpu().numpy()


def _to_pixels(predicted: Tensor, normalisation) -> Tensor:
    repeats = predicted.shape[-1] // 3
    mean, std = (
        torch.tensor(v, device=predicted.device).repeat(repeats) for v in (normalisation.mean, normalisation.std)
    )
    return (predicted * std + mean) * 255
