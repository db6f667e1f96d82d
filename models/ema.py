"""EMA: the moving average of a module's weights, evaluated in their place and used as a teacher."""

import copy
from typing import Self, final

import torch
from torch import nn


@final
class EMA(nn.Module):
    """A frozen copy of `module` that follows it:  average <- decay · average + (1 - decay) · weights.

    ema = EMA(encoder, decay=0.999)
    ema.update(encoder, step)      # after each update of the encoder
    logits = ema.module(images)

    With `warmup` the decay of step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage, so
    that a young average forgets its random start. Buffers are copied. Weights that do not train are shared, not copied:
    the average of what does not move is itself. The copy is always in eval mode.
    """

    def __init__(self, module: nn.Module, decay: float, *, warmup: bool = False) -> None:
        super().__init__()
        self.decay, self.warmup = decay, warmup
        frozen = {id(parameter): parameter for parameter in module.parameters() if not parameter.requires_grad}
        self.module = copy.deepcopy(module, frozen).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module` after the update of `step`, counted from 0; one kernel, no host sync."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        pairs = zip(self.module.parameters(), module.parameters(), strict=True)
        if moving := [(average, weight) for average, weight in pairs if weight.requires_grad]:
            averages, weights = zip(*moving, strict=True)
            torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, current in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(current)

    def own_all(self) -> None:
        """Share nothing any more, because both will be changed in place, as `fully_shard` does."""
        self.module = copy.deepcopy(self.module)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode when the method around it trains, so that a teacher drops no paths."""
        return super().train(False)
