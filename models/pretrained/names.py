"""Find the encoder among a source's tensors: the prefix of its names, and which one where there are several."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from models.pretrained.formats import format_of
from models.pretrained.rotary import rotary_mark
from models.pretrained.spellings import HUGGING_FACE, OPEN_CLIP, TOWER, in_timms_names, in_timms_shapes
from models.pretrained.weights import Weights, summarise
from pipeline.errors import InputError

PATCHES, FIRST_BLOCK, HEAD = "patch_embed.", "blocks.0.", "head."
PREFERRED = (
    ("teacher", "student", "the average of"),  # DINO, DINOv2
    ("target_encoder", "encoder", "the average of"),  # I-JEPA
    ("base_encoder", "momentum_encoder", "trained beside"),  # MoCo v3, as its authors fine-tune
)
"""Which encoder is taken where a file holds two: by a part of the prefix, over which other, and why."""
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
    found = replace(found, form=format_of(found.tensors, found.config), rotary=rotary_mark(found.tensors))
    tensors = in_timms_names(found.tensors, found.where)
    prefix, why = _prefix(tensors, own, found)
    if not prefix:
        return replace(found, tensors=in_timms_shapes(tensors, found.where))
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outside = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    for name, tensor in outside.items():
        short = _without_shared(name, prefix)
        taken = short in inside or (short in own and not short.startswith(HEAD))
        short = name if taken else short
        inside[f"outside.{short}" if short in inside else short] = tensor  # a text tower's blocks, beside a prefix
    inside = in_timms_shapes(inside, found.where)
    return replace(found, tensors=inside, what=f"{found.what}, under {prefix}{why}")


def examples(tensors: Mapping[str, Tensor], names: Iterable[str] | None = None) -> str:
    """Show the first names with their shapes, and how many more there are: "a.weight [3, 4], b [4] and 7 more"."""
    names = list(tensors if names is None else names)
    shown = ", ".join(f"{name} {list(tensors[name].shape)}" for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _prefix(tensors: dict[str, Tensor], own: Collection[str], found: Weights) -> tuple[str, str]:
    """The prefix of the encoder, and words that say why this one where there are several."""
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
            f"looked for {PATCHES}* and {FIRST_BLOCK}* (timm's names), {HUGGING_FACE} or {TOWER} (Hugging Face's), "
            f"or {OPEN_CLIP} beside class_embedding (open_clip's), under any prefix"
        )
    prefixes = sorted(with_patches or counts, key=len)
    for taken, left, why in PREFERRED:
        ours = [prefix for prefix in prefixes if taken in prefix.split(".")]
        others = [prefix for prefix in prefixes if left in prefix.split(".")]
        if len(ours) == 1 and len(ours) + len(others) == len(prefixes) > 1:
            return ours[0], f", {why} {' and '.join(others)}"
    if len(prefixes) > 1 and prefixes[0]:
        raise InputError(
            f"{found.where} holds {len(prefixes)} encoders, under {' and '.join(prefixes)} "
            f"({summarise(tensors)}); save one of them in a file of its own"
        )
    return prefixes[0], ""


def _without_shared(name: str, prefix: str) -> str:
    """Remove from a name the leading parts that it has in common with `prefix`, except for its last part."""
    for part in prefix.removesuffix(".").split("."):
        if not name.startswith(f"{part}."):
            break
        name = name.removeprefix(f"{part}.")
    return name
