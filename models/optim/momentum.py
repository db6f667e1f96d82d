"""SGD with momentum, and LARS, which scales each layer's step by the norm of its weights (You et al. 2017)."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@final
class Momentum(torch.optim.Optimizer):
    """v <- momentum v + d,  w <- w - lr v;  d is the gradient and `weight_decay` w.

    trust  LARS: the d of a parameter of more than one dimension is scaled by trust |w| / |d|, by 1 where either norm
           is 0; vectors and biases are not scaled. None: SGD, in torch.optim.SGD's own order of operations

    What MAE's linear probe steps with (lars.py): the rate stays outside of the momentum, and |d| counts the decay.
    timm.optim.Lars divides by |gradient| + weight_decay |w| instead, and scales vectors that decay.

    Honours GradScaler's door, as torch's fused optimisers do: where `found_inf` (f32 [], on the device) is above 0,
    weights and momentum stay bit for bit, and nothing waits for the device. Norms of sharded parameters are those of
    all ranks' shards; that makes `step` a collective call there.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, groups: list[dict], momentum: float, trust: float | None = None) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "trust": trust, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, weights: nn.Parameter, group: dict) -> None:
        held = self.state[weights]
        if not held:  # zeros, so that a first step that is not finite leaves something to go on from
            held["momentum_buffer"] = torch.zeros_like(weights)
        change = weights.grad
        if group["weight_decay"]:
            change = change.add(weights, alpha=group["weight_decay"])
        factor = trust_ratio(weights, change, group["trust"]) if group["trust"] and weights.ndim > 1 else None
        w, v, d = (_local(tensor) for tensor in (weights, held["momentum_buffer"], change))
        moved = v.mul(group["momentum"]).add_(d if factor is None else d * factor)
        after = w.add(moved, alpha=-group["lr"])
        if self.found_inf is not None:
            bad = self.found_inf > 0
            moved, after = torch.where(bad, v, moved), torch.where(bad, w, after)
        v.copy_(moved)
        w.copy_(after)


def trust_ratio(weights: Tensor, change: Tensor, trust: float) -> Tensor:
    """What LARS scales a layer's step by, [] on the device: trust |weights| / |change|, 1 where either norm is 0."""
    size, length = (_whole_norm(tensor) for tensor in (weights, change))
    return torch.where((size > 0) & (length > 0), trust * size / length, 1.0)


def _whole_norm(tensor: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(tensor)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
