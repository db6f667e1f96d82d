"""Mix pairs of images and their labels: Mixup, CutMix and Semi-ViT's pseudo mixup; torch draws, by the step's seed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.distributions import Beta

from models.encoder.patches import IMAGENET, Normalisation, as_normalised
from models.encoder.vit import normalisation_of
from pipeline.batch import Labelled
from pipeline.concurrency.transfer import to_device


class Pairs(NamedTuple):
    """How each of N images is mixed: its partner i64 [N], its share of the mixture float [N], whether the partner comes
    as a rectangle bool [N], and the centre of that float [N, 2], in units of the image's side.

    images, shares = mix(images, random_pairs(len(images), 0.8, 1.0, images.device))
    """

    partners: Tensor
    shares: Tensor
    cut: Tensor
    centres: Tensor


def confident_pairs(confidence: Tensor) -> Pairs:
    """Draw pairs for probabilistic pseudo mixup (Semi-ViT: Cai et al. 2022, authors' code): an image's share is its
    confidence (float [N]) over that of both; partners by a random permutation, half of the pairs by a rectangle.

    Partners are of the same micro-batch, so that they depend on how a step is cut, as dropped paths do.
    """
    n, device = len(confidence), confidence.device
    partners = torch.randperm(n, device=device)
    shares = confidence / (confidence + confidence[partners])
    cut = torch.rand(n, device=device) < 0.5
    return Pairs(partners, shares, cut, torch.rand(n, 2, device=device, dtype=confidence.dtype))


def random_pairs(images: int, mixup: float, cutmix: float, device: torch.device) -> Pairs:
    """Draw pairs for Mixup and CutMix (Zhang et al. 2018, Yun et al. 2019): shares of Beta(mixup, mixup), or by a
    rectangle of Beta(cutmix, cutmix), half of the pairs each where both are above 0; drawn for each image, as timm's
    mode "elem".
    """
    cut = torch.rand(images) < (0.5 if mixup and cutmix else float(cutmix > 0))
    each = [Beta(a, a).sample((images,)) if a else torch.ones(images) for a in (mixup, cutmix)]
    pairs = Pairs(torch.randperm(images), torch.where(cut, each[1], each[0]), cut, torch.rand(images, 2))
    return Pairs(*(to_device(drawn, device) for drawn in pairs))


def batch_pairs(images: int, mixup: float, cutmix: float, device: torch.device) -> Pairs:
    """Draw one share and rectangle for Mixup and CutMix of all images, image i paired with image N - 1 - i: timm's mode
    "batch", with which DeiT trains and MAE fine-tunes.

    A batch here is a micro-batch, as in timm, so that the draw depends on how a step is cut.
    """
    one = random_pairs(1, mixup, cutmix, torch.device("cpu"))
    shares, cut, centres = (each.expand(images, *each.shape[1:]) for each in one[1:])
    pairs = Pairs(torch.arange(images).flip(0), shares, cut, centres)
    return Pairs(*(to_device(drawn, device) for drawn in pairs))


def mix(
    images: Tensor, pairs: Pairs, rows: Tensor | None = None, normalisation: Normalisation = IMAGENET
) -> tuple[Tensor, Tensor]:
    """Mix images u8 [N, 3, H, W]: normalised mixtures float [n, 3, H, W], and the images' final shares [n].

    rows  i64 [n]  which of the mixtures to make; None means all

    A rectangle has the partner's share of the area. Where it is cut at the border, the final share is the image's real
    share of the pixels.
    """
    if rows is None:
        rows = torch.arange(len(images), device=images.device)
    partners, shares, cut, centres = (each[rows] for each in pairs)
    inside = rectangle(shares, centres, *images.shape[-2:]) & cut[:, None, None]
    left = 1 - inside.to(shares.dtype).mean((1, 2))
    shares = torch.where(cut, left, shares)
    weights = torch.where(cut[:, None, None], (~inside).to(shares.dtype), shares[:, None, None])
    first, second = (as_normalised(images[which], normalisation) for which in (rows, partners))
    return torch.lerp(second, first, weights[:, None].to(first.dtype)), shares


def rectangle(shares: Tensor, centres: Tensor, height: int, width: int) -> Tensor:
    """Mark a rectangle of (1 - shares) of the area, bool [n, H, W]: the image's form, in whole pixels, cut at the
    border."""
    sides = (1 - shares).sqrt()
    spans = []
    for axis, size in enumerate((height, width)):
        half = (sides * size).floor() // 2
        centre = (centres[:, axis] * size).floor()
        at = torch.arange(size, device=shares.device)
        spans.append((at >= (centre - half)[:, None]) & (at < (centre + half)[:, None]))
    return spans[0][:, :, None] & spans[1][:, None, :]


def mixed_targets(targets: Tensor, pairs: Pairs, rows: Tensor | None, shares: Tensor, classes: int) -> Tensor:
    """Mix labels to distributions [n, C], from the images' classes i64 [N] or distributions float [N, C]."""
    if not targets.is_floating_point():
        zeros = torch.zeros(len(targets), classes, dtype=shares.dtype, device=targets.device)
        targets = zeros.scatter_(1, targets[:, None], 1.0)
    partners = targets[pairs.partners if rows is None else pairs.partners[rows]]
    first = targets if rows is None else targets[rows]
    return shares[:, None] * first + (1 - shares[:, None]) * partners


def mixed(
    labelled: Labelled,
    encoder: VisionTransformer,
    draw: Callable[[int, float, float, torch.device], Pairs],
    mixup: float,
    cutmix: float,
) -> tuple[Tensor, Tensor]:
    """Mix labelled images where mixup or cutmix is above 0: mixtures float [N, 3, H, W] of the pairs that `draw`
    (random_pairs, batch_pairs) returns, and distributions float [N, C]; else return images u8 and labels i64 [N]."""
    if not mixup and not cutmix:
        return labelled.images, labelled.labels
    pairs = draw(len(labelled.images), mixup, cutmix, labelled.images.device)
    images, shares = mix(labelled.images, pairs, None, normalisation_of(encoder))
    return images, mixed_targets(labelled.labels, pairs, None, shares, encoder.num_classes)
