"""Fit a codebook of patches by k-means."""

import torch
from torch import Tensor

from models.masked.targets.vq import nearest
from pipeline.errors import InputError

CONVERGED = 1e-3  # share of patches that still change their code


def kmeans(patches: Tensor, codes: int, generator: torch.Generator, most: int = 50) -> Tensor:
    """Fit the codebook f32 [codes, P] of patches f32 [n, P]: k-means++, then at most `most` of Lloyd's steps, until few
    patches change their code.

    Raises InputError if there are fewer different patches than codes.
    """
    codebook, before = _first(patches, codes, generator), None
    for _ in range(most):
        found = nearest(patches, codebook)
        if before is not None and (found != before).sum() <= CONVERGED * len(patches):
            break
        codebook, before = _means(patches, found, codebook), found
    return codebook


def _first(patches: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """Draw each code by its squared distance from those before (k-means++, Arthur and Vassilvitskii 2007)."""
    chosen = [patches[torch.randint(len(patches), (), generator=generator)]]
    distance = (patches - chosen[0]).square().sum(1)
    for number in range(1, codes):
        if not distance.any():
            raise InputError(f"only {number} different patches were found; choose --codes {number} or fewer")
        # searchsorted, as multinomial takes no more than 2^24 choices
        mass = distance.double().cumsum(0)
        lot = torch.rand(1, generator=generator, dtype=torch.float64) * mass[-1]
        at = int(torch.searchsorted(mass, lot, right=True).clamp(max=len(patches) - 1))
        chosen.append(patches[at])
        distance = torch.minimum(distance, (patches - chosen[-1]).square().sum(1))
    return torch.stack(chosen)


def _means(patches: Tensor, found: Tensor, codebook: Tensor) -> Tensor:
    """Average each code's patches; codes without any take the patches that are farthest from their codes."""
    counts = torch.bincount(found, minlength=len(codebook))
    sums = torch.zeros_like(codebook).index_add_(0, found, patches)
    means = sums / counts.clamp(min=1)[:, None]
    empty = (counts == 0).nonzero().squeeze(1)
    if len(empty):
        error = (patches - codebook[found]).square().sum(1)
        means[empty] = patches[error.topk(len(empty)).indices]
    return means
