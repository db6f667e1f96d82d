"""Count what becomes of the images of a source while it is converted.

outcome = Outcome(total=1000, max_bad=0.001, ignored={".txt": 3})
outcome.keep("dog/1.jpg", prepared)
outcome.reject("dog/2.jpg", "empty file")      # raises InputError where too many are rejected
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from pipeline.errors import InputError
from pipeline.sources.encode import How, Prepared
from pipeline.store.sample_names import printable

NAMED = 10  # rejected files that an error names: of a small source all, so that they are mended in one go


@final
@dataclass
class Outcome:
    """What became of the source's files so far.

    total           images that the source ought to have, those rejected unread included
    ignored         files that are no images, by suffix
    notes           what the source says of how it was read
    names           of the images that are stored, in order
    rejected        (name, reason) of the others
    kinds           images stored of each kind of source, by what was done with them
    deep            `images` of 16 bits, those that use a `narrow` part of these, `low` and `high` values of them all
    first_frames    images of which the first frame or page is stored, and more were there
    dropped_bytes   metadata that JPEGs are stored without
    """

    total: int
    max_bad: float
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    names: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    kinds: defaultdict[str, Counter[How]] = field(default_factory=lambda: defaultdict(Counter))
    deep: Counter[str] = field(default_factory=Counter)
    first_frames: int = 0
    dropped_bytes: int = 0

    def keep(self, name: str, image: Prepared) -> None:
        """Count an image that is stored."""
        self.names.append(name)
        self.kinds[image.kind][image.how] += 1
        self.first_frames += image.frames
        self.dropped_bytes += image.dropped
        if image.span is not None:
            low = min(self.deep["low"], image.span.low) if self.deep else image.span.low
            self.deep.update(images=1, narrow=int(image.span.narrow))
            self.deep["low"], self.deep["high"] = low, max(self.deep["high"], image.span.high)

    def reject(self, name: str, reason: str) -> None:
        """Note a rejection. Raises InputError once too large a share of the source is rejected, and enough to name."""
        self.rejected.append((printable(name), printable(reason)))  # a decoder's words may be of any kind
        if len(self.rejected) >= NAMED:
            self.check()

    def count(self, how: How) -> int:
        """How many images were stored in this way."""
        return sum(each[how] for each in self.kinds.values())

    def check(self) -> None:
        """Raise InputError if too large a share of the source is rejected."""
        if len(self.rejected) > self.max_bad * self.total:
            first = "; ".join(f"{name}: {reason}" for name, reason in self.rejected[:NAMED])
            count = f"{len(self.rejected)} of {self.total} files rejected, expected --max-bad {self.max_bad:g} at most"
            raise InputError(f"{count} ({first}); remove or repair them, or raise --max-bad")
