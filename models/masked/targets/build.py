"""Build the target that a recipe names."""

from models.encoder.patches import Normalisation
from models.masked.targets.dall_e import FIRST, dall_e
from models.masked.targets.file import plain
from models.masked.targets.pca import load_pca
from models.masked.targets.pixel import Pixel
from models.masked.targets.target import Error, Kind, Target
from models.masked.targets.tokenizer import Tokenizer
from models.masked.targets.tokens import Tokens
from models.masked.targets.vq import load_vq
from pipeline.errors import InputError

FROM_FILES = ("pca", "tokens")


def build_target(
    kind: Kind,
    file: str | None,
    patch: int,
    normalisation: Normalisation,
    *,
    error: Error | None = None,
    default_error: Error = "squared",
) -> Target:
    """Build the target `kind`; pixels are compared by `error`, and by `default_error` where that is None.

    target = build_target("pca", "pca.pt", patch=16, normalisation=IMAGENET)

    Raises InputError if the target needs a file and this is none of its kind, reads no file, or has no such error.
    """
    if file is not None and kind not in FROM_FILES:
        raise InputError(
            f"method.reconstruct.target_file is {file}, but target {kind} reads none; choose pca, or tokens"
        )
    if error is not None and kind in FROM_FILES:
        raise InputError(
            f"method.reconstruct.error is {error}, which compares pixels; target {kind} has a way of its own: set None"
        )
    absolute = (error or default_error) == "absolute"
    match kind:
        case "pixel" | "norm_pix":
            return Pixel(patch, normalisation, normalise=kind == "norm_pix", absolute=absolute)
        case "pca":
            return load_pca(file, patch, normalisation)
        case "tokens":
            return Tokens(build_tokenizer(file), patch, normalisation)


def build_tokenizer(file: str | None) -> Tokenizer:
    """Build the tokenizer of a file of `models.masked.fit_vq`, or of DALL-E's weights.

    Raises InputError for any other file.
    """
    held = plain(file, "vq")
    assert file is not None  # or `plain` has said so
    return dall_e(held, file) if FIRST in held else load_vq(file)
