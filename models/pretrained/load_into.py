"""Load pretrained weights into a method: copy what fits, adapt positions and normalisation, or refuse."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from models.encoder.patches import Normalisation
from models.encoder.relative import bias_for_each_block, kind_of
from models.encoder.vit import normalisation_of
from models.method import Method
from models.pretrained.branch import load_branch
from models.pretrained.classifier import load_head, rows_by_class
from models.pretrained.find import find_weights
from models.pretrained.grids import fitted_biases, fitted_positions
from models.pretrained.names import examples, with_own_names
from models.pretrained.weights import Weights, summarise
from pipeline.errors import InputError

HEAD, NORM, POOLED_NORM = "head.", "norm.", "fc_norm."
BODY = "blocks", "patch_embed", "cls_token", "reg_token", "dist_token", "pos_embed", "norm_pre", "rel_pos_bias"
"""First parts of the names of an encoder's tensors without its head: none of the source's may be left out."""


def load_encoder(method: Method, start: str | Path, classes: tuple[str, ...] | None = None) -> str:
    """Load the weights that `start` names (models.pretrained.find) into a method's encoder, its EMA and its branch.

    -> one line: how many tensors were loaded, what was adapted, what was left out, what is new.

    A classifier is copied if the source has one behind the same norm, by the names of its classes; if one side has
    no names, by its shape. Otherwise it stays as it was initialised. So does a norm behind the pooling
    (encoder.fc_norm) if the source has none. Positions and position biases of another grid are resampled
    (models.pretrained.grids). A bias table that all blocks share is copied to each block if the method's encoder
    has one a block. A masked branch is copied if the source has the same (models.pretrained.branch), and so is
    SupMAE's classifier (models.pretrained.classifier).

    classes  names of this run's classes, in the order of their labels

    Raises InputError for positions of another kind, for a tensor that is missing or of another shape, and for a tensor
    of the source's encoder that the method's does not have.
    """
    own = method.encoder.state_dict()
    found = with_own_names(find_weights(str(start)), own)
    held = _positions_of_kind(found, own, len(method.encoder.blocks))
    held, positions = fitted_positions(found, held, own, method.encoder)
    held, biases = fitted_biases(found, held, own, method.encoder)
    held, folded = _folded(held, found.normalisation, method.encoder)
    classifier = None
    if not _new_norm(held, own):
        held, classifier = rows_by_class(held, method.encoder.head, found.classes, classes or None)
    new = list(_new(held, own))
    _check(held, own, new, found.where)
    method.encoder.load_state_dict(own | {name: held[name] for name in own if name not in new})
    if method.ema is not None:
        method.ema.module.load_state_dict(method.encoder.state_dict())
    branch, used = load_branch(method, found)
    head, used_too = load_head(method, found, classes or None)
    used |= used_too
    out = [name for name in (*(name for name in held if name not in own), *found.others) if name not in used]
    loaded = f"{len(own) - len(new)} tensors of the encoder from {found.where} ({found.what})"
    parts = [
        loaded,
        positions,
        biases,
        folded,
        classifier,
        head,
        branch,
        f"left out: {summarise(out)}" if out else None,
    ]
    return "; ".join([part for part in parts if part] + [f"new: {', '.join(new) or 'none'}"])


def _positions_of_kind(found: Weights, own: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    theirs, ours = kind_of(found.tensors), kind_of(own)
    if (theirs, ours) == ("bias", "block_bias"):
        return bias_for_each_block(found.tensors, depth)
    if theirs != ours and any(name.startswith("blocks.") for name in found.tensors):
        unknown = [name for name in found.tensors if name not in own] if theirs == "none" else []
        unless = f", unless its positions have another name: it holds {examples(found.tensors, unknown)}"
        raise InputError(
            f"{found.where} was trained with position {theirs}, got {ours}; set encoder.position to {theirs}"
            + (unless if unknown else "")
        )
    return found.tensors


def _folded(
    held: dict[str, Tensor], theirs: Normalisation | None, encoder: nn.Module
) -> tuple[dict[str, Tensor], str | None]:
    """Adapt the patch embedding to the encoder's normalisation, so that it stays the same function of the pixels."""
    ours, name = normalisation_of(encoder), "patch_embed.proj"
    if theirs in (None, ours) or f"{name}.weight" not in held or f"{name}.bias" not in held:
        return held, None
    weight = held[f"{name}.weight"].double()
    (mean, std), (own_mean, own_std) = (
        (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (n.mean, n.std)) for n in (theirs, ours)
    )
    bias = held[f"{name}.bias"].double() + (weight * (own_mean - mean) / std).sum((1, 2, 3))
    adapted = {f"{name}.weight": (weight * own_std / std).float(), f"{name}.bias": bias.float()}
    return held | adapted, "patch embedding adapted to this encoder's normalisation"


def _new(held: dict[str, Tensor], own: dict[str, Tensor]) -> Iterator[str]:
    """Names of the encoder's tensors that stay as they were initialised."""
    norm = _new_norm(held, own)
    for name in own:
        other = name.startswith(HEAD) and not _same(held, own, name)
        if other or (norm and name.startswith((POOLED_NORM, HEAD))):  # it was trained on features behind another norm
            yield name


def _new_norm(held: dict[str, Tensor], own: dict[str, Tensor]) -> bool:
    """Whether the encoder has a norm behind the pooling that the source has not."""
    return any(name.startswith(POOLED_NORM) and name not in held for name in own)


def _check(held: dict[str, Tensor], own: dict[str, Tensor], new: list[str], where: str) -> None:
    for name in own:
        if name in new or _same(held, own, name):
            continue
        if name.startswith(NORM) and name not in held and f"fc_{name}" in held:
            raise InputError(f"{where} has its final norm behind the pooling ({POOLED_NORM}*); add --encoder.fc-norm")
        unknown = [each for each in held if each not in own]
        nothing = f"nothing under that name, but {examples(held, unknown)}" if unknown else "nothing"
        came = list(held[name].shape) if name in held else nothing
        raise InputError(
            f"{where}: expected {name} of shape {list(own[name].shape)}, got {came}; "
            "use the encoder and image size of the run that wrote it"
        )
    # an encoder without a final norm is the first blocks of the source's: a probe of a block before the last
    cut = not any(name.startswith((NORM, POOLED_NORM)) for name in own)
    body = [part for part in BODY if not (cut and part == "blocks")]
    more = [name for name in held if name not in own and name.split(".")[0] in body]
    if more:
        raise InputError(
            f"{where} has {more[0]} of shape {list(held[more[0]].shape)}, which this encoder has not; "
            "set encoder to the one that it was"
        )


def _same(held: dict[str, Tensor], own: dict[str, Tensor], name: str) -> bool:
    return name in held and held[name].shape == own[name].shape
