"""LARS, which scales the step of each layer by the norm of its weights (You et al. 2017), and SGD with momentum."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@final
class LARS(torch.optim.Optimizer):
    """v <- momentum v + d,  w <- w - lr v;  d is the gradient plus `weight_decay` w.

    optimiser = LARS([{"params": parameters, "lr": 0.1}], momentum=0.9, trust=0.001)

    trust  the d of a parameter of more than one dimension is scaled by trust |w| / |d|, or by 1 where either norm is
           0; vectors and biases are not scaled. None: plain SGD, in torch.optim.SGD's own order of operations

    This is the rule of MAE's linear probe (lars.py): the rate is applied after the momentum, and |d| includes the
    decay. timm.optim.Lars divides by |gradient| + weight_decay |w| instead, and scales vectors that decay.

    As torch's fused optimisers do, `step` obeys `found_inf` (f32 [], on the device), which torch's GradScaler sets:
    where it is above 0 weights and momentum keep their bits, and nothing waits for the device. The norms of sharded
    parameters include the shards of all ranks, which makes `step` a collective call there.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, groups: list[dict], momentum: float, trust: float | None = None) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "trust": trust, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # ty: ignore[incompatible-method-override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, weights: nn.Parameter, group: dict) -> None:
        held = self.state[weights]
        if not held:  # made before `found_inf` is read, so that a first step that is skipped leaves a state, too
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
    """LARS's factor of a layer's step: trust |weights| / |change|, or 1 where either norm is 0; [] on the device."""
    size, length = (_full_norm(tensor) for tensor in (weights, change))
    return torch.where((size > 0) & (length > 0), trust * size / length, 1.0)


def _full_norm(tensor: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(tensor)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
