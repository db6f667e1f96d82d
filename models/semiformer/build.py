"""Build the Semiformer that a recipe describes, and refuse recipes that a Semiformer cannot be built of."""

from dataclasses import fields

import torch
from torch import nn

from models.config.recipe import Recipe
from models.encoder.patches import check_divides
from models.encoder.positions import sincos_2d
from models.semiformer.model import Semiformer, Shape
from pipeline.errors import InputError
from pipeline.spec import both_sides

SMALL = "semiformer_small"
FIELDS = {"name", "width", "depth", "heads", "patch", "position", "drop_path", "attention"}
"""Fields of recipe.encoder that a Semiformer reads; the others must be left at their defaults."""
PATCHES = (4, 8, 16)


def build_semiformer(recipe: Recipe, classes: int, *, channels: int, double_class_token: bool) -> Semiformer:
    """Build the Semiformer of encoder.name "semiformer_small", or of a width, depth and heads, with `channels`.

    model = build_semiformer(recipe, classes=10, channels=256, double_class_token=True)

    encoder.position  "none" (Weng et al.), "learned" (their Semiformer_PE), or MAE's "sincos", added to the tokens

    Raises InputError for fields of the encoder that a ViT has and a Semiformer has not.
    """
    e, size = recipe.encoder, recipe.data.size
    check(recipe)
    if e.name == SMALL:
        shape = Shape(channels=channels)
    else:
        assert e.width and e.depth and e.heads  # noqa: PT018 -- a recipe names an encoder or gives all three
        shape = Shape(e.width, e.depth, e.heads, channels)
    check_shape(shape)
    check_divides(e.patch, size)
    height, width = both_sides(size)
    grid = (height // e.patch, width // e.patch)
    model = Semiformer(
        shape,
        patch=e.patch,
        grid=grid,
        classes=classes,
        drop_path=e.drop_path,
        double_class_token=double_class_token,
    )
    if e.position != "none":
        model.pos_embed = positions(e.position, shape.width, grid)
    for block in model.blocks:
        block.attention = e.attention
    return model


def positions(kind: str, width: int, grid: tuple[int, int]) -> nn.Parameter:
    """Make positions [1, 1 + L, width]: learned ones, which start as timm's, or MAE's table, which is not trained."""
    if kind == "learned":
        return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + grid[0] * grid[1], width), std=0.02))
    table = torch.cat([torch.zeros(1, width), sincos_2d(width, grid).float()])
    return nn.Parameter(table[None], requires_grad=False)


def check(recipe: Recipe) -> None:
    """Raise InputError for settings of a ViT that a Semiformer does not have."""
    e = recipe.encoder
    if e.name not in (None, SMALL):
        raise InputError(f"encoder.name is {e.name}; set {SMALL}, or None and encoder.width, depth and heads")
    if e.patch not in PATCHES:
        raise InputError(f"encoder.patch is {e.patch}, and the stem is one for patches of 4, 8 or 16 pixels; set one")
    if e.position not in ("none", "learned", "sincos"):
        raise InputError(f"encoder.position is {e.position}; a Semiformer has none, learned or sincos ones; set one")
    for field in fields(e):
        if field.name not in FIELDS and (value := getattr(e, field.name)) != field.default:
            raise InputError(
                f"encoder.{field.name} is {value}, which a Semiformer does not have; leave it at {field.default}"
            )
    if recipe.optim.layer_decay is not None:
        raise InputError("optim.layer_decay needs one stack of layers and a Semiformer has two; leave it at None")
    if recipe.run.shard:
        raise InputError("run.shard spreads ViTs; a Semiformer has convolutions outside of blocks; drop --run.shard")


def check_shape(shape: Shape) -> None:
    """Raise InputError for a size that cannot be built."""
    if shape.width % shape.heads:
        raise InputError(f"heads divide the width, got width {shape.width} and {shape.heads} heads")
    if shape.depth < 2:
        raise InputError(f"encoder.depth is {shape.depth}; the first stage is uncoupled, so set 2 or more")
    if shape.channels < 4 or shape.channels % 4:
        raise InputError(f"method.channels is {shape.channels}; a bottleneck has a quarter; set a multiple of 4")
