"""The masked branch that a recipe names."""

from typing import Literal

from timm.models.vision_transformer import VisionTransformer

from models.masked.base import Branch, Reconstruct
from models.masked.lomar import LoMaRBranch
from models.masked.mae import MAEBranch
from models.masked.simmim import SimMIMBranch
from pipeline.errors import InputError
from pipeline.spec import Mask

Kind = Literal["mae", "lomar", "simmim"]
BRANCHES: dict[str, type[Branch]] = {"mae": MAEBranch, "lomar": LoMaRBranch, "simmim": SimMIMBranch}


def branch(
    kind: Kind,
    encoder: VisionTransformer,
    reconstruct: Reconstruct,
    mask: Mask,
    *,
    keep_visible: bool = False,
    drop_path: bool = False,
) -> Branch:
    """Build it; keep_visible: see Branch; drop_path: may stochastic depth touch SimMIM's images, as in its own recipe?

    Raises InputError where the recipe's mask is not one that it can read.
    """
    check_mask(kind, mask)
    if kind == "lomar":
        return LoMaRBranch(encoder, reconstruct, mask.window, keep_visible=keep_visible)
    if kind == "simmim":
        return SimMIMBranch(encoder, reconstruct, keep_visible=keep_visible, drop_path=drop_path)
    return BRANCHES[kind](encoder, reconstruct, keep_visible=keep_visible)


def check_mask(kind: Kind, mask: Mask) -> None:
    """Raise InputError where a branch cannot read a mask."""
    kinds = BRANCHES[kind].masks
    if mask.kind not in kinds:
        raise InputError(f"branch {kind} reads masks of kind {', '.join(kinds)}, got {mask.kind}; set --data.mask.kind")
