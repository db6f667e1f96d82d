"""Interface of an export format: files are written into an empty folder, then loaded with the library they are for."""

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
from models.encoder.lora import merged
from models.encoder.patches import as_normalised
from models.encoder.rotary import PackedEva
from models.encoder.vit import normalisation_of
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.spec import both_sides


@final
@dataclass(frozen=True)
class CheckResult:
    """Comparison of the loaded copy with the run.

    difference  the largest difference of an output; None where the library is not installed
    how         the library and its version, or why the copy was not checked
    rounding    added to the format's tolerance, where layers were folded into one
    """

    difference: float | None
    how: str
    rounding: float = 0.0


class ExportFormat(ABC):
    """Interface of an export format.

    tolerance  largest difference of an output that counts as the same model; 0 means bitwise

        ToTimm().write(loaded, folder)
        ToTimm().check(loaded, folder).difference  # 0.0
    """

    tolerance: ClassVar[float] = 0.0

    @abstractmethod
    def write(self, loaded: Loaded, folder: Path) -> None:
        """Write the files into an empty folder. Raises InputError where this format cannot hold the run."""

    @abstractmethod
    def check(self, loaded: Loaded, folder: Path) -> CheckResult:
        """Load the files with the library and compare its outputs with the run's on random images."""


def plain_encoder(loaded: Loaded, format_name: str) -> VisionTransformer:
    """Return the encoder that is evaluated; of an adapted one a copy with its factors merged; for a probe a copy whose
    head is folded into one linear layer.

    Raises InputError if it is no timm ViT, or has relative positions.
    """
    encoder = merged(loaded.method.eval_encoder)
    if type(encoder) not in (VisionTransformer, PackedEva) or relative(encoder):
        kind = f"positions of kind {loaded.recipe.encoder.position}"
        came = kind if type(encoder) is VisionTransformer else f"a {type(encoder).__name__}"
        raise InputError(
            f"{format_name} holds a plain ViT, {loaded.path} has {came}; use --to safetensors or --to onnx"
        )
    if isinstance(encoder.head, nn.Sequential):
        encoder = copy.deepcopy(encoder)
        encoder.head = folded(encoder.head)
    return encoder


def relative(encoder: nn.Module) -> bool:
    """Say whether a ViT's positions are relative (models.encoder.relative), which timm's own forward lacks."""
    return type(encoder) is VisionTransformer and encoder.blocks[0].relative


def images_like(loaded: Loaded, n: int = 4) -> Tensor:
    """Draw random images u8 [n, 3, H, W] of the run's size, to compare outputs on."""
    shape = n, 3, *both_sides(loaded.recipe.data.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def as_input(loaded: Loaded, images: Tensor) -> Tensor:
    """Normalise images u8 [N, 3, H, W] -> f32, which other libraries expect from their caller."""
    return as_normalised(images, normalisation_of(loaded.method.encoder))


def largest_difference(model: nn.Module, theirs: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Compute max |ours - theirs| over the outputs."""
    with torch.inference_mode():
        return float((model(images) - theirs(images)).abs().max())
