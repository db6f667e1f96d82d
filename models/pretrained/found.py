"""Weights that were found somewhere, on their way into an encoder."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from models.encoder.patches import Normalisation


@final
@dataclass(frozen=True, eq=False)
class Found:
    """Tensors under timm's names.

    where          the file, for messages
    what           whose it is, in words
    beside         names of what the file holds beyond: decoders, an optimiser's, other heads
    normalisation  of the images that these weights were trained on, where the source says it
    """

    tensors: dict[str, Tensor]
    where: str
    what: str
    beside: tuple[str, ...] = ()
    normalisation: Normalisation | None = None


def counted(names: Iterable[str]) -> str:
    """Names in few words: "decoder_blocks.* (12), mask_token"."""
    parts = Counter(name.split(".")[0] + (".*" if "." in name else "") for name in names)
    return ", ".join(part if count == 1 and "." not in part else f"{part} ({count})" for part, count in parts.items())
