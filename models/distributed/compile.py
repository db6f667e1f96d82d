"""Find and compile the blocks of a method: the encoder's, and those of MAE's and CrossMAE's decoders."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import torch
from torch import nn

from models.encoder.packed import PackedBlock
from models.masked.crossmae import CrossBlock
from models.masked.targets.pixel import Pixel

WORTH_IT = 4_000_000
"""Weights of a method, ViT-Tiny's are 5.6 million, from which compiling its blocks, a minute or two, is taken to pay.
A judgement: it was not yet measured on a GPU."""


def blocks(module: nn.Module) -> Iterator[PackedBlock | CrossBlock]:
    """Every block in `module`; torch.compile and FSDP2 are applied to each of them."""
    return (block for block in module.modules() if isinstance(block, PackedBlock | CrossBlock))


def is_worth_compiling(choice: Literal["auto", "on", "off"], method: nn.Module, device: torch.device) -> bool:
    """Whether the blocks of a method are compiled: as `choice` says; auto: on CUDA, from WORTH_IT weights on."""
    if choice != "auto":
        return choice == "on"
    return device.type == "cuda" and sum(each.numel() for each in method.parameters()) >= WORTH_IT


def is_compiled(module: nn.Module) -> bool:
    """Whether the blocks of a method are compiled."""
    return any(block.compiler is not None for block in blocks(module))


def compile_blocks(module: nn.Module, compiler: str | Callable = "inductor", sizes: int = 1) -> None:
    """Compile the packed path of every block in `module`, the projection of patches before the first, and the loss of
    predicted pixels; all blocks share the graphs.

    compile_blocks(method, sizes=len(distinct_sizes(recipe.data)))

    sizes  number of image sizes in the run; sequence lengths are constants of a graph, so each size has its own graphs

    There is a graph for each combination of: a backward follows or not; all rows or the first; with drop-path or
    without; 0 samples in a group, 1, or more. Each is compiled when it first occurs, which makes the first steps slow.
    """
    # all blocks count against one limit, and a real run has more combinations than torch's default of 8
    limits = cast(Any, torch._dynamo.config)  # its stub has the numbers as constants
    limits.recompile_limit = max(limits.recompile_limit, 64 * sizes)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, 64 * sizes)
    set_compiler(module, compiler)


def set_compiler(module: nn.Module, compiler: str | Callable | None) -> None:
    """Let every part of `module` that can be compiled be compiled by a back-end of torch.compile, or run eagerly."""
    for part in module.modules():
        if isinstance(part, PackedBlock | CrossBlock | Pixel):
            part.compiler = compiler
