"""Copy found weights into a method's encoder: what fits, what is adapted, what is new, and what is refused."""

from collections.abc import Iterator
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from models.encoder.patches import Normalisation
from models.encoder.positions import prefix_positions, resampled
from models.encoder.relative import bias_for_each_block, kind_of, resampled_bias
from models.encoder.vit import normalisation_of
from models.method import Method
from models.pretrained.found import Found, counted
from models.pretrained.read import read
from pipeline.errors import InputError

HEAD, NORM, POOLED_NORM, POSITIONS = "head.", "norm.", "fc_norm.", "pos_embed"
BIASES = "relative_position_bias_table"
BODY = "blocks", "patch_embed", "cls_token", "reg_token", "dist_token", "pos_embed", "norm_pre", "rel_pos_bias"
"""What an encoder computes its tokens with: of these nothing may be left out."""


def load_encoder(method: Method, start: str | Path) -> str:
    """Copy the encoder that `start` names (models.pretrained.read) into a method, and its average; -> what was done.

    A classifier is copied if both have one of the same shape behind the same norm, and is new otherwise. So is a norm
    behind the pooling (encoder.fc_norm) where the source has none. Positions and position biases of another grid are
    resampled; a bias that all blocks shared becomes each block's own, where the method's encoder has such.

    Raises InputError for positions of another kind, for a tensor of another shape or that is missing, and for a part of
    the source's encoder that the method's does not have.
    """
    found, wanted = read(str(start)), method.encoder.state_dict()
    held = _positions_of_kind(found, wanted, len(method.encoder.blocks))
    held, said = _resampled(held, wanted, prefix_positions(method.encoder))
    held, biases = _biases_resampled(held, wanted)
    held, folded = _folded(held, found.normalisation, method.encoder)
    new = list(_new(held, wanted))
    _check(held, wanted, new, found.where)
    method.encoder.load_state_dict(wanted | {name: held[name] for name in wanted if name not in new})
    if method.ema is not None:
        method.ema.module.load_state_dict(method.encoder.state_dict())
    out = [name for name in held if name not in wanted]
    parts = [f"{len(wanted) - len(new)} tensors of the encoder from {found.where} ({found.what})", said, biases, folded]
    parts += [f"left out: {counted([*out, *found.beside])}" if out or found.beside else None]
    return "; ".join([part for part in parts if part] + [f"new: {', '.join(new) or 'none'}"])


def _positions_of_kind(found: Found, wanted: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    theirs, ours = kind_of(found.tensors), kind_of(wanted)
    if (theirs, ours) == ("bias", "block_bias"):
        return bias_for_each_block(found.tensors, depth)
    if theirs != ours and any(name.startswith("blocks.") for name in found.tensors):
        raise InputError(
            f"{found.where} was trained with position {theirs}, got {ours}; set encoder.position to {theirs}"
        )
    return found.tensors


def _resampled(held: dict[str, Tensor], wanted: dict[str, Tensor], prefix: int) -> tuple[dict[str, Tensor], str | None]:
    """Square tables of positions [1, prefix + L, C] made fit each other; learned or of sines, bicubically, as MAE's."""
    came, own = held.get(POSITIONS), wanted.get(POSITIONS)
    if came is None or own is None or came.shape == own.shape or came.shape[-1] != own.shape[-1]:
        return held, None
    sides = [isqrt(max(0, table.shape[1] - prefix)) for table in (came, own)]
    if any(side**2 + prefix != table.shape[1] for side, table in zip(sides, (came, own), strict=True)):
        return held, None
    before, after = ((side, side) for side in sides)
    table = resampled(came.float(), before, after, prefix)
    said = f"positions resampled from {before[0]} x {before[1]} to {after[0]} x {after[1]} patches"
    return held | {POSITIONS: table}, said


def _biases_resampled(held: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """Square tables of position biases made fit each other, as an encoder does for images of another size."""
    fitted, said = {}, None
    for name, table in held.items():
        own = wanted.get(name)
        if not name.endswith(BIASES) or own is None or table.shape == own.shape or table.shape[1:] != own.shape[1:]:
            continue
        before, after = (_side(each) for each in (table, own))
        if before and after:
            fitted[name] = resampled_bias(table.float(), (before, before), (after, after))
            said = f"position biases resampled from {before} x {before} to {after} x {after} patches"
    return held | fitted, said


def _side(table: Tensor) -> int | None:
    """Of the square grid whose differences a table [(2h - 1)² + 3, heads] holds."""
    differences = isqrt(max(0, len(table) - 3))
    return (differences + 1) // 2 if differences % 2 and differences**2 + 3 == len(table) else None


def _folded(
    held: dict[str, Tensor], theirs: Normalisation | None, encoder: nn.Module
) -> tuple[dict[str, Tensor], str | None]:
    """The patch embedding for images that are normalised as this encoder's are: the same function of the pixels."""
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


def _new(held: dict[str, Tensor], wanted: dict[str, Tensor]) -> Iterator[str]:
    """Names that stay as they were initialised."""
    norm = any(name.startswith(POOLED_NORM) and name not in held for name in wanted)
    for name in wanted:
        other = name.startswith(HEAD) and not _same(held, wanted, name)
        if other or (norm and name.startswith((POOLED_NORM, HEAD))):  # a classifier that read other features is none
            yield name


def _check(held: dict[str, Tensor], wanted: dict[str, Tensor], new: list[str], where: str) -> None:
    for name in wanted:
        if name in new or _same(held, wanted, name):
            continue
        if name.startswith(NORM) and name not in held and f"fc_{name}" in held:
            raise InputError(f"{where} has its final norm behind the pooling ({POOLED_NORM}*); add --encoder.fc-norm")
        came = list(held[name].shape) if name in held else "nothing"
        raise InputError(
            f"{where}: expected {name} of shape {list(wanted[name].shape)}, got {came}; "
            "use the encoder and image size of the run that wrote it"
        )
    # an encoder without any final norm ends inside of the source's: a probe of a block before the last
    cut = not any(name.startswith((NORM, POOLED_NORM)) for name in wanted)
    body = [part for part in BODY if not (cut and part == "blocks")]
    more = [name for name in held if name not in wanted and name.split(".")[0] in body]
    if more:
        raise InputError(
            f"{where} has {more[0]} of shape {list(held[more[0]].shape)}, which this encoder has not; "
            "set encoder to the one that it was"
        )


def _same(held: dict[str, Tensor], wanted: dict[str, Tensor], name: str) -> bool:
    return name in held and held[name].shape == wanted[name].shape
