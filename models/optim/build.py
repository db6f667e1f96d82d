"""Build the optimiser of a method: which parameters decay, and the share of the learning rate of each layer."""

import re

import torch
from torch import nn

from models.config.recipe import Optim
from models.encoder.timm_classifier import TimmClassifier
from models.optim.lars import LARS
from pipeline.errors import InputError

TOKENS = ("cls_token", "reg_token", "dist_token", "mask_token", "pos_embed", "freqs")  # freqs: RoPE-ViT's, learned


def build_optimiser(method: nn.Module, optim: Optim) -> torch.optim.AdamW | LARS:
    """Fused AdamW, LARS or SGD over the parameters of `method` that require a gradient; the rate is 0 until `set_lr`.

    optimiser = build_optimiser(method, Optim(weight_decay=0.05, layer_decay=0.65))

    Vectors and biases do not decay. `optim.decay_tokens` says whether tokens and position embeddings do: MAE pre-trains
    with it (main_pretrain.py:179) and fine-tunes, as DeiT and Semiformer train, without. Each combination of weight
    decay and `lr_scale` is one parameter group.

    Raises InputError if every parameter is frozen.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        token = name.rpartition(".")[2] in TOKENS
        decays = parameter.ndim > 1 and not name.endswith(".bias") and (optim.decay_tokens or not token)
        key = lr_scale(name, method, optim.layer_decay), optim.weight_decay if decays else 0.0
        groups.setdefault(key, []).append(parameter)
    if not groups:
        raise InputError("nothing to train: every parameter of the method is frozen")
    named = [{"params": held, "lr_scale": scale, "weight_decay": decay} for (scale, decay), held in groups.items()]
    if optim.kind == "adamw":
        return torch.optim.AdamW(named, lr=0.0, betas=optim.betas, fused=True)
    return LARS(named, optim.momentum, optim.trust if optim.kind == "lars" else None)


@torch.no_grad()
def load_moments(optimiser: torch.optim.Optimizer, state: dict) -> None:
    """Load an optimiser's state, each moment in the order of memory of its parameter.

    load_moments(optimiser, checkpoint["optimiser"])

    Fused AdamW pairs weights and moments by their place in memory. Weights of convolutions are channels-last, and
    checkpoints of before this rule hold their moments in another order.
    """
    optimiser.load_state_dict(state)
    for parameter, held in optimiser.state.items():
        for name, moment in held.items():
            if moment.shape == parameter.shape and moment.stride() != parameter.stride():
                held[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)


def lr_scale(name: str, method: nn.Module, layer_decay: float | None) -> float:
    """The share of the learning rate at which the parameter called `name` learns.

    With a layer decay d, block i of the `depth` blocks of `method.encoder` learns at d^(depth - i), parameters before
    the blocks at d^(depth + 1), all others at 1 (BEiT; MAE's lr_decay.py). Tables of relative positions learn at the
    share of their block; one table that all blocks share learns at 1 (SimMIM's optimizer.py). Of a classifier of timm
    the layers are those of timm's param_groups_layer_decay: the last, with the classifier, learns at 1, each below at d
    times the share of the one above.
    """
    if layer_decay is None:
        return 1.0
    if isinstance(method.encoder, TimmClassifier):
        layers = method.encoder.layer_of
        last = max(layers.values())
        return layer_decay ** (last - layers.get(name.removeprefix("encoder.net."), last))
    depth = len(method.encoder.blocks)
    block = re.match(r"encoder\.blocks\.(\d+)\.", name)
    if block:
        return layer_decay ** (depth - int(block[1]))
    stem = re.match(r"encoder\.(cls_token|reg_token|dist_token|pos_embed|patch_embed|norm_pre)", name)
    return layer_decay ** (depth + 1) if stem else 1.0
