"""Read an encoder's architecture from the weights that a run starts from, for encoder.name auto.

recipe, said = with_encoder_of_start(recipe)   # a recipe whose encoder is a width, depth and heads; a line about it

Tensors tell width, depth, patch, class token, registers, positions, LayerScale, the kind of MLP, and which layers have
biases; `formats.py` tells the rest.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt, prod

import torch
from torch import Tensor

from models.config.bounds import AUTO
from models.config.recipe import Encoder, Recipe
from models.encoder.axes import TABLES
from models.encoder.positions import sincos_2d
from models.encoder.relative import BLOCK_TABLE, SHARED_TABLE, kind_of
from models.pretrained.adapter import find_start
from models.pretrained.formats import Fact, facts_of
from models.pretrained.grids import Grid, grid, stated_grid
from models.pretrained.names import examples, with_own_names
from models.pretrained.rotary import NAME_IT, is_sized, named_eva, stated_eva
from models.pretrained.weights import Weights
from models.pretrained.whole_network import network_name
from pipeline.errors import InputError
from pipeline.spec import Size, both_sides
from pipeline.text import count

PATCHES = "patch_embed.proj.weight"
SEARCHED = {PATCHES, "patch_embed.proj.bias", "blocks.0.norm1.weight", "blocks.0.norm1.bias",
            "blocks.0.attn.qkv.weight", "blocks.0.norm2.weight", "blocks.0.mlp.fc1.weight"}  # fmt: skip
PARTS = (
    "norm1.weight",
    "norm1.bias",
    "attn.qkv.weight",
    "attn.proj.weight",
    "attn.proj.bias",
    "norm2.weight",
    "norm2.bias",
)
MLP = "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"
MAY_HAVE = ("attn.qkv.bias", "ls1.gamma", "ls2.gamma", "attn.relative_position_bias_table",
            "attn.rpe_k.lookup_table_weight", *TABLES)  # fmt: skip
SINES = 1e-4
"""Largest difference of a float32 table of sines from one computed in float64; half precision has 5e-4."""


def with_encoder_of_start(recipe: Recipe) -> tuple[Recipe, str | None]:
    """Replace an encoder named auto by the one that run.start holds; -> the recipe, and a line about what was read.

    Another recipe is returned as it is, with None. Weights of a classifier of timm are named by a timm name, by the
    config.json beside them, or by the recipe of their run.

    Raises InputError for weights that cannot be found or read, that are of no plain ViT, and for a number of heads,
    activation or epsilon that differs from what the source states.
    """
    if recipe.encoder.name != AUTO:
        return recipe, None
    found = find_start(str(recipe.run.start))
    if (known := network_name(found)) is not None:
        name, stem = known
        said = f"network of {found.where} ({found.what}): timm's {name}"
        return replace(recipe, encoder=replace(recipe.encoder, name=name, stem=stem)), said
    found = with_own_names(found, SEARCHED)
    encoder, said = read_encoder(found, recipe.encoder, recipe.data.size)
    return replace(recipe, encoder=encoder), said


def read_encoder(found: Weights, asked: Encoder, size: Size | None = None) -> tuple[Encoder, str]:
    """Read the encoder of weights under timm's names (models.pretrained.names); -> it, and a line about it.

    asked  encoder.name auto, with heads, act and norm_eps where the user gave them; pool, fc_norm, drop_path, attention
           and checkpointing are kept as far as the encoder has what they need
    size   of the images of the run, whose grid is tried where the source does not say of which its positions are
    """
    held = found.tensors
    width, patch = _patches(found)
    if (name := named_eva(found)) is not None:
        return _named(found, asked, name, width, patch)
    depth = _depth(found)
    facts = facts_of(found, width)
    heads, act = _chosen("heads", asked.heads, facts.heads, found), _chosen("act", asked.act, facts.act, found)
    eps = _chosen("norm_eps", asked.norm_eps, facts.norm_eps, found)
    if (kind := kind_of(held)) == "none" and _is_rope(found):
        kind = "rope"
    if kind == "none" and not found.recipe:
        raise InputError(
            f"{found.where} ({found.what}) holds no positions, so they are computed, and it does not say how; {NAME_IT}"
            f"; it holds {examples(held)}"
        )
    if kind in ("bias", "block_bias"):
        table = held[SHARED_TABLE if kind == "bias" else f"blocks.0.{BLOCK_TABLE}"]
        heads = Fact(table.shape[-1], stated=True)
    if width % heads.value:
        raise InputError(f"{found.where}: expected heads that divide a width of {width}, got {heads.value}")
    swiglu = _swiglu(found, width)
    if act.value is None and not swiglu:
        raise InputError(f"{found.where} ({facts.form.name}) has an MLP whose activation is none of GELU's kinds")
    prefix = ("cls_token" in held) + _registers(held)
    encoder = replace(
        asked,
        name=None,
        width=width,
        depth=depth,
        heads=heads.value,
        patch=patch,
        position=_position(held, kind, asked.position, prefix),
        layer_scale=_layer_scale(held),
        mlp="swiglu" if swiglu else "plain",
        mlp_width=len(held["blocks.0.mlp.fc1.weight"]),
        act=None if swiglu or act.value == "gelu" else act.value,
        norm_eps=None if eps.value == 1e-6 else eps.value,
        norm_pre="norm_pre.weight" in held,
        qkv_bias="blocks.0.attn.qkv.bias" in held,
        class_token="cls_token" in held,
        registers=_registers(held),
        prefix_positions=_prefix_positions(found, prefix, None if size is None else grid(both_sides(size), patch)),
    )
    encoder = _pooled(encoder, held)
    told = {"heads": heads, "norm_eps": eps} | ({} if swiglu else {"act": act})
    return encoder, _said(found, encoder, facts.form.name, told)


def _is_rope(found: Weights) -> bool:
    """Whether a source without absolute positions is DINOv3, by its form, its architecture or its recipe."""
    stated, recipe = stated_eva(found), found.recipe.get("encoder")
    if stated is not None:
        return is_sized(stated)
    if isinstance(recipe, Mapping):
        return recipe.get("position") == "rope"
    return found.form is not None and found.form.name == "DINOv3"


def _named(found: Weights, asked: Encoder, name: str, width: int, patch: int) -> tuple[Encoder, str]:
    """The encoder that has a name in timm, and a line about it."""
    facts = facts_of(found, width)
    for each in ("heads", "act", "norm_eps"):
        _chosen(each, getattr(asked, each), getattr(facts, each), found)
    encoder = replace(asked, name=name, heads=None, act=None, norm_eps=None, patch=patch, position="learned")
    encoder = replace(encoder, class_token="cls_token" in found.tensors)
    encoder = replace(_pooled(encoder, found.tensors), class_token=True)
    return encoder, f"encoder of {found.where} ({found.what}): timm's {name}, patches of {patch}, pool {encoder.pool}"


def _patches(found: Weights) -> tuple[int, int]:
    """Width and patch of the encoder."""
    weight = found.tensors.get(PATCHES)
    if weight is None or weight.ndim != 4 or weight.shape[1] != 3 or weight.shape[2] != weight.shape[3]:
        came = "nothing" if weight is None else f"shape {list(weight.shape)}"
        raise InputError(f"{found.where}: expected {PATCHES} of square patches of 3 channels, got {came}")
    if not weight.numel():
        raise InputError(f"{found.where}: {PATCHES} is empty, of shape {list(weight.shape)}")
    return weight.shape[0], weight.shape[2]


def _depth(found: Weights) -> int:
    """How many blocks there are. Raises InputError unless each has the parts of a plain ViT's, and no other."""
    held = found.tensors
    numbers = {int(match[1]) for name in held if (match := re.match(r"blocks\.(\d+)\.", name))}
    depth = max(numbers, default=-1) + 1
    wanted = {f"blocks.{number}.{part}" for number in range(depth) for part in (*PARTS, *MLP)}
    missing = sorted(wanted - held.keys())
    more = [name for name in held if name.startswith("blocks.") and name not in wanted
            and name.split(".", 2)[2] not in MAY_HAVE]  # fmt: skip
    if not depth or missing or more:
        why = f"no {missing[0]}" if missing else f"{more[0]} {list(held[more[0]].shape)}" if more else "no blocks"
        raise InputError(
            f"{found.where} ({found.what}) has {why}, and a plain ViT's blocks have {', '.join((*PARTS, *MLP))}; it "
            f"holds {examples(held)}"
        )
    return depth


def _chosen(name: str, asked, fact: Fact, found: Weights) -> Fact:
    if asked is None or asked == fact.value:
        return fact if asked is None else Fact(asked, stated=True)
    if fact.stated:
        raise InputError(
            f"{found.where} says that encoder.{name} is {fact.value}, got {asked}; leave encoder.{name} out"
        )
    return Fact(asked, stated=True)


def _swiglu(found: Weights, width: int) -> bool:
    first, second = (found.tensors[f"blocks.0.{name}"] for name in ("mlp.fc1.weight", "mlp.fc2.weight"))
    shapes = list(first.shape), list(second.shape)
    if first.ndim == second.ndim == 2 and first.shape[1] == second.shape[0] == width:
        if first.shape[0] == second.shape[1]:
            return False
        if first.shape[0] == 2 * second.shape[1]:
            return True
    raise InputError(
        f"{found.where}: expected the two layers of an MLP or of SwiGLU for a width of {width}, got {shapes[0]} and "
        f"{shapes[1]}"
    )


def _registers(held: Mapping[str, Tensor]) -> int:
    return held["reg_token"].shape[1] if "reg_token" in held and held["reg_token"].ndim == 3 else 0


def _layer_scale(held: Mapping[str, Tensor]) -> float | None:
    """An initial value for LayerScale, which the source's factors replace; None without such."""
    return 1e-5 if "blocks.0.ls1.gamma" in held else None


def _position(held: Mapping[str, Tensor], kind: str, asked: str, prefix: int) -> str:
    """The kind of positions; sincos, which are not trained, where a recipe has these and the table is one of sines."""
    if kind != "learned or sincos":
        return kind
    table = held["pos_embed"]
    return "sincos" if asked == "sincos" and _sines(table, prefix) else "learned"


def _sines(table: Tensor, prefix: int) -> bool:
    side = isqrt(max(0, table.shape[1] - prefix)) if table.ndim == 3 else 0
    if not side or side**2 + prefix != table.shape[1] or table.shape[2] % 4:
        return False
    sines = torch.cat([torch.zeros(prefix, table.shape[2]), sincos_2d(table.shape[2], (side, side)).float()])
    return float((table[0].float() - sines).abs().max()) < SINES


def _prefix_positions(found: Weights, prefix: int, own: Grid | None) -> bool:
    """Whether the positions have rows for the prefix: by the source's grid, else by the run's own where it is no square
    and fits, else by which number is a square."""
    table = found.tensors.get("pos_embed")
    if table is None or not prefix:
        return True
    if table.ndim != 3:
        raise InputError(f"{found.where}: expected pos_embed of 3 dimensions, got {list(table.shape)}")
    rows, stated = table.shape[1], stated_grid(found)
    for known in (stated, own if own is not None and own[0] != own[1] else None):
        if known is not None and rows in (prod(known), prod(known) + prefix):
            return rows != prod(known)
    return isqrt(max(0, rows - prefix)) ** 2 == rows - prefix or isqrt(rows) ** 2 != rows


def _pooled(encoder: Encoder, held: Mapping[str, Tensor]) -> Encoder:
    """The encoder with a pooling that it can have, and the final norm where the source has it."""
    if "norm.weight" not in held and "fc_norm.weight" in held:
        encoder = replace(encoder, fc_norm=True, pool="avg" if encoder.pool == "token" else encoder.pool)
    if encoder.pool == "token" and not encoder.class_token:
        encoder = replace(encoder, pool="map" if "attn_pool.latent" in held else "avg")
    return encoder


def _said(found: Weights, encoder: Encoder, form: str, told: Mapping[str, Fact]) -> str:
    """The line about what was read, and which of it the source does not state."""
    tokens = ["a class token" if encoder.class_token else "no class token"]
    tokens += [count(encoder.registers, "register")] if encoder.registers else []
    parts = [
        f"{count(encoder.depth or 0, 'block')} of width {encoder.width} with {count(encoder.heads or 0, 'head')}",
        f"patches of {encoder.patch}",
        *tokens,
        f"{encoder.position} positions",
        *(["LayerScale"] if encoder.layer_scale is not None else []),
        *(["SwiGLU"] if encoder.mlp == "swiglu" else [encoder.act or "gelu"]),
        *(["a norm before the blocks"] if encoder.norm_pre else []),
        *(["no biases of queries, keys and values"] if not encoder.qkv_bias else []),
        *(["the final norm behind the pooling"] if encoder.fc_norm else []),
        f"pool {encoder.pool}",
    ]
    assumed = [f"{name} {fact.value}" for name, fact in told.items() if not fact.stated]
    taken = f"; not stated, taken as in {form}: {', '.join(assumed)} (--encoder.heads, ...)" if assumed else ""
    return f"encoder of {found.where} ({found.what}): {', '.join(parts)}{taken}"
