"""Which part of an encoder is trained: all of it, its last blocks, half of one, or its classifier alone."""

from typing import Literal

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pipeline.errors import InputError

Trained = int | Literal["all", "half", "head"]


def freeze(vit: VisionTransformer, trained: Trained) -> list[nn.Module]:
    """Stop a ViT's gradients below what is trained, in place; -> the modules that are frozen, to be kept in eval mode.

    "head"  the classifier and the final norm, wherever it is
    "half"  and the MLP sub-block of the last block: its norm, its MLP (MAE section 4.3, "half" a block)
    k       and the last k blocks; embedding, class token and positions stay frozen even if all blocks are trained

    Autograd then records nothing below the first part that is trained: there the step costs a forward pass only.
    Raises InputError for more blocks than there are.
    """
    if trained == "all":
        return []
    depth = len(vit.blocks)
    if not isinstance(trained, str) and trained > depth:
        raise InputError(f'method.trained is {trained} blocks, the encoder has {depth}; set {depth} or fewer, or "all"')
    own = [vit.norm, vit.fc_norm, vit.head_drop, vit.head]
    if trained == "half":
        last = vit.blocks[-1]
        own += [last.norm2, last.mlp, last.ls2, last.drop_path2]
    elif trained != "head":
        own += vit.blocks[depth - trained :]
    vit.requires_grad_(False)
    for part in own:
        part.requires_grad_(True)
    spared = {id(module) for part in own for module in part.modules()}
    spared |= {id(module) for module in (vit, vit.blocks, *vit.blocks)}  # hold both kinds: their children say
    return [module for module in vit.modules() if id(module) not in spared]


def said(trained: Trained, vit: VisionTransformer) -> str:
    """What is trained, in words, with how much of the encoder that is."""
    whole = sum(p.numel() for p in vit.parameters())
    part = sum(p.numel() for p in vit.parameters() if p.requires_grad)
    names = {"head": "the classifier alone", "half": "the MLP of the last block and the classifier"}
    what = names.get(trained) or f"the last {trained} of {len(vit.blocks)} blocks and the classifier"
    return f"trained: {what}, {part / 1e6:.2f} of {whole / 1e6:.2f} M parameters; the rest is frozen"
