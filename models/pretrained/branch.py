"""Load the masked branch of a source, a decoder and its mask token, so that masked pre-training continues with it."""

import re
from math import isqrt

import torch
from torch import Tensor

from models.encoder.positions import sincos_2d
from models.encoder.vit import normalisation_of
from models.masked.mae import MAEBranch
from models.method import Method
from models.pretrained.weights import Weights

BRANCH, TARGET = "branch.", "target."
MAE_POSITIONS = "decoder_pos_embed"
MAE_NAMES = r"^(?:decoder_(blocks|embed|norm|pred)(?=\.)|(mask_token)$)"
PARTS = {"pred": "predict"}
TABLE_ERROR = 1e-4
"""Largest difference of a float32 table of sines from one computed in float64."""


def load_branch(method: Method, found: Weights) -> tuple[str | None, set[str]]:
    """Load the source's masked branch into the method's if both have the same tensors; otherwise leave it as it is.

    load_branch(method, find_weights("runs/mae-digits"))

    The source is a run with a branch of its own, or a file with MAE's decoder (names decoder_*, mask_token), whose
    positions must be the sines that this decoder computes. Tensors of the target, which are read from target_file, must
    be equal.

    -> a note on what was loaded, or why nothing was; None without a branch on either side. And the names of the source
    that were used.
    """
    if method.branch is None:
        return None, set()
    names = {name.removeprefix(BRANCH): name for name in found.others if name.startswith(BRANCH)}
    names = names or (_maes(found.tensors) if isinstance(method.branch, MAEBranch) else {})
    if not names:
        return None, set()
    tensors = found.tensors | found.others
    held, own = {name: tensors[theirs] for name, theirs in names.items()}, method.branch.state_dict()
    why = _differs(held, own) or _other_pixels(method, found)
    if MAE_POSITIONS in found.tensors and not why:
        why = _other_positions(found.tensors[MAE_POSITIONS])
    if why:
        return f"masked branch not taken, as {why}", set()
    method.branch.load_state_dict(held)
    used = {*names.values(), *({MAE_POSITIONS} & found.tensors.keys())}
    return f"masked branch taken, {len(held)} tensors{_target_note(method, found)}", used


def _maes(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Names of this trainer's branch, and the names of MAE's files for the same tensors."""
    if "decoder_embed.weight" not in tensors:  # a mask token alone is SimMIM's or BEiT's, for their encoders
        return {}
    made = {}
    for name in tensors:
        if found := re.match(MAE_NAMES, name):
            part = found[1] or found[2]
            made[f"decoder.{PARTS.get(part, part)}{name[found.end() :]}"] = name
    return made


def _differs(held: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    for name, tensor in own.items():
        came = list(held[name].shape) if name in held else "nothing"
        if came != list(tensor.shape):
            return f"this run has {name} of shape {list(tensor.shape)}, the source {came}"
        if name.startswith(TARGET) and not torch.equal(held[name].to(tensor), tensor):
            return f"its target has another {name}"
    more = next((name for name in held if name not in own), None)
    return more and f"the source has {more} of shape {list(held[more].shape)}, this run nothing"


def _other_pixels(method: Method, found: Weights) -> str | None:
    same = found.normalisation in (None, normalisation_of(method.encoder))
    return None if same else "the source predicts pixels of another normalisation"


def _other_positions(table: Tensor) -> str | None:
    """Say why MAE's table [1, 1 + L, C] cannot be replaced by sines of the decoder's own grid."""
    side = isqrt(max(0, table.shape[-2] - 1))
    if table.ndim == 3 and side and side**2 + 1 == table.shape[1] and table.shape[2] % 4 == 0:
        sines = sincos_2d(table.shape[2], (side, side))
        if float((table[0].double() - torch.cat([torch.zeros_like(sines[:1]), sines])).abs().max()) < TABLE_ERROR:
            return None
    return f"{MAE_POSITIONS} {list(table.shape)} holds no sines of a square grid behind a row of zeros"


def _target_note(method: Method, found: Weights) -> str:
    ours = method.branch.settings.target
    if found.target is None:
        return f", which the source does not say to predict {ours}"
    return "" if found.target == ours else f", trained to predict {found.target}, here {ours}"
