"""The masked branch that a recipe names."""

from typing import Literal

from timm.models.vision_transformer import VisionTransformer

from models.branches.base import Branch
from models.branches.lomar import LoMaRBranch
from models.branches.mae import MAEBranch, Reconstruct
from models.branches.simmim import SimMIMBranch
from pipeline.errors import InputError
from pipeline.spec import Mask

Kind = Literal["mae", "lomar", "simmim"]
BRANCHES: dict[str, type[Branch]] = {"mae": MAEBranch, "lomar": LoMaRBranch, "simmim": SimMIMBranch}


def branch(
    kind: Kind, encoder: VisionTransformer, reconstruct: Reconstruct, mask: Mask, *, keep_visible: bool = False
) -> Branch:
    """Build it; keep_visible: see Branch. Raises InputError where the recipe's mask is not one that it can read."""
    chosen = BRANCHES[kind]
    if mask.kind not in chosen.masks:
        raise InputError(
            f"branch {kind} reads masks of kind {', '.join(chosen.masks)}, got {mask.kind}; set --data.mask.kind"
        )
    if chosen is LoMaRBranch:
        return LoMaRBranch(encoder, reconstruct, mask.window, keep_visible=keep_visible)
    return chosen(encoder, reconstruct, keep_visible=keep_visible)
