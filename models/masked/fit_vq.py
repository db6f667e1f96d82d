"""Find a codebook of typical patches.  python -m models.masked.fit_vq FILE.beton --out vq.pt

Then: python train.py mae:in1k_b16 --method.reconstruct.target tokens --method.reconstruct.target-file vq.pt
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from torch import Tensor

from models.masked.targets.file import check_out, write
from models.masked.targets.fitting import Patches, Sample, opened
from models.masked.targets.kmeans import kmeans
from models.masked.targets.vq import nearest
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.text import percent


@dataclass(frozen=True)
class Arguments:
    """Fit a small tokenizer for the target "tokens": k-means of patches, minutes on a CPU. It codes patches one by one,
    unlike the dVAE of MAE's Table 1d."""

    sample: Annotated[Sample, tyro.conf.arg(name="")]
    out: str = "vq.pt"
    """File to write."""
    codes: int = 512
    """How many codes."""
    patches: int = 100_000
    """Patches to fit on, drawn from those of all the images."""
    seed: int = 0


def main() -> None:
    """Fit, write, and print how much of the variance the codes explain, and how evenly they are used."""
    a = parse(Arguments, prog="python -m models.masked.fit_vq")
    if a.codes < 2 or a.seed < 0:
        raise InputError(f"--codes is 2 or more and --seed 0 or more, got {a.codes}, {a.seed}")
    patches = opened(a.sample)
    out = check_out(a.out)  # after opening, which makes the embedded digits' folder
    if min(a.patches, patches.count) < a.codes:
        raise InputError(
            f"{a.codes} codes need as many patches, got {min(a.patches, patches.count)}; raise --patches or --images"
        )
    generator = torch.Generator().manual_seed(a.seed)
    pixels = sampled(patches, a.patches, generator)
    codebook = kmeans(pixels, a.codes, generator)
    write(out, "vq", {"codebook": codebook, "patch": patches.side})
    explained, perplexity = quality(pixels, codebook)
    print(
        f"{out}: {a.codes} codes explain {percent(explained)} of the variance of {len(pixels):,} patches; "
        f"used as evenly as {perplexity:.0f} would be"
    )


def sampled(patches: Patches, most: int, generator: torch.Generator) -> Tensor:
    """Draw about `most` of the patches, or all if there are fewer: f32 [n, P] in 0..1."""
    share, kept = most / patches.count, []
    for part in patches.parts:
        if share < 1:
            part = part[torch.rand(len(part), generator=generator) < share]
        kept.append(part.float() / 255)
    return torch.cat(kept)


def quality(pixels: Tensor, codebook: Tensor) -> tuple[float, float]:
    """Compute the share of variance that the codes explain, and the perplexity of their use: how many codes, used
    equally often, would have the same entropy."""
    found = nearest(pixels, codebook)
    error, variance = (pixels - codebook[found]).square().sum(), (pixels - pixels.mean(0)).square().sum()
    used = torch.bincount(found, minlength=len(codebook)) / len(found)
    return 1 - float(error / variance), float(torch.special.entr(used).sum().exp())


if __name__ == "__main__":
    command(main)
