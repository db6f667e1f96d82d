"""The optimiser of a method: which parameters decay, and at which share of the rate each layer learns."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from models.config.recipe import Optim
from models.optim.momentum import Momentum
from pipeline.errors import InputError

TOKENS = ("cls_token", "reg_token", "dist_token", "mask_token", "pos_embed")


def optimiser(method: nn.Module, optim: Optim) -> torch.optim.AdamW | Momentum:
    """Fused AdamW, LARS or SGD over everything of `method` that requires a gradient; the rate is 0 until `set_rate`.

    Vectors and biases never decay. `optim.decay_tokens` says whether tokens and position embeddings do: MAE pre-trains
    with it (main_pretrain.py:179) and fine-tunes, as DeiT and Semiformer train, without.
    With `layer_decay` d, block i of the depth blocks of `method.encoder` learns at d^(depth - i) of the rate, what
    comes before the blocks at d^(depth + 1), everything after them at 1 (BEiT; MAE's lr_decay.py). Tables of relative
    positions decay, and learn with their block; the one that all blocks share learns at 1 (SimMIM's optimizer.py).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        token = name.rpartition(".")[2] in TOKENS
        decays = parameter.ndim > 1 and not name.endswith(".bias") and (optim.decay_tokens or not token)
        key = layer_scale(name, method, optim.layer_decay), optim.weight_decay if decays else 0.0
        groups.setdefault(key, []).append(parameter)
    if not groups:
        raise InputError("nothing to train: every parameter of the method is frozen")
    named = [{"params": held, "lr_scale": scale, "weight_decay": decay} for (scale, decay), held in groups.items()]
    if optim.kind == "adamw":
        return torch.optim.AdamW(named, lr=0.0, betas=optim.betas, fused=True)
    return Momentum(named, optim.momentum, optim.trust if optim.kind == "lars" else None)


def layer_scale(name: str, method: nn.Module, layer_decay: float | None) -> float:
    """The share of the rate at which the parameter called `name` learns."""
    if layer_decay is None:
        return 1.0
    depth = len(method.encoder.blocks)
    block = re.match(r"encoder\.blocks\.(\d+)\.", name)
    if block:
        return layer_decay ** (depth - int(block[1]))
    stem = re.match(r"encoder\.(cls_token|reg_token|dist_token|pos_embed|patch_embed|norm_pre)", name)
    return layer_decay ** (depth + 1) if stem else 1.0


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its share of the rate, as a plain number: no tensor is made, nothing is copied."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_scale"]


def clip(parameters: Iterable[nn.Parameter], norm: float | None) -> Tensor:
    """The gradients' total norm before clipping, f32 [] on the device; scales them down to `norm` unless absent."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    total = torch.nn.utils.get_total_norm([parameter.grad for parameter in trained])
    if isinstance(total, DTensor):
        total = total.full_tensor()  # over all ranks' shards
    if norm is not None:
        torch.nn.utils.clip_grads_with_norm_(trained, norm, total)
    return total
