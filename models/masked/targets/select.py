"""The target that a recipe names."""

from typing import Literal

from models.encoder.patches import Normalisation
from models.masked.targets.base import Target
from models.masked.targets.dall_e import FIRST, dall_e
from models.masked.targets.file import plain
from models.masked.targets.pca import load_pca
from models.masked.targets.pixel import Pixel
from models.masked.targets.tokenizer import Tokenizer
from models.masked.targets.tokens import Tokens
from models.masked.targets.vq import load_vq
from pipeline.errors import InputError

Kind = Literal["pixel", "norm_pix", "pca", "tokens"]
Error = Literal["squared", "absolute"]
OF_A_FILE = ("pca", "tokens")


def target(
    kind: Kind,
    file: str | None,
    patch: int,
    normalisation: Normalisation,
    *,
    error: Error | None = None,
    usual: Error = "squared",
) -> Target:
    """Build it; pixels are compared by their `error`, or as `usual` in the branch that asks.

    Raises InputError if it needs a file and the one named is none, or is not for it, or if it has no such error.
    """
    if file is not None and kind not in OF_A_FILE:
        raise InputError(
            f"method.reconstruct.target_file is {file}, but target {kind} reads none; choose pca, or tokens"
        )
    if error is not None and kind in OF_A_FILE:
        raise InputError(
            f"method.reconstruct.error is {error}, which compares pixels; target {kind} has a way of its own: set None"
        )
    absolute = (error or usual) == "absolute"
    match kind:
        case "pixel" | "norm_pix":
            return Pixel(patch, normalisation, normalise=kind == "norm_pix", absolute=absolute)
        case "pca":
            return load_pca(file, patch, normalisation)
        case "tokens":
            return Tokens(tokenizer(file), patch, normalisation)


def tokenizer(file: str | None) -> Tokenizer:
    """The one whose file is named: ours (`models.masked.fit_vq`), or DALL-E's weights. Raises InputError for any other."""
    held = plain(file, "vq")
    return dall_e(held, file) if FIRST in held else load_vq(file)
