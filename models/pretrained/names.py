"""Bring the names of a source's tensors to timm's: find the prefix of its encoder, rename BEiT's and ViTMAE's."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from models.pretrained.weights import Weights, summarise
from pipeline.errors import InputError

PATCHES, FIRST_BLOCK, HEAD = "patch_embed.", "blocks.0.", "head."
VITMAE = "embeddings.patch_embeddings.projection.weight"
VITMAE_NAMES = (
    (r"\bdecoder\.decoder_(?:layers|encoder\.layer)\.", "decoder_blocks."),  # transformers 4, 5
    (r"\bdecoder\.(?=decoder_|mask_token$)", ""),
    (r"\b(?:encoder\.layer|layers)\.(?=\d)", "blocks."),
    (r"\bembeddings\.cls_token$", "cls_token"),
    (r"\bembeddings\.position_embeddings$", "pos_embed"),
    (r"\bembeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"\battention\.attention\.(query|key|value)\.", r"attn.\1."),
    (r"\battention\.([qkvo])_proj\.", lambda m: f"attn.{LAYERS[m[1]]}."),
    (r"\battention\.output\.dense\.", "attn.proj."),
    (r"\bintermediate\.dense\.", "mlp.fc1."),
    (r"\boutput\.dense\.", "mlp.fc2."),
    (r"\blayernorm_before\.", "norm1."),
    (r"\blayernorm_after\.", "norm2."),
    (r"\blayernorm\.", "norm."),
)
"""Parts of names in Hugging Face's ViTMAE, as files and as modules have them, and timm's parts; in this order."""
LAYERS = {"q": "query", "k": "key", "v": "value", "o": "proj"}
BEIT = {".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma"}
CONSTANT = "relative_position_index"
SHOWN = 4


def with_own_names(found: Weights, own: Collection[str]) -> Weights:
    """Return weights whose names are those of the encoder, wherever the source keeps them.

    with_own_names(found, method.encoder.state_dict()).tensors["blocks.0.norm1.weight"]

    The prefix is the one under which names of the encoder lie, whatever wrappers it is made of (module.,
    _orig_mod., backbone.). Names outside it lose the wrappers that they share with it.

    own  names of the encoder's state dict

    Raises InputError, with names and shapes that were found, if no prefix has names of the encoder's patch embedding or
    first block, or if two have.
    """
    tensors = _merged(_renamed(found.tensors), found.where)
    prefix = _prefix(tensors, own, found)
    if not prefix:
        return replace(found, tensors=tensors)
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outside = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    for name, tensor in outside.items():
        short = _without_shared(name, prefix)
        taken = short in inside or (short in own and not short.startswith(HEAD))
        inside[name if taken else short] = tensor
    return replace(found, tensors=inside, what=f"{found.what}, under {prefix}")


def examples(tensors: Mapping[str, Tensor], names: Iterable[str] | None = None) -> str:
    """Show the first names with their shapes, and how many more there are: "a.weight [3, 4], b [4] and 7 more"."""
    names = list(tensors if names is None else names)
    shown = ", ".join(f"{name} {list(tensors[name].shape)}" for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _prefix(tensors: dict[str, Tensor], own: Collection[str], found: Weights) -> str:
    known, counts, with_patches = set(own), Counter(), set()
    for name in tensors:
        parts = name.split(".")
        for i in range(len(parts)):
            short, prefix = ".".join(parts[i:]), "".join(f"{part}." for part in parts[:i])
            if short in known and short.startswith((PATCHES, FIRST_BLOCK)):
                counts[prefix] += 1
                if short.startswith(PATCHES):
                    with_patches.add(prefix)
    if not counts:
        raise InputError(
            f"{found.where} ({found.what}): no encoder can be read; found {len(tensors)} tensors: {examples(tensors)}; "
            f"looked for {PATCHES}* and {FIRST_BLOCK}* (timm's names) or {VITMAE} (ViTMAE's), under any prefix"
        )
    prefixes = sorted(with_patches or counts, key=len)
    if len(prefixes) > 1 and prefixes[0]:
        raise InputError(
            f"{found.where} holds {len(prefixes)} encoders, under {' and '.join(prefixes)} "
            f"({summarise(tensors)}); save one of them in a file of its own"
        )
    return prefixes[0]


def _without_shared(name: str, prefix: str) -> str:
    """Remove from a name the leading parts that it has in common with `prefix`, except for its last part."""
    for part in prefix.removesuffix(".").split("."):
        if not name.startswith(f"{part}."):
            break
        name = name.removeprefix(f"{part}.")
    return name


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename LayerScale's factors of BEiT and SimMIM, and all of ViTMAE, as timm does; prefixes stay."""
    made, vitmae = {}, any(name.endswith(VITMAE) for name in tensors)
    for name, tensor in tensors.items():
        if vitmae:
            for pattern, ours in VITMAE_NAMES:
                name = re.sub(pattern, ours, name)
        for theirs, ours in BEIT.items():
            name = name.removesuffix(theirs) + ours if name.endswith(theirs) else name
        if not name.endswith(CONSTANT):
            made[name] = tensor
    return made


def _check_alike(names: list[str], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError unless the tensors of queries, keys and values have one shape."""
    first, *others = (tensors[name] for name in names)
    if first.ndim == 0 or any(other.shape != first.shape for other in others):
        raise InputError(f"{where}: queries, keys and values differ in shape: {examples(tensors, names)}")


def _merged(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Make one layer of queries, keys and values, and one bias of BEiT's biases of queries and values."""
    made, gone = {}, set()
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        rest = [f"{stem.removesuffix('.query')}.{role}.{kind}" for role in ("key", "value")]
        if stem.endswith("attn.query") and all(other in tensors for other in rest):
            _check_alike([name, *rest], tensors, where)
            made[f"{stem.removesuffix('.query')}.qkv.{kind}"] = torch.cat([tensor, *(tensors[other] for other in rest)])
            gone |= {name, *rest}
        values = name.removesuffix("q_bias") + "v_bias"
        if name.endswith("attn.q_bias") and values in tensors:
            _check_alike([name, values], tensors, where)
            bias = torch.cat([tensor, torch.zeros_like(tensor), tensors[values]])
            made[name.removesuffix("q_bias") + "qkv.bias"] = bias
            gone |= {name, values}
    return {name: tensor for name, tensor in tensors.items() if name not in gone} | made
