"""Encode groups of images in one pass of a plain timm ViT: pixels of each group in, tokens of each group out.

    labelled, strong, visible = encode(vit, [FullImages(x), SelectedImages(u, rows), VisiblePatches(w, ids)])

Images are u8 [N, 3, H, W], 0..255, normalised here after the gather; or float, taken as normalised already.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import ClassVar

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.encoder.build import Size, build_encoder
from models.encoder.layout import Layout
from models.encoder.packed import Factors, Pairs, Turns, compiled, drop_factors
from models.encoder.patches import (
    IMAGENET,
    Normalisation,
    gather_patches,
    grid_of,
    normalised,
    scale_and_shift,
    scaled,
)  # fmt: skip
from models.encoder.positions import prefix_positions, resampled
from models.encoder.relative import pairs
from models.encoder.rotary import rotations
from models.encoder.timm_classifier import TimmClassifier
from pipeline.errors import InputError

__all__ = ["FullImages", "Group", "MaskedImages", "SelectedImages", "Size", "VisiblePatches",
           "all_drop_factors", "all_turns", "build_encoder", "classifier_inputs", "classify", "embed", "encode",
           "encode_blocks", "encode_every", "eval_logits", "evaluating", "normalisation_of", "run_block"]  # fmt: skip


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class FullImages:
    """A group with every patch of every image: FullImages(images).

    pooled  return the tokens that the classifier reads: with class-token pooling one token an image, else all
    """

    images: Tensor
    pooled: bool = True
    drop_path: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class SelectedImages:
    """A group with every patch of the images `rows` (i64 [n], n may be 0): SelectedImages(images, rows).

    The pixels of other images are not read.

    pooled  return the tokens that the classifier reads, as in FullImages
    """

    images: Tensor
    rows: Tensor
    pooled: bool = True
    drop_path: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class VisiblePatches:
    """A group with the patches `visible` (i64 [N, K]) of each image: VisiblePatches(images, ids).

    The pixels of hidden patches are not read. Stochastic depth leaves the group out, as MAE pre-trains without it.
    """

    images: Tensor
    visible: Tensor
    drop_path: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class MaskedImages:
    """A group in which a mask token stands for some patches: MaskedImages(images, covered, token) (SimMIM, LoMaR).

    The encoder gets the positions of covered patches, and not their pixels.

    covered     bool [n, K]   which of the K patches the token stands for
    mask_token  float [C]     learned; positions are added to it
    ids         i64 [n, K]    which patches, those of a window for example; None means all, in raster order
    rows        i64 [n]       which images; None means all
    drop_path   whether stochastic depth applies to this group
    read        return the prefix and the first so many patches of `ids`; None means all
    """

    images: Tensor
    covered: Tensor
    mask_token: Tensor
    ids: Tensor | None = None
    rows: Tensor | None = None
    drop_path: bool = True
    read: int | None = None


Group = FullImages | SelectedImages | VisiblePatches | MaskedImages


def encode(vit: VisionTransformer | TimmClassifier, groups: Sequence[Group]) -> list[Tensor]:
    """Encode groups: one [n_g, tokens_g, C] a group, final-normed; prefix tokens, then patches in the order of `ids`.

    (tokens,) = encode(vit, [FullImages(images)])

    With class-token pooling a `pooled` group returns its class token alone (tokens_g = 1), a masked one its prefix and
    its `read` patches: the last block computes queries and MLP for these tokens only. The vit's blocks must be packed
    (`build_encoder`, `as_packed`, `as_packed_eva`). A classifier of timm takes groups of whole images, all in one
    forward pass, and returns for each what its classifier pools.
    """
    if isinstance(vit, TimmClassifier):
        return vit.maps([_whole(vit, group) for group in groups])
    x, layout = embed(vit, groups)
    keep = tuple(_tokens_read(vit, group, tokens) for group, (_, tokens) in zip(groups, layout.shapes, strict=True))
    pairs, turns, drops = _pairs(vit, groups), all_turns(vit, groups, layout), all_drop_factors(vit, x, layout)
    for number, block in enumerate(vit.blocks[:-1]):
        x = run_block(vit, block, x, layout, None, pairs, next(turns), drops[number])
    x = run_block(vit, vit.blocks[-1], x, layout, keep, pairs, next(turns), drops[-1])
    return layout.trimmed(keep).split(vit.norm(x))


def encode_every(vit: VisionTransformer, group: Group) -> list[Tensor]:
    """Encode one group and return every layer: the input of the first block and each block's output, depth + 1 of
    [n, tokens, C].

    The last is final-normed, as in `encode`, so that the norm is trained: users of the encoder read it.
    """
    x, layout = embed(vit, [group])
    pairs, turns, drops = _pairs(vit, [group]), all_turns(vit, [group], layout), all_drop_factors(vit, x, layout)
    layers = [x]
    for number, block in enumerate(vit.blocks):
        layers.append(run_block(vit, block, layers[-1], layout, None, pairs, next(turns), drops[number]))
    layers[-1] = vit.norm(layers[-1])
    return [layout.split(layer)[0] for layer in layers]


def encode_blocks(vit: VisionTransformer, group: Group, blocks: Sequence[int]) -> list[Tensor]:
    """Encode one group and return the outputs of some blocks, counted from 1 and ascending: [n, tokens, C] each, not
    normed.

    (half, last) = encode_blocks(vit, FullImages(images, pooled=False), (6, 12))
    """
    x, layout = embed(vit, [group])
    pairs, turns, drops = _pairs(vit, [group]), all_turns(vit, [group], layout), all_drop_factors(vit, x, layout)
    found = []
    for number, block in enumerate(vit.blocks[: blocks[-1]], 1):
        x = run_block(vit, block, x, layout, None, pairs, next(turns), drops[number - 1])
        found += [layout.split(x)[0]] * blocks.count(number)
    return found


def classify(vit: VisionTransformer | TimmClassifier, groups: Sequence[Tensor]) -> list[Tensor]:
    """Classify the tokens of groups -> logits [n_g, classes] of each; the head runs once over all of them.

    (logits,) = classify(vit, encode(vit, [FullImages(images)]))

    Pass the labelled group with the strong one, which may be empty: without a row the head would have no gradient on
    that rank, and DDP would wait for it.
    """
    if isinstance(vit, TimmClassifier):
        return vit.classified(groups)
    pooled = [vit.pool(tokens) for tokens in groups]
    logits = vit.head(vit.head_drop(vit.fc_norm(torch.cat(pooled))))
    return list(logits.split([len(rows) for rows in pooled]))


def classifier_inputs(vit: VisionTransformer | TimmClassifier, groups: Sequence[Tensor]) -> list[Tensor]:
    """Pool the tokens of groups -> [n_g, C] of each: what the classifier's linear layer reads, without dropout.

    (features,) = classifier_inputs(vit, encode(vit, [FullImages(images)]))
    """
    if isinstance(vit, TimmClassifier):
        return vit.features(groups)
    pooled = [vit.pool(tokens) for tokens in groups]
    return list(vit.fc_norm(torch.cat(pooled)).split([len(rows) for rows in pooled]))


def _whole(network: TimmClassifier, group: Group) -> Tensor:
    """The images of a group. Raises InputError for patches, which a classifier of timm cannot be given."""
    match group:
        case FullImages():
            return group.images
        case SelectedImages():
            return group.images[group.rows]
    raise InputError(f"{network.name} reads whole images, and patches were asked for; name a ViT by encoder.name")


@torch.no_grad()
def eval_logits(vit: VisionTransformer | TimmClassifier, images: Tensor) -> Tensor:
    """Compute logits [N, classes] of images in eval mode and without gradient, as teachers and evaluators do."""
    with evaluating(vit):
        return classify(vit, encode(vit, [FullImages(images)]))[0]


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Put a module into eval mode for a while; afterwards each submodule, frozen or not, is in its mode of before."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def embed(vit: VisionTransformer, groups: Sequence[Group]) -> tuple[Tensor, Layout]:
    """Embed the patches of all groups, with one projection: packed tokens [rows, C] with positions and prefix."""
    patch = vit.patch_embed.patch_size[0]
    pixels = [gather_patches(group.images, *_rows_and_ids(group), patch) for group in groups]
    patches = _project(vit, pixels)
    prefix = _prefix(vit)
    packed, shapes = [], []
    for group, tokens in zip(groups, patches, strict=True):
        if isinstance(group, MaskedImages):
            tokens = torch.where(group.covered[..., None], group.mask_token.to(tokens.dtype), tokens)
        tokens = _with_positions(vit, tokens, grid_of(group.images, patch), _rows_and_ids(group)[1])
        if prefix is not None:
            tokens = torch.cat([prefix.expand(tokens.shape[0], -1, -1), tokens], 1)
        packed.append(tokens.flatten(0, 1))
        shapes.append(tokens.shape[:2])
    x = vit.norm_pre(vit.pos_drop(torch.cat(packed)))
    return x, Layout(tuple((int(n), int(k)) for n, k in shapes), tuple(group.drop_path for group in groups))


def _rows_and_ids(group: Group) -> tuple[Tensor | None, Tensor | None]:
    """Which images, i64 [n], and which patches, i64 [n, K], a group reads; None means all."""
    match group:
        case FullImages():
            return None, None
        case SelectedImages():
            return group.rows, None
        case VisiblePatches():
            return None, group.visible
        case MaskedImages():
            return group.rows, group.ids


def _tokens_read(vit: VisionTransformer, group: Group, tokens: int) -> int:
    """How many of each sample's tokens, the first ones, `encode` returns."""
    if isinstance(group, MaskedImages) and group.read is not None:
        return vit.num_prefix_tokens + group.read
    pooled = isinstance(group, FullImages | SelectedImages) and group.pooled
    return 1 if pooled and vit.global_pool == "token" and vit.attn_pool is None else tokens


def run_block(
    vit: VisionTransformer,
    block: nn.Module,
    x: Tensor,
    layout: Layout,
    keep: tuple[int, ...] | None,
    pairs: Pairs,
    turns: Turns,
    drops: tuple[Factors, ...],
) -> Tensor:
    """Run one block on packed rows, [rows, C] -> [rows, C], with checkpointing where the encoder has it."""
    run = partial(block, layout=layout, keep=keep, pairs=pairs, turns=turns, drops=drops)
    if vit.grad_checkpointing and torch.is_grad_enabled():
        return checkpoint(run, x, use_reentrant=False)
    return run(x)


def all_drop_factors(vit: VisionTransformer, x: Tensor, layout: Layout) -> list[tuple[Factors, ...]]:
    """The factors of stochastic depth of each block's two branches, all drawn in one call."""
    parts = [part for block in vit.blocks for part in (block.drop_path1, block.drop_path2)]
    factors = drop_factors(parts, x, layout)
    return list(zip(factors[::2], factors[1::2], strict=True))


def _pairs(vit: VisionTransformer, groups: Sequence[Group]) -> Pairs:
    if not vit.blocks[0].relative:
        return None
    patch = vit.patch_embed.patch_size[0]
    return tuple(
        pairs(vit, grid_of(group.images, patch), _rows_and_ids(group)[1], group.images.device) for group in groups
    )


def all_turns(vit: VisionTransformer, groups: Sequence[Group], layout: Layout) -> Iterator[Turns]:
    """The sines and cosines that turn queries and keys of each block; None for each of a plain ViT."""
    if getattr(vit, "rope", None) is None:
        return repeat(None)
    patch = vit.patch_embed.patch_size[0]
    return rotations(
        vit,
        [
            (grid_of(group.images, patch), _rows_and_ids(group)[1], samples)
            for group, (samples, _) in zip(groups, layout.shapes, strict=True)
        ],
    )


def _project(vit: VisionTransformer, pixels: list[Tensor]) -> list[Tensor]:
    weight = vit.patch_embed.proj.weight
    flat, normalisation = [part.flatten(0, 1) for part in pixels], normalisation_of(vit)
    if len({part.dtype for part in flat}) > 1:
        flat = [normalised(part, weight.dtype, normalisation) for part in flat]
    x, compiler = torch.cat(flat), vit.blocks[0].compiler
    project = _linear if compiler is None else compiled(_linear, compiler)
    x = project(x, *scale_and_shift(normalisation, x, weight.dtype), weight, vit.patch_embed.proj.bias)
    x = vit.patch_embed.norm(x)
    parts = x.split([len(part) for part in flat])
    return [part.unflatten(0, group.shape[:2]) for part, group in zip(parts, pixels, strict=True)]


def _linear(pixels: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # the convolution is a linear layer on (y, x, channel) pixels: the order of MAE's target and of NHWC storage
    return F.linear(scaled(pixels, scale, shift), weight.permute(0, 2, 3, 1).flatten(1), bias)


def normalisation_of(vit: nn.Module) -> Normalisation:
    """The normalisation of u8 images that `build_encoder` set; ImageNet's for any other timm ViT."""
    return getattr(vit, "normalisation", IMAGENET)


def _prefix(vit: VisionTransformer) -> Tensor | None:
    tokens = [token[0] for token in (vit.cls_token, vit.reg_token) if token is not None]
    if not tokens:
        return None
    prefix = torch.cat(tokens)
    if vit.pos_embed is None or vit.no_embed_class:
        return prefix
    return prefix + vit.pos_embed[0, : vit.num_prefix_tokens]


def _with_positions(vit: VisionTransformer, tokens: Tensor, grid: tuple[int, int], ids: Tensor | None) -> Tensor:
    if vit.pos_embed is None:
        return tokens
    before = prefix_positions(vit)
    positions = resampled(vit.pos_embed, vit.patch_embed.grid_size, grid, before)[0, before:]
    # embedding, as the gradient of positions[ids] is summed by several threads in whatever order they come
    return tokens + (positions if ids is None else F.embedding(ids, positions))
