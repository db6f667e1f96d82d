"""Find the principal components of patches.  python -m models.masked.fit_pca FILE.beton --out pca.pt

Then: python train.py mae:in1k_b16 --method.reconstruct.target pca --method.reconstruct.target-file pca.pt
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import tyro
from torch import Tensor

from models.encoder.patches import IMAGENET, normalised
from models.masked.targets.file import check_out, write
from models.masked.targets.fitting import Sample, opened
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.text import percent

DOUBLE = torch.float64


@dataclass(frozen=True)
class Arguments:
    """Fit the target "pca": the largest principal components of normalised patches."""

    sample: Annotated[Sample, tyro.conf.arg(name="")]
    out: str = "pca.pt"
    """File to write."""
    coefficients: int | None = None
    """How many components to keep; an eighth of all when absent, as MAE's 96 of 768 (section 4.1)."""
    whiten: bool = False
    """Let every coefficient weigh the same; by default the larger ones weigh more, as they do in the pixels."""


class Moments(NamedTuple):
    """Number, mean f64 [P] and covariance f64 [P, P] (divided by the number) of patches."""

    count: int
    mean: Tensor
    covariance: Tensor


def main() -> None:
    """Fit, write, and print how much of the variance is kept."""
    a = parse(Arguments, prog="python -m models.masked.fit_pca")
    patches = opened(a.sample)
    out = check_out(a.out)  # after opening, which makes the embedded digits' folder
    wide = 3 * patches.side**2
    keep = wide // 8 if a.coefficients is None else a.coefficients
    if not 1 <= keep <= wide:
        raise InputError(f"--coefficients is {keep}; patches of {patches.side} pixels have 1 to {wide}")
    found = moments(normalised(each, torch.float32).to(DOUBLE) for each in patches.parts)
    mean, basis, scale, kept = components(found, keep, whiten=a.whiten)
    write(
        out,
        "pca",
        {
            "mean": mean.float(),
            "basis": basis.float(),
            "scale": scale.float(),
            "patch": patches.side,
            "mean_rgb": list(IMAGENET.mean),
            "std_rgb": list(IMAGENET.std),
        },
    )
    print(f"{out}: {keep} of {wide} components hold {percent(kept)} of the variance of {found.count:,} patches")


def moments(parts: Iterable[Tensor]) -> Moments:
    """Compute mean and covariance of patches f64 [n, P] that come part by part; at most two parts are in memory.

    Raises InputError if there are fewer than two patches.
    """
    count, shift = 0, None
    for part in parts:
        if shift is None:  # near the mean, so that sums of squares about it lose no digits
            shift = part.mean(0)
            total, products = torch.zeros_like(shift), torch.zeros(len(shift), len(shift), dtype=DOUBLE)
        part = part - shift
        count, total, products = count + len(part), total + part.sum(0), products.addmm_(part.T, part)
    if shift is None or count < 2:
        raise InputError(f"a covariance needs two patches or more, got {count}; raise --images")
    mean = total / count
    return Moments(count, shift + mean, products / count - mean[:, None] * mean)


def components(found: Moments, keep: int, *, whiten: bool = False) -> tuple[Tensor, Tensor, Tensor, float]:
    """Compute mean [P], basis [P, keep] and scale [keep] for models.masked.targets.pca.PCA, and the share of variance
    that is kept.

    With this scale predicting the mean costs what it costs in pixels: the total variance over P.
    Raises InputError if the patches vary in fewer directions.
    """
    values, vectors = torch.linalg.eigh(found.covariance)
    values, vectors = values.flip(0), vectors.flip(1)
    varied = int((values > 1e-9 * values[0]).sum()) if values[0] > 0 else 0
    if varied < keep:
        raise InputError(
            f"the patches vary in {varied} directions only; choose --coefficients {max(varied, 1)} or fewer"
        )
    kept, basis = values[:keep], vectors[:, :keep]
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = basis * largest.sign()  # v and -v are both right; the largest entry is made positive
    pixels = values.mean()
    scale = (kept / pixels).sqrt() if whiten else (kept.mean() / pixels).sqrt().expand(keep)
    return found.mean, basis, scale.clone(), float(kept.sum() / values.sum())


if __name__ == "__main__":
    command(main)
