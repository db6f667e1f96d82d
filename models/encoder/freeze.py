"""Freeze a part of an encoder, so that all of it, its last blocks, half of one, or its classifier alone is trained."""

from typing import Literal

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pipeline.errors import InputError

Trained = int | Literal["all", "half", "head"]


def freeze(vit: VisionTransformer, trained: Trained) -> list[nn.Module]:
    """Freeze in place what a ViT does not train; -> the frozen modules, which the caller keeps in eval mode.

    frozen = freeze(vit, 2)   # trains the last two blocks, the final norm and the classifier

    "head"  trains the classifier and the final norm, before or after pooling
    "half"  these, and the MLP sub-block of the last block: its norm, its MLP (MAE section 4.3, "half" a block)
    k       these, and the last k blocks; embedding, class token and positions are frozen even if all blocks are trained

    Autograd records nothing below the first trained part, so the step costs a forward pass there.
    Raises InputError for more blocks than there are.
    """
    if trained == "all":
        return []
    depth = len(vit.blocks)
    if not isinstance(trained, str) and trained > depth:
        raise InputError(f'method.trained is {trained} blocks, the encoder has {depth}; set {depth} or fewer, or "all"')
    learning = [vit.norm, vit.fc_norm, vit.head_drop, vit.head]
    if trained == "half":
        last = vit.blocks[-1]
        learning += [last.norm2, last.mlp, last.ls2, last.drop_path2]
    elif trained != "head":
        learning += vit.blocks[depth - trained :]
    vit.requires_grad_(False)
    for part in learning:
        part.requires_grad_(True)
    kept = {id(module) for part in learning for module in part.modules()}
    kept |= {id(module) for module in (vit, vit.blocks, *vit.blocks)}  # containers, which may hold parts of both kinds
    return [module for module in vit.modules() if id(module) not in kept]


def describe(trained: Trained, vit: VisionTransformer) -> str:
    """Name the trained part, and its share of the encoder's parameters, in one line."""
    whole = sum(p.numel() for p in vit.parameters())
    part = sum(p.numel() for p in vit.parameters() if p.requires_grad)
    names = {"head": "the classifier alone", "half": "the MLP of the last block and the classifier"}
    what = names.get(trained) or f"the last {trained} of {len(vit.blocks)} blocks and the classifier"
    return f"trained: {what}, {part / 1e6:.2f} of {whole / 1e6:.2f} M parameters; the rest is frozen"
