"""The target that a recipe names."""

from typing import Literal

from models.patches import Normalisation
from models.targets.base import Target
from models.targets.norm_pix import NormPix
from models.targets.pca import load_pca
from models.targets.pixel import Pixel
from models.targets.tokens import Tokens
from models.targets.vq import load_vq
from pipeline.errors import InputError

Kind = Literal["pixel", "norm_pix", "pca", "tokens"]
OF_A_FILE = ("pca", "tokens")


def target(kind: Kind, file: str | None, patch: int, normalisation: Normalisation) -> Target:
    """Build it. Raises InputError if it needs a file and the one named is none, or is not for it."""
    if file is not None and kind not in OF_A_FILE:
        raise InputError(
            f"method.reconstruct.target_file is {file}, but target {kind} reads none; choose pca, or tokens"
        )
    match kind:
        case "pixel":
            return Pixel(patch, normalisation)
        case "norm_pix":
            return NormPix(patch, normalisation)
        case "pca":
            return load_pca(file, patch, normalisation)
        case "tokens":
            return Tokens(load_vq(file), patch, normalisation)
