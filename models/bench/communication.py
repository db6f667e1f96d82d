"""Count the bytes that a step sends, and estimate its milliseconds, under DDP and under FSDP2 (--run.shard).

    python -m models.bench.communication

Bytes are counted from the models themselves, on meta tensors. A ring passes (n - 1)/n of what is gathered or scattered
through each GPU; an all-reduce is both. All is float32. Milliseconds are arithmetic on assumed links, see `Links`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import log2
from typing import Annotated

import torch
from torch import nn

from models.bench.flops import GroupCost, classifier_flops, decoder_flops, encoder_flops
from models.config.recipe import Encoder, Recipe
from models.encoder.packed import PackedBlock
from models.method import Method
from models.methods import fixmatch, mae, semi_mae
from pipeline.errors import InputError, command
from pipeline.flags import AT_LEAST_1, POSITIVE, SHARE, check_bounds, parse
from pipeline.spec import Data
from pipeline.text import line, table

MODELS = {
    "vit_small_patch16_224": 16,
    "vit_base_patch16_224": 16,
    "vit_large_patch16_224": 16,
    "vit_huge_patch14_224": 14,
}
METHODS: dict[str, tuple[type[Method], type]] = {
    "FixMatch": (fixmatch.FixMatch, fixmatch.Settings),
    "MAE": (mae.MAE, mae.Settings),
    "Semi-MAE": (semi_mae.SemiMAE, semi_mae.Settings),
}
F32, CLASSES, HIDDEN, PER_NODE = 4, 1000, 0.75, 8
BYTES = "", "million weights", "GB: weights, gradients, moments", "GB sent, 8 GPUs: DDP / FSDP2", "512 GPUs", "calls"


@dataclass(frozen=True)
class Links:
    """Nodes of 8 GPUs. A ring enters and leaves each node once, so a node's cards share what one GPU sends."""

    nvlink_gb_s: float = 450
    """GB/s that a GPU sends to the others of its node."""
    card_gb_s: float = 50
    """GB/s that a network card sends: 400 Gb/s."""
    inside_us: float = 1
    """Latency from one GPU to the next, inside of a node."""
    between_us: float = 5
    """Latency from one node to the next."""


@dataclass(frozen=True)
class Options:
    """Bytes and milliseconds of a step; a GPU's share of the batch stays the same, whatever the number of GPUs."""

    models: tuple[str, ...] = tuple(MODELS)
    """Encoders, by timm's name; the decoder is MAE's default, 8 blocks of 512."""
    labelled: Annotated[int, AT_LEAST_1] = 13
    """Images of a step on each GPU that have a label (in1k_10pct: 13); MAE learns from them as from the others."""
    unlabelled: Annotated[int, AT_LEAST_1] = 91
    """Images of a step on each GPU that have none."""
    pass_rate: Annotated[float, SHARE] = 0.5
    """Share of the pseudo-labels that pass."""
    tflops: Annotated[float, POSITIVE] = 225
    """TFLOP/s that a GPU sustains."""
    ranks: tuple[tuple[int, int], ...] = ((8, 8), (64, 8), (64, 1), (512, 8), (512, 1))
    """GPUs, and network cards of a node."""
    links: Links = field(default_factory=Links)


@dataclass(frozen=True)
class Traffic:
    """Bytes of the whole tensors of a step's collectives; an all-reduce counts twice.

    forward, backward  of collectives that can overlap with these passes
    gathers            number of collectives along a ring
    reduces            number of all-reduces along a tree
    """

    forward: int
    backward: int
    gathers: int = 0
    reduces: int = 0

    def sent(self, ranks: int) -> float:
        """Compute the bytes that each of `ranks` GPUs sends, and receives."""
        return (self.forward + self.backward) * (ranks - 1) / ranks


def networks(model: str) -> dict[str, Method]:
    """Build each method with an encoder by name, on meta tensors."""
    encoder = Encoder(model, patch=MODELS.get(model, 16), position="sincos")
    with torch.device("meta"):
        return {name: kind(Recipe(own(), Data(), encoder), CLASSES) for name, (kind, own) in METHODS.items()}


def ddp(method: nn.Module) -> Traffic:
    """Count DDP's traffic: all gradients are all-reduced once, in buckets of 25 MB, during the backward pass."""
    size = F32 * sum(parameter.numel() for parameter in _learning(method.parameters()))
    return Traffic(0, 2 * size, reduces=-(-size // 2**20 // 25))


def fsdp(method: Method, ranks: int) -> Traffic:
    """Count FSDP2's traffic: blocks are gathered for each pass, their gradients scattered.

    A teacher of the same weights has a forward pass of its own, for which the encoder's blocks are gathered once more.
    Parameters outside of blocks are gathered once, and stay; see models.distributed.fsdp. After the backward pass FSDP2
    prefetches, without use, the block that the teacher's pass ran last.
    """
    teacher = int(method.has_classifier)
    blocks = [block for block in method.modules() if isinstance(block, PackedBlock)]
    within = {id(parameter) for block in blocks for parameter in block.parameters()}
    rest = [parameter for parameter in method.parameters() if id(parameter) not in within]
    forward, backward, calls = padded(rest, ranks), padded(_learning(rest), ranks), 2
    for block in blocks:
        times = 1 + teacher * any(block is own for own in method.encoder.blocks)
        whole = padded(block.parameters(), ranks)
        forward, backward, calls = forward + times * whole, backward + 2 * whole, calls + times + 2
    backward += teacher * padded(method.encoder.blocks[-1].parameters(), ranks)
    return Traffic(F32 * forward, F32 * backward, gathers=calls + teacher)


def padded(parameters: Iterable[nn.Parameter], ranks: int) -> int:
    """Count elements as FSDP2 moves them: each rank holds as many whole rows of dimension 0 as every other."""
    return sum(-(-p.shape[0] // ranks) * ranks * (p.numel() // p.shape[0]) for p in parameters)


def step_flops(method: Method, options: Options) -> tuple[float, float]:
    """Count the FLOPs of a step on one GPU, forward and backward; with so many strong views as pass on average."""
    vit, known, unknown = method.encoder, options.labelled, options.unlabelled
    patches, decoder = vit.patch_embed.num_patches, method.branch
    visible = int(patches * (1 - HIDDEN))
    forward = backward = 0.0
    partly = unknown + (0 if method.has_classifier else known)
    if decoder is not None:
        both = encoder_flops(vit, [GroupCost(partly, visible)])
        first = encoder_flops(vit, [GroupCost(partly, visible, learns=False)])
        decoded = decoder_flops(decoder.decoder, partly, visible, patches - visible)
        forward, backward = first + decoded / 3, both - first + decoded * 2 / 3
    if method.has_classifier:
        inference, training = view_flops(method, learns=False), view_flops(method)
        forward += inference * (unknown + known + options.pass_rate * unknown)
        backward += (training - inference) * (known + options.pass_rate * unknown)
    return forward, backward


def view_flops(method: Method, *, learns: bool = True) -> int:
    """Count the FLOPs of one whole image and its class scores: forward and backward, or the forward pass alone."""
    cost = GroupCost(1, method.encoder.patch_embed.num_patches, keep=1, learns=learns)
    return encoder_flops(method.encoder, [cost]) + classifier_flops(method.encoder, 1, learns=learns)


def seconds(traffic: Traffic, ranks: int, cards: int, links: Links) -> tuple[float, float]:
    """Estimate the seconds of the collectives beside the forward and the backward pass: bytes and latency."""
    nodes = -(-ranks // PER_NODE)
    slowest = links.nvlink_gb_s if nodes == 1 else min(links.nvlink_gb_s, cards * links.card_gb_s)
    ring_s = 1e-6 * ((ranks - nodes) * links.inside_us + (nodes * links.between_us if nodes > 1 else 0))
    tree_s = 2e-6 * (log2(min(ranks, PER_NODE)) * links.inside_us + log2(nodes) * links.between_us)
    waits = traffic.gathers * ring_s + traffic.reduces * tree_s
    total = traffic.forward + traffic.backward
    whole = traffic.sent(ranks) / (1e9 * slowest) + waits
    return whole * traffic.forward / total, whole * traffic.backward / total


def added(traffic: Traffic, passes: tuple[float, float], ranks: int, cards: int, links: Links) -> tuple[float, float]:
    """Estimate the seconds that communication adds to a step whose passes take `passes` (s): without any overlap, and
    with all the overlap that is possible."""
    spent = seconds(traffic, ranks, cards, links)
    return sum(spent), sum(max(0.0, sending - computing) for sending, computing in zip(spent, passes, strict=True))


def _learning(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def size_line(model: str, name: str, method: Method) -> str:
    """Format a row of the table of bytes."""
    ways = [(ddp(method).sent(n), fsdp(method, n).sent(n)) for n in (8, 512)]
    learned = sum(parameter.numel() for parameter in _learning(method.parameters()))
    cells = [f"{learned / 1e6:.1f}", f"{16 * learned / 1e9:.1f}"]
    cells += [f"{whole / 1e9:.2f} / {sharded / 1e9:.2f}" for whole, sharded in ways]
    return line([f"{model}, {name}", *cells, f"{fsdp(method, 8).gathers}"])


def time_line(model: str, method: Method, way: str, options: Options) -> str:
    """Format a row of the table of milliseconds: each entry without overlap, and with all that is possible."""
    forward, backward = (flops / options.tflops / 1e12 for flops in step_flops(method, options))
    cells = []
    for ranks, cards in options.ranks:
        traffic = ddp(method) if way == "DDP" else fsdp(method, ranks)
        plain, overlapped = added(traffic, (forward, backward), ranks, cards, options.links)
        cells.append(f"{1000 * plain:.1f} → {1000 * overlapped:.1f}")
    return line([f"{model}, {way}", f"{1000 * forward:.0f} + {1000 * backward:.0f}", *cells])


def main() -> None:
    """Print the table of bytes and the table of milliseconds."""
    options = parse(Options, description=__doc__, prog="python -m models.bench.communication")
    check_bounds(options, "--")
    if min((n for n, _ in options.ranks), default=0) < 2:
        raise InputError(f"--ranks: expected 2 GPUs or more and their network cards, got {options.ranks}")
    built = {model: networks(model) for model in options.models}
    print(table([BYTES]), end="")
    for model, methods in built.items():
        for name, method in methods.items():
            print(size_line(model, name, method))
    cards = (f"{n} GPUs, {cards} cards" for n, cards in options.ranks)
    print("\n" + table([["Semi-MAE: ms", "computing", *cards]]), end="")
    for model, methods in built.items():
        for way in ("DDP", "FSDP2"):
            print(time_line(model, methods["Semi-MAE"], way, options))


if __name__ == "__main__":
    command(main)
