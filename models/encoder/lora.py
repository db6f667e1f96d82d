"""LoRA: train a matrix of low rank beside each frozen weight (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large
Language Models").

    add_lora(vit, rank=8, alpha=8.0, layers=("qkv", "proj", "fc1", "fc2"))
    merge(vit)                                                    # a plain ViT again, of the same outputs, bit for bit

In a state dict the frozen weight keeps timm's name, and the two factors stand beside it:

    blocks.<i>.attn.qkv.weight   [out, in]     W
    blocks.<i>.attn.qkv.lora_A   [rank, in]    A
    blocks.<i>.attn.qkv.lora_B   [out, rank]   B
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pipeline.errors import InputError

Layer = Literal["qkv", "proj", "fc1", "fc2"]
PARENTS: dict[Layer, str] = {"qkv": "attn", "proj": "attn", "fc1": "mlp", "fc2": "mlp"}
APART: dict[Layer, tuple[str, ...]] = {"qkv": ("q_proj", "k_proj", "v_proj"), "fc1": ("fc1_g", "fc1_x")}
"""The layers that rotary encoders (models.encoder.rotary) may have in place of one, each with factors of its own."""
A, B = "lora_A", "lora_B"


@final
class LoRALinear(nn.Linear):
    """A linear layer whose weight is W + (alpha / rank) B A (eq. 3): W, and the bias, are frozen; A and B are trained.

    `weight` computes the sum whenever it is read, so whoever slices it, as the last block's queries do, reads the
    adapted one; W is the parameter `base`, which state dicts call weight, as they do without factors.
    torch's register_parametrization would do the same under other names, and with a class of its own for each layer,
    for which torch.compile would make graphs of their own.

    scale  alpha / rank
    """

    base: nn.Parameter
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    scale: float

    @property
    def weight(self) -> Tensor:
        return adapted(self.base, self.lora_A, self.lora_B, self.scale)

    def forward(self, input: Tensor) -> Tensor:
        return _Adapted.apply(input, self.base, self.lora_A, self.lora_B, self.bias, self.scale)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination.pop(f"{prefix}base")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if f"{prefix}weight" in state_dict:  # the dict is load_state_dict's own copy
            state_dict[f"{prefix}base"] = state_dict.pop(f"{prefix}weight")
        super()._load_from_state_dict(state_dict, prefix, *others)


class _Adapted(torch.autograd.Function):
    """y = x (W + s B A)ᵀ + b, with the gradients of x, A and B alone.

    Autograd's own would pass the gradient of the whole matrix, [out, in], which costs as many FLOPs as training it:
    here dA = s (dy B)ᵀ x and dB = s dyᵀ (x Aᵀ). The sum is made again in the backward pass, and not kept.
    """

    @staticmethod
    def forward(x: Tensor, base: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        return F.linear(x, adapted(base, down, up, scale), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, base, down, up, _, ctx.scale = inputs
        ctx.dtype = x.dtype
        ctx.save_for_backward(x.to(output.dtype), base, down, up)  # in autocast's precision, as a linear layer keeps x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, base, down, up = ctx.saved_tensors
        dy = gradients[0]
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ adapted(base, down, up, ctx.scale).to(dy.dtype)).to(ctx.dtype)
        rows, dys = x.flatten(0, -2), dy.flatten(0, -2)
        d_down = ctx.scale * ((dys @ up.to(dy.dtype)).T @ rows).to(down.dtype)
        d_up = ctx.scale * (dys.T @ (rows @ down.to(dy.dtype).T)).to(up.dtype)
        return dx, None, d_down, d_up, None, None


def adapted(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Compute W + scale B A: weight [out, in], down (A) [rank, in], up (B) [out, rank] -> [out, in], in their precision
    under autocast, too: a B A smaller than a bfloat16 step of W would be lost each time."""
    device = weight.device.type
    if not torch.amp.is_autocast_available(device):
        return torch.addmm(weight, up, down, alpha=scale)
    with torch.autocast(device, enabled=False):
        return torch.addmm(weight, up, down, alpha=scale)


def add_lora(vit: VisionTransformer, rank: int, alpha: float, layers: Sequence[Layer]) -> None:
    """Give the named layers of every block their factors, in place: A as the authors' code draws it, uniform in
    ±in^-0.5, and B zero, so that the outputs are at first those of the frozen weights.

    add_lora(vit, rank=8, alpha=16.0, layers=("qkv",))

    What trains is left to the caller. Raises InputError for a rank above that of one of the weights, and for a layer
    that is not linear.
    """
    for number, block in enumerate(vit.blocks):
        for name, layer in _layers_of(block, layers):
            if type(layer) is not nn.Linear:
                raise InputError(f"encoder.adapt lora is for linear layers, block {number} has a {type(layer).__name__}"
                                 f" for {name}; leave {name} out of encoder.lora_layers")  # fmt: skip
            if rank > min(layer.in_features, layer.out_features):
                shape = list(layer.weight.shape)
                raise InputError(f"encoder.lora_rank is {rank}, and {name} is a matrix of {shape}; lower it")
            _adapt_layer(layer, rank, alpha / rank)


def _layers_of(block: nn.Module, names: Sequence[Layer]) -> Iterator[tuple[str, nn.Module]]:
    for name in names:
        parent = getattr(block, PARENTS[name])
        whole = getattr(parent, name, None) is not None
        yield from ((each, getattr(parent, each)) for each in ((name,) if whole else APART[name]))


def _adapt_layer(layer: nn.Linear, rank: int, scale: float) -> None:
    weight = layer.weight
    del layer.weight
    down, up = weight.new_empty(rank, layer.in_features), weight.new_zeros(layer.out_features, rank)
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    layer.__class__ = LoRALinear
    layer.base = weight
    layer.lora_A, layer.lora_B, layer.scale = nn.Parameter(down), nn.Parameter(up), scale


def lora_layers(module: nn.Module) -> Iterator[LoRALinear]:
    """Yield each layer of a module that has factors."""
    return (part for part in module.modules() if isinstance(part, LoRALinear))


@torch.no_grad()
def merge(module: nn.Module) -> None:
    """Replace each adapted weight by its value and remove the factors, in place; the layers are plain ones again."""
    for layer in list(lora_layers(module)):
        weight = layer.weight
        del layer.base, layer.lora_A, layer.lora_B
        layer.__class__ = nn.Linear
        layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))


def merged(module: nn.Module) -> nn.Module:
    """Return a copy in which factors are merged; the module itself where it has none."""
    if next(lora_layers(module), None) is None:
        return module
    copied = copy.deepcopy(module)
    merge(copied)
    return copied


def is_factor(name: str) -> bool:
    """Say whether a name of a state dict is that of a factor."""
    return name.endswith((f".{A}", f".{B}"))


def merged_state(held: Mapping[str, Tensor], scale: float) -> tuple[dict[str, Tensor], int]:
    """Merge the factors in a state dict -> a plain encoder's state dict, and how many weights were merged.

    merged_state(vit.state_dict(), alpha / rank)
    """
    made, count = {name: tensor for name, tensor in held.items() if not is_factor(name)}, 0
    for name, down in held.items():
        if name.endswith(f".{A}"):
            layer = name.removesuffix(A)
            made[f"{layer}weight"] = adapted(held[f"{layer}weight"], down, held[f"{layer}{B}"], scale)
            count += 1
    return made, count
