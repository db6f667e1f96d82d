"""Layout: which rows of a packed token matrix belong to which sample."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Shapes of the groups of a packed matrix: group g has `shapes[g] = (samples, tokens)` rows, sample after sample.

    Layout(((2, 5), (3, 2))).split(x)   # x [16, C] -> [2, 5, C], [3, 2, C]

    It holds Python ints, so that nothing here waits for a GPU.

    drop_path  which groups stochastic depth may touch; None means all
    """

    shapes: tuple[tuple[int, int], ...]
    drop_path: tuple[bool, ...] | None = None

    @property
    def rows(self) -> int:
        """Rows of the packed matrix."""
        return sum(samples * tokens for samples, tokens in self.shapes)

    @property
    def samples(self) -> int:
        """Samples of all groups."""
        return sum(samples for samples, _ in self.shapes)

    @property
    def longest(self) -> int:
        """Tokens of the longest sample; 0 where there is no sample."""
        return max((tokens for samples, tokens in self.shapes if samples), default=0)

    def runs(self) -> tuple[tuple[int, int], ...]:
        """(samples, tokens) with neighbouring groups of equal length joined and empty ones left out: one attention call
        each."""
        return tuple((samples, tokens) for samples, tokens, _ in paired_runs(self, self))

    def split(self, packed: Tensor) -> list[Tensor]:
        """Split (rows, ...) into one (samples, tokens, ...) a group; views, not copies."""
        parts = packed.split([samples * tokens for samples, tokens in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def per_token(self, per_sample: Tensor) -> Tensor:
        """Repeat each sample's entry for its tokens: (samples, ...) -> (rows, ...)."""
        runs = self.runs()
        parts = per_sample.split([samples for samples, _ in runs])
        repeated = [part.repeat_interleave(tokens, 0) for part, (_, tokens) in zip(parts, runs, strict=True)]
        return repeated[0] if len(repeated) == 1 else torch.cat(repeated)

    def trimmed(self, keep: tuple[int, ...]) -> "Layout":
        """The layout of the first keep[g] tokens of each sample of group g."""
        shapes = tuple((samples, first) for (samples, _), first in zip(self.shapes, keep, strict=True))
        return Layout(shapes, self.drop_path)

    def cu_seqlens(self, device: torch.device) -> Tensor:
        """i32 [samples + 1]: the row at which each sample starts, then `rows`; the argument of varlen attention."""
        if torch.compiler.is_compiling():
            return _starts(self, device)
        return _cached_starts(self, device)


def kept_rows(layout: Layout, keep: tuple[int, ...] | None) -> tuple[Layout, Layout]:
    """The layout before and after trimming to the first keep[g] tokens of each sample; None keeps all."""
    if torch.compiler.is_compiling():
        layout = Layout(tuple((samples, constant(tokens)) for samples, tokens in layout.shapes), layout.drop_path)
        keep = None if keep is None else tuple(constant(first) for first in keep)
    return layout, layout if keep is None else layout.trimmed(keep)


def constant(number: int) -> int:
    """The number itself; where a graph is traced, a constant of it."""
    # Numbers of samples vary from step to step and may be symbols of a graph. Lengths must not be: two symbols for one
    # length make torch 2.13's inductor write code with an undefined name. Dynamo takes a list's length as a constant
    return len([None] * number)


def paired_runs(queries: Layout, keys: Layout) -> list[tuple[int, int, int]]:
    """(samples, query tokens, key tokens) of each run, for two layouts of the same samples."""
    runs: list[tuple[int, int, int]] = []
    for (samples, first), (_, tokens) in zip(queries.shapes, keys.shapes, strict=True):
        if samples == 0:
            continue
        if runs and runs[-1][1:] == (first, tokens):
            runs[-1] = (runs[-1][0] + samples, first, tokens)
        else:
            runs.append((samples, first, tokens))
    return runs


def _starts(layout: Layout, device: torch.device) -> Tensor:
    parts, start = [], 0
    for samples, tokens in layout.runs():
        parts.append(torch.arange(samples, dtype=torch.int32, device=device) * tokens + start)
        start += samples * tokens
    # made on the device from host ints, because a copy from the host would have to be waited for
    return torch.cat([*parts, torch.full((1,), start, dtype=torch.int32, device=device)])


@lru_cache(maxsize=64)
def _cached_starts(layout: Layout, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor born in inference mode could not be saved for a later backward
        return _starts(layout, device)
