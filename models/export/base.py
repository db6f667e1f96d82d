"""What an export is: files written into an empty folder, then loaded with the library that they are for."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.heads import folded
from models.encoder.patches import as_normalised
from models.encoder.vit import normalisation_of
from models.load import Loaded
from pipeline.errors import InputError


@final
@dataclass(frozen=True)
class Checked:
    """How far the loaded copy is from ours: the largest difference of an output, or why nobody could look.

    rounding  how much more than the form's tolerance may be, where layers were folded into one
    """

    difference: float | None
    how: str
    rounding: float = 0.0


class Export(ABC):
    """One form.

    tolerance  largest difference of an output that is still the same model; 0 means bitwise
    """

    tolerance: ClassVar[float] = 0.0

    @abstractmethod
    def write(self, loaded: Loaded, folder: Path) -> None:
        """Write the files. Raises InputError where this form cannot hold the run."""

    @abstractmethod
    def check(self, loaded: Loaded, folder: Path) -> Checked:
        """Load them there and compare outputs on random images."""


def plain_encoder(loaded: Loaded, form: str) -> VisionTransformer:
    """The judged encoder, if it is a timm ViT and nothing more; a copy with one linear layer as its head, where it is
    a probe's. Raises InputError if it is not."""
    encoder = loaded.method.eval_encoder
    if type(encoder) is not VisionTransformer or relative(encoder):
        kind = f"positions of kind {loaded.recipe.encoder.position}"
        came = kind if type(encoder) is VisionTransformer else f"a {type(encoder).__name__}"
        raise InputError(f"{form} holds a plain ViT, {loaded.path} has {came}; use --to safetensors or --to onnx")
    if isinstance(encoder.head, nn.Sequential):
        encoder = copy.deepcopy(encoder)
        encoder.head = folded(encoder.head)
    return encoder


def relative(encoder: nn.Module) -> bool:
    """Whether a ViT's positions are relative (models.encoder.relative), which timm's own forward knows nothing of."""
    return type(encoder) is VisionTransformer and encoder.blocks[0].relative


def images_like(loaded: Loaded, n: int = 4) -> Tensor:
    """Random images u8 [n, 3, S, S] to compare outputs on."""
    side = loaded.recipe.data.size
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def as_input(loaded: Loaded, images: Tensor) -> Tensor:
    """u8 [N, 3, S, S] -> f32, normalised as every other library expects it from its caller."""
    return as_normalised(images, normalisation_of(loaded.method.encoder))


def largest_difference(model: nn.Module, theirs: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """max |ours - theirs| over the outputs."""
    with torch.inference_mode():
        return float((model(images) - theirs(images)).abs().max())
