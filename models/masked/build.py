"""Build the masked branch that a recipe names."""

from typing import Literal

from timm.models.vision_transformer import VisionTransformer

from models.masked.branch import PackedBranch
from models.masked.lomar import LoMaRBranch
from models.masked.mae import MAEBranch
from models.masked.settings import Reconstruct
from models.masked.simmim import SimMIMBranch
from pipeline.spec import Mask

Kind = Literal["mae", "lomar", "simmim"]
BRANCHES: dict[str, type[PackedBranch]] = {"mae": MAEBranch, "lomar": LoMaRBranch, "simmim": SimMIMBranch}


def build_branch(
    kind: Kind,
    encoder: VisionTransformer,
    reconstruct: Reconstruct,
    mask: Mask,
    *,
    keep_visible: bool = False,
    drop_path: bool = False,
) -> PackedBranch:
    """Build the branch `kind` on an encoder.

    branch = build_branch("mae", encoder, Reconstruct(), Mask(ratio=0.75))

    keep_visible  `visible_tokens` is read, too (SupMAE), so the encoder must return these tokens
    drop_path     whether stochastic depth applies to SimMIM's images, as in SimMIM's pre-training

    Raises InputError where the branch does not read the recipe's mask, or its settings do not go together.
    """
    BRANCHES[kind].check_mask(mask)
    match kind:
        case "mae":
            return MAEBranch(encoder, reconstruct, keep_visible=keep_visible)
        case "lomar":
            return LoMaRBranch(encoder, reconstruct, mask.window, keep_visible=keep_visible)
        case "simmim":
            return SimMIMBranch(encoder, reconstruct, keep_visible=keep_visible, drop_path=drop_path)
