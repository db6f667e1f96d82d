"""Pretrained weights, with what is known of their source."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from models.encoder.patches import Normalisation


@final
@dataclass(frozen=True)
class Format:
    """A released format, and what its files have been released with.

    sure   whether all of them were trained on images of that normalisation
    heads  by width, where they differ from those of other formats
    """

    name: str
    normalisation: Normalisation
    sure: bool = True
    act: str = "gelu"
    norm_eps: float = 1e-6
    heads: Mapping[int, int] = field(default_factory=dict)


@final
@dataclass(frozen=True, eq=False)
class Weights:
    """Tensors by name, and their source.

    where          the file or name, for messages
    what           kind of source, in words, such as "mae:digits, step 300"
    others         a run's other tensors, by its method's names: masked branch, heads
    normalisation  of the images that the weights were trained on; None if the source does not say
    classes        names of the classes, in the order of the classifier's rows; None if the source does not say
    target         what a masked branch was trained to predict; None if the source does not say
    config         the source's config.json; {} without one
    grid           patches down and across that its positions are of; None if the source does not say
    recipe         a run's or its export's recipe as JSON; {} of others
    form           the format that its names show; None before they were brought to timm's (models.pretrained.formats)
    architecture   the timm name whose architecture the source says it has, with model_args in `config`; None without
    rotary         the names that tell that its encoder is rotary (models.pretrained.rotary); None where none does
    """

    tensors: dict[str, Tensor]
    where: str
    what: str
    others: dict[str, Tensor] = field(default_factory=dict)
    normalisation: Normalisation | None = None
    classes: tuple[str, ...] | None = None
    target: str | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    grid: tuple[int, int] | None = None
    recipe: Mapping[str, object] = field(default_factory=dict)
    form: Format | None = None
    architecture: str | None = None
    rotary: str | None = None


def summarise(names: Iterable[str]) -> str:
    """Names grouped by their first part, with the size of each group: "decoder_blocks.* (12), mask_token"."""
    parts = Counter(name.split(".")[0] + (".*" if "." in name else "") for name in names)
    return ", ".join(part if count == 1 and "." not in part else f"{part} ({count})" for part, count in parts.items())
