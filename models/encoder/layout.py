"""Which rows of a packed token matrix belong to which sample."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Group g holds `shapes[g] = (samples, tokens)`, sample after sample: ints only, so nothing here waits for a GPU.

    drop_path  which groups stochastic depth may touch; None means all
    """

    shapes: tuple[tuple[int, int], ...]
    drop_path: tuple[bool, ...] | None = None

    @property
    def rows(self) -> int:
        return sum(samples * tokens for samples, tokens in self.shapes)

    @property
    def samples(self) -> int:
        return sum(samples for samples, _ in self.shapes)

    @property
    def longest(self) -> int:
        return max((tokens for samples, tokens in self.shapes if samples), default=0)

    def runs(self) -> tuple[tuple[int, int], ...]:
        """Neighbouring groups of equal length joined, empty ones left out: the fewest attention calls."""
        return tuple((samples, tokens) for samples, tokens, _ in paired_runs(self, self))

    def split(self, packed: Tensor) -> list[Tensor]:
        """(rows, ...) -> one (samples, tokens, ...) a group; views, not copies."""
        parts = packed.split([samples * tokens for samples, tokens in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def per_token(self, per_sample: Tensor) -> Tensor:
        """(samples, ...) -> (rows, ...): each sample's entry repeated for its tokens."""
        runs = self.runs()
        parts = per_sample.split([samples for samples, _ in runs])
        repeated = [part.repeat_interleave(tokens, 0) for part, (_, tokens) in zip(parts, runs, strict=True)]
        return repeated[0] if len(repeated) == 1 else torch.cat(repeated)

    def trimmed(self, keep: tuple[int, ...]) -> "Layout":
        """The layout once only the first keep[g] tokens of each sample of group g are left."""
        shapes = tuple((samples, first) for (samples, _), first in zip(self.shapes, keep, strict=True))
        return Layout(shapes, self.drop_path)

    def cu_seqlens(self, device: torch.device) -> Tensor:
        """i32 [samples + 1]: the row at which each sample starts, then `rows`; what varlen attention asks for."""
        if torch.compiler.is_compiling():
            return _starts(self, device)
        return _cached_starts(self, device)


def kept_rows(layout: Layout, keep: tuple[int, ...] | None) -> tuple[Layout, Layout]:
    """The layout before and after the trim to the first keep[g] tokens of each sample; None keeps all."""
    if torch.compiler.is_compiling():
        layout = Layout(tuple((samples, _constant(tokens)) for samples, tokens in layout.shapes), layout.drop_path)
        keep = None if keep is None else tuple(_constant(first) for first in keep)
    return layout, layout if keep is None else layout.trimmed(keep)


def _constant(number: int) -> int:
    # numbers of samples vary from step to step and may be symbols of a graph; lengths must not be: two symbols for one
    # length make torch 2.13's inductor write code with an undefined name. The length of a list is a number to dynamo
    return len([None] * number)


def paired_runs(queries: Layout, keys: Layout) -> list[tuple[int, int, int]]:
    """(samples, query tokens, key tokens) a run, for two layouts of the same samples."""
    runs: list[tuple[int, int, int]] = []
    for (samples, wanted), (_, tokens) in zip(queries.shapes, keys.shapes, strict=True):
        if samples == 0:
            continue
        if runs and runs[-1][1:] == (wanted, tokens):
            runs[-1] = (runs[-1][0] + samples, wanted, tokens)
        else:
            runs.append((samples, wanted, tokens))
    return runs


def _starts(layout: Layout, device: torch.device) -> Tensor:
    parts, start = [], 0
    for samples, tokens in layout.runs():
        parts.append(torch.arange(samples, dtype=torch.int32, device=device) * tokens + start)
        start += samples * tokens
    # made on the device from host ints: a copy from the host would be one more thing to wait for
    return torch.cat([*parts, torch.full((1,), start, dtype=torch.int32, device=device)])


@lru_cache(maxsize=64)
def _cached_starts(layout: Layout, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor born in inference mode could not be saved for a later backward
        return _starts(layout, device)
