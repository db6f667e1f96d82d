"""Blocks that are compiled, and spread over ranks, one at a time: the encoder's, MAE's and CrossMAE's decoders'."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from models.encoder.packed import PackedBlock
from models.masked.cross_decoder import CrossBlock


def blocks(module: nn.Module) -> Iterator[PackedBlock | CrossBlock]:
    """Every such block in `module`."""
    return (block for block in module.modules() if isinstance(block, PackedBlock | CrossBlock))


def compile_blocks(module: nn.Module, compiler: str | Callable = "inductor", sizes: int = 1) -> None:
    """Compile the packed path of every block in `module`. All blocks share the graphs, whatever their number and rates.

    A graph is made for each situation: a backward follows or not, all rows or the first, with drop-path or without, and
    for a group 0 samples, 1, or any other number. The first steps are slow; give them the situations of the run.
    Lengths are constants of a graph: images of another of the run's `sizes` make all of them once more.
    """
    # every block counts against one limit, and the situations of a real run are more than torch's default of 8
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, 64 * sizes)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, 64 * sizes)
    for block in blocks(module):
        block.compiler = compiler
