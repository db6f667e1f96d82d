"""Pairs of images made into one, with the share that each has in it; torch draws, so the step's seed says how."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.distributions import Beta

from models.encoder.patches import IMAGENET, Normalisation, as_normalised
from models.encoder.vit import normalisation_of
from pipeline.batch import Labelled
from pipeline.concurrency.transfer import send


class Pairs(NamedTuple):
    """What becomes of each of N images: its partner i64 [N], its share of the mixture float [N], whether the partner
    enters by a rectangle bool [N], and where that is centred, float [N, 2], in units of the image's side.
    """

    partners: Tensor
    shares: Tensor
    cut: Tensor
    centres: Tensor


def confident_pairs(confidence: Tensor) -> Pairs:
    """Probabilistic pseudo mixup (Semi-ViT: Cai et al. 2022, authors' code): an image's share is its confidence (float
    [N]) over that of both; partners by a random permutation, half of the pairs by a rectangle.

    Partners come from the same micro-batch; like dropped paths, which they are depends on how a step is cut.
    """
    n, device = len(confidence), confidence.device
    partners = torch.randperm(n, device=device)
    shares = confidence / (confidence + confidence[partners])
    cut = torch.rand(n, device=device) < 0.5
    return Pairs(partners, shares, cut, torch.rand(n, 2, device=device, dtype=confidence.dtype))


def random_pairs(images: int, mixup: float, cutmix: float, device: torch.device) -> Pairs:
    """Mixup and CutMix (Zhang et al. 2018, Yun et al. 2019): shares of Beta(mixup, mixup), and by a rectangle of
    Beta(cutmix, cutmix), half of the pairs each where both are above 0; drawn for each image, as timm's mode "elem".
    """
    cut = torch.rand(images) < (0.5 if mixup and cutmix else float(cutmix > 0))
    each = [Beta(a, a).sample((images,)) if a else torch.ones(images) for a in (mixup, cutmix)]
    pairs = Pairs(torch.randperm(images), torch.where(cut, each[1], each[0]), cut, torch.rand(images, 2))
    return Pairs(*(send(drawn, device) for drawn in pairs))


def batch_pairs(images: int, mixup: float, cutmix: float, device: torch.device) -> Pairs:
    """The same, one draw for all of them, each image paired with the one as far from the other end: timm's mode
    "batch", with which DeiT trains and MAE fine-tunes.

    A batch here is a micro-batch, as in timm: how a step is cut shows in what is drawn.
    """
    one = random_pairs(1, mixup, cutmix, torch.device("cpu"))
    shares, cut, centres = (each.expand(images, *each.shape[1:]) for each in one[1:])
    pairs = Pairs(torch.arange(images).flip(0), shares, cut, centres)
    return Pairs(*(send(drawn, device) for drawn in pairs))


def mix(
    images: Tensor, pairs: Pairs, rows: Tensor | None = None, normalisation: Normalisation = IMAGENET
) -> tuple[Tensor, Tensor]:
    """Mixtures of images u8 [N, 3, H, W], normalised, float [n, 3, H, W], and the first images' final shares [n].

    rows  i64 [n]  which of the mixtures to make; None means all

    A rectangle covers the partner's share of the area where it is inside of the image, and counts for what is.
    """
    if rows is None:
        rows = torch.arange(len(images), device=images.device)
    partners, shares, cut, centres = (each[rows] for each in pairs)
    inside = rectangle(shares, centres, *images.shape[-2:]) & cut[:, None, None]
    left = 1 - inside.to(shares.dtype).mean((1, 2))
    shares = torch.where(cut, left, shares)
    weights = torch.where(cut[:, None, None], (~inside).to(shares.dtype), shares[:, None, None])
    own, others = (as_normalised(images[which], normalisation) for which in (rows, partners))
    return torch.lerp(others, own, weights[:, None].to(own.dtype)), shares


def rectangle(shares: Tensor, centres: Tensor, height: int, width: int) -> Tensor:
    """bool [n, H, W]: a rectangle of (1 - shares) of the area, the image's form, whole pixels, cut at the border."""
    sides = (1 - shares).sqrt()
    spans = []
    for axis, size in enumerate((height, width)):
        half = (sides * size).floor() // 2
        centre = (centres[:, axis] * size).floor()
        at = torch.arange(size, device=shares.device)
        spans.append((at >= (centre - half)[:, None]) & (at < (centre + half)[:, None]))
    return spans[0][:, :, None] & spans[1][:, None, :]


def mixed_targets(targets: Tensor, pairs: Pairs, rows: Tensor | None, shares: Tensor, classes: int) -> Tensor:
    """Distributions [n, C] of mixtures, from the images' classes i64 [N] or distributions float [N, C]."""
    if not targets.is_floating_point():
        empty = torch.zeros(len(targets), classes, dtype=shares.dtype, device=targets.device)
        targets = empty.scatter_(1, targets[:, None], 1.0)
    own, others = (targets, targets[pairs.partners]) if rows is None else (targets[rows], targets[pairs.partners[rows]])
    return shares[:, None] * own + (1 - shares[:, None]) * others


def mixed(
    known: Labelled,
    encoder: VisionTransformer,
    draw: Callable[[int, float, float, torch.device], Pairs],
    mixup: float,
    cutmix: float,
) -> tuple[Tensor, Tensor]:
    """Labelled images and labels i64 [N]; or, where one of mixup and cutmix is above 0, mixtures float [N, 3, H, W] in
    the pairs that `draw` makes (random_pairs, batch_pairs), and distributions float [N, C]."""
    if not mixup and not cutmix:
        return known.images, known.labels
    pairs = draw(len(known.images), mixup, cutmix, known.images.device)
    images, shares = mix(known.images, pairs, None, normalisation_of(encoder))
    return images, mixed_targets(known.labels, pairs, None, shares, encoder.num_classes)
