"""Which of the hidden patches are predicted where not all are.

Drawn on the device, from a counter RNG keyed on (seed, step, image id, patch): the same whoever holds the image, at any
world size and accumulation, and after a stop. The numbers are those of pipeline.rng, in torch.
"""

import numpy as np
import torch
from torch import Tensor

from pipeline import rng
from pipeline.errors import InputError

TAG = 7  # keeps these numbers apart from the mask's own


def drawn(hidden: Tensor, count: int, images: Tensor, step: int, seed: int) -> Tensor:
    """`count` of each image's hidden patches, every choice as likely as any other: i64 [N, count], ascending.

    hidden  i64 [N, M], ascending
    images  i64 [N]   their ids
    """
    if count == hidden.shape[1]:
        return hidden
    step_key = rng.mix(rng.mix(np.array([seed], np.uint64)) ^ np.uint64(step))
    keys = _mix(_mix(int(step_key.view(np.int64)[0]) ^ images) ^ rng.MASK)  # rng.keys
    keys = _mix(_mix(keys) ^ TAG)  # rng.derive
    counters = torch.arange(hidden.shape[1], device=hidden.device) * _signed(rng.GOLDEN)
    lots = _shifted(_mix(keys[:, None] + counters), 1)  # rng.uniforms, but for its last bits
    first = lots.argsort(1)[:, :count].sort(1).values
    return hidden.gather(1, first)


def predicted_count(share: float, patches: int) -> int:
    """Patches of an image that are predicted: floor(share · L). Raises InputError if there is none."""
    count = int(share * patches + 1e-9)
    if count < 1:
        raise InputError(f"a share of {share:g} of {patches} patches is none; raise method.reconstruct.predict")
    return count


def _mix(states: Tensor) -> Tensor:
    """pipeline.rng.mix for i64, which wraps as u64 does."""
    z = states + _signed(rng.GOLDEN)
    for shift, multiplier in zip(rng.SHIFTS, rng.MULTIPLIERS, strict=False):
        z = (z ^ _shifted(z, shift)) * _signed(multiplier)
    return z ^ _shifted(z, rng.SHIFTS[-1])


def _shifted(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number
