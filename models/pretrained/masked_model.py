"""Read a masked autoencoder from a file alone: its architecture from tensors and config.json, then its weights.

loaded = load_masked_model("mae_visualize_vit_large.pth", torch.device("cpu"))
loaded.method.branch.predict(loaded.method.encoder, images, visible)

Read are MAE's files with a decoder, folders of Hugging Face's ViTMAEForPreTraining, and our exports as hf-vitmae.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from models.config.recipe import Encoder, Recipe
from models.load import Loaded
from models.masked.settings import Reconstruct
from models.methods.mae import MAE, Settings
from models.methods.presets import in1k
from models.pretrained.branch import MAE_POSITIONS, load_branch
from models.pretrained.find import find_weights
from models.pretrained.names import examples, with_own_names
from models.pretrained.weights import Weights
from pipeline.errors import InputError
from pipeline.text import count

ENCODER_HEADS = {768: 12, 1024: 16, 1280: 16}
"""Heads of MAE's encoders ViT-B, L and H by their width, which no tensor's shape tells."""
DECODER_HEADS = {512: 16}
DECODER = "decoder_embed.weight", "decoder_pred.weight", "mask_token", MAE_POSITIONS
BODY = "blocks", "patch_embed", "norm", "cls_token", "pos_embed", "norm_pre", "reg_token", "fc_norm"
PARTS = "norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"


@final
@dataclass(frozen=True)
class Assumed:
    """What a file may leave open; None takes what it says, else MAE's: target pixel, and heads by the width."""

    target: Literal["pixel", "norm_pix"] | None = None
    heads: int | None = None
    decoder_heads: int | None = None


class Known(NamedTuple):
    """A value of the architecture, and words for it that say where it is from unless the file states it."""

    value: int
    said: str


def load_masked_model(start: str, device: torch.device, assumed: Assumed | None = None) -> Loaded:
    """Load the encoder and the decoder that `start` holds (models.pretrained.find), as a run of method mae.

    Its `origin` says what was read and what was assumed; it has no classes, and its step is 0.

    Raises InputError for a file without a decoder or of another architecture, for heads that nothing tells, and where
    `assumed` contradicts the file.
    """
    found, assumed = with_own_names(find_weights(start), _names(1)), assumed or Assumed()
    _check(found)
    held = found.tensors
    (width, _, _, patch), grid = held["patch_embed.proj.weight"].shape, isqrt(held["pos_embed"].shape[1] - 1)
    depth, decoder_depth = _blocks(held, "blocks"), _blocks(held, "decoder_blocks")
    decoder_width = held["decoder_embed.weight"].shape[0]
    heads = _heads(found, "num_attention_heads", assumed.heads, ENCODER_HEADS.get(width), "--heads", width)
    decoder_heads = _heads(found, "decoder_num_attention_heads", assumed.decoder_heads,
                           DECODER_HEADS.get(decoder_width), "--decoder-heads", decoder_width)  # fmt: skip
    target, said = _target(found, assumed.target)
    recipe = Recipe(
        Settings(Reconstruct(decoder_depth, decoder_width, decoder_heads.value, target)),
        replace(in1k.mae_data(), size=grid * patch),
        Encoder(None, width, depth, heads.value, patch),
        name=Path(found.where).name,
    )
    method = MAE(recipe, classes=0)
    _adapt(method, found)
    _copy(method, found)
    deep, decoder_deep = count(depth, "block"), count(decoder_depth, "block")
    origin = (
        f"{found.where} ({found.what}): encoder of {deep} of width {width} with {heads.said}, patches of {patch} "
        f"pixels, images of {grid * patch}; decoder of {decoder_deep} of width {decoder_width} with "
        f"{decoder_heads.said}; it predicts {said}"
    )
    return Loaded(Path(found.where), recipe, method.eval().to(device), (), 0, origin)


def _names(depth: int) -> set[str]:
    """Names of a plain ViT's tensors, in timm's spelling, without a classifier."""
    parts = ["patch_embed.proj", "norm", *(f"blocks.{i}.{part}" for i in range(depth) for part in PARTS)]
    return {"cls_token", "pos_embed", *(f"{part}.{kind}" for part in parts for kind in ("weight", "bias"))}


def _blocks(held: Mapping[str, Tensor], name: str) -> int:
    return len({found[1] for each in held if (found := re.match(rf"{name}\.(\d+)\.", each))})


def _check(found: Weights) -> None:
    """Raise InputError unless the tensors are those of MAE's encoder on a square grid, and of its decoder."""
    held = found.tensors
    if missing := [name for name in DECODER if name not in held]:
        raise InputError(
            f"{found.where} ({found.what}) has no {missing[0]}, so no decoder that could predict; it holds "
            f"{examples(held)}; give MAE's visualisation weights, a folder of ViTMAEForPreTraining, or a run"
        )
    names = _names(_blocks(held, "blocks"))
    wrong = sorted(names - held.keys()) or [name for name in held if name.split(".")[0] in BODY and name not in names]
    if wrong:
        came = f"{wrong[0]} of shape {list(held[wrong[0]].shape)}" if wrong[0] in held else f"no {wrong[0]}"
        raise InputError(f"{found.where} has {came}, and MAE's encoder is a plain ViT with class token and positions")
    positions, patch = held["pos_embed"], held["patch_embed.proj.weight"]
    if patch.ndim != 4 or patch.shape[1] != 3 or patch.shape[2] != patch.shape[3] or not patch.numel():
        raise InputError(f"{found.where}: expected square patches of 3 channels, got {list(patch.shape)}")
    if positions.ndim != 3 or positions.shape[1] < 2 or isqrt(positions.shape[1] - 1) ** 2 != positions.shape[1] - 1:
        raise InputError(
            f"{found.where}: expected positions of a class token and a square grid, got {list(positions.shape)}"
        )
    if held["decoder_embed.weight"].ndim != 2 or not held["decoder_embed.weight"].numel():
        came = list(held["decoder_embed.weight"].shape)
        raise InputError(f"{found.where}: expected decoder_embed.weight of 2 dimensions, got {came}")
    if (act := found.config.get("hidden_act", "gelu")) != "gelu":
        raise InputError(f"{found.where}: its config says hidden_act {act}, and MAE's blocks have gelu")


def _heads(found: Weights, name: str, asked: int | None, maes: int | None, flag: str, width: int) -> Known:
    stated = found.config.get(name)
    if stated is not None and (type(stated) is not int or stated < 1 or asked not in (None, stated)):
        came = "expected 1 or more" if asked is None else f"got {flag} {asked}; drop the flag"
        raise InputError(f"{found.where}: its config says {name} {stated!r:.40}, {came}")
    heads = stated or asked or maes
    if heads is None:
        raise InputError(f"{found.where} does not say into how many heads a width of {width} is cut; give {flag}")
    if width % heads:
        raise InputError(f"{found.where}: expected heads that divide a width of {width}, got {heads}; see {flag}")
    return Known(heads, count(heads, "head") + ("" if stated or asked else f" (MAE's for this width; {flag})"))


def _target(found: Weights, asked: Literal["pixel", "norm_pix"] | None) -> tuple[Literal["pixel", "norm_pix"], str]:
    """What the decoder was trained to predict, and words for it."""
    stated = found.target
    if stated is not None and asked not in (None, stated):
        raise InputError(f"{found.where} says that it predicts {stated}, got --target {asked}; drop the flag")
    if (stated or asked) == "norm_pix":
        return "norm_pix", "norm_pix"
    return "pixel", "pixel" + ("" if stated or asked else " (assumed, as it does not say; --target)")


def _adapt(method: MAE, found: Weights) -> None:
    """Set the normalisation of images, and the epsilon of layer norms, where the source states them."""
    if found.normalisation is not None:
        method.encoder.normalisation = method.branch.target.normalisation = found.normalisation
    eps = found.config.get("layer_norm_eps")
    if eps is None:
        return
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < 1:
        raise InputError(f"{found.where}: expected layer_norm_eps from 0 to below 1 in its config, got {eps!r}")
    for module in method.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = float(eps)


def _copy(method: MAE, found: Weights) -> None:
    """Copy encoder, decoder and the decoder's positions. Raises InputError for a tensor of another shape."""
    for name, tensor in method.encoder.state_dict().items():
        if (came := list(found.tensors[name].shape)) != list(tensor.shape):
            raise InputError(f"{found.where}: expected {name} of shape {list(tensor.shape)}, got {came}")
        tensor.copy_(found.tensors[name])
    table, ours = found.tensors[MAE_POSITIONS], method.branch.decoder.positions
    wanted, same = [1, 1 + len(ours), ours.shape[1]], list(table.shape) == [1, 1 + len(ours), ours.shape[1]]
    if not same or table[0, 0].any():
        raise InputError(
            f"{found.where}: expected {MAE_POSITIONS} of shape {wanted} with zeros for the class token, got "
            f"{list(table.shape)}" + (" with others" if same else "")
        )
    ours.copy_(table[0, 1:])  # whatever it holds: sines, or what was trained in their place
    rest = {name: tensor for name, tensor in found.tensors.items() if name != MAE_POSITIONS}
    note, used = load_branch(method, replace(found, tensors=rest))
    if not used:
        raise InputError(f"{found.where}: {note}")
