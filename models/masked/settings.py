"""Settings of masked branches: Reconstruct, which MAE, SimMIM and LoMaR share, and Cross, CrossMAE's."""

from dataclasses import dataclass
from typing import Annotated, Literal

from models.masked.targets.target import Error, Kind
from pipeline.flags import AT_LEAST_1, SHARE


@dataclass(frozen=True)
class Reconstruct:
    """The decoder's size and its target; defaults are MAE's (Table 1a, b, c, d)."""

    depth: Annotated[int, AT_LEAST_1] = 8
    width: Annotated[int, AT_LEAST_1] = 512
    heads: Annotated[int, AT_LEAST_1] = 16
    target: Kind = "pixel"
    """norm_pix: each patch is normalised by its own mean and spread. pca: its largest principal components. tokens:
    the codes of a tokenizer."""
    target_file: str | None = None
    """pca: what `python -m models.masked.fit_pca` wrote. tokens: what `python -m models.masked.fit_vq` wrote, or
    DALL-E's weights (models.masked.targets.dall_e). A checkpoint holds what was read from it; a run that carries on
    still reads the file first."""
    patches: Literal["hidden", "all"] = "hidden"
    """Which patches the loss is a mean over."""
    error: Error | None = None
    """How pixels are compared; when absent as the branch's paper does: absolute in SimMIM, squared in every other."""
    encoder_mask_tokens: bool = False
    """Give the encoder, too, a learned token in the place of each hidden patch (Table 1c, "encoder w/ [M]"): several
    times the FLOPs, and worse."""


@dataclass(frozen=True)
class Cross:
    """CrossMAE's decoder: hidden patches do not attend to each other, so any number of them may be predicted."""

    depth: Annotated[int, AT_LEAST_1] = 12
    width: Annotated[int, AT_LEAST_1] = 512
    heads: Annotated[int, AT_LEAST_1] = 16
    every_layer: bool = True
    """Each block attends to a learned mix of all the encoder's layers ("inter-block attention"), not to its output
    alone."""
    predict: Annotated[float, SHARE] = 0.25
    """Share of all patches that is predicted, drawn among the hidden; at most data.mask.ratio, which predicts all."""
    target: Kind = "norm_pix"
    """norm_pix: each patch is normalised by its own mean and spread. pixel: as it is. pca: its largest principal
    components. tokens: the codes of a tokenizer."""
    target_file: str | None = None
    """pca: what `python -m models.masked.fit_pca` wrote. tokens: what `python -m models.masked.fit_vq` wrote, or
    DALL-E's weights."""
