"""Which attention does each shape of a training step get, what does a new number of images cost it, and is it right?

torch chooses between flash, memory-efficient and plain attention for each call, and cuDNN's where a run lets it
(models.distributed.process_group.set_up_cuda). How many strong views a step has depends on the pseudo-labels that
passed, and cuDNN builds a plan for every number that it has not seen.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.doctor.stage import Context, Row, Stage, no_gpu

BACK_ENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
NAMES = {back_end.value: name for name, back_end in BACK_ENDS.items()} | {SDPBackend.MATH.value: "math"}
FAR = {torch.bfloat16: 5e-2, torch.float32: 1e-5}
"""Largest relative error of the result and its gradients, by their type."""
DEAR_MS, DEAR_TIMES = 3.0, 5.0
"""A new number of images is dear if its first call takes so many ms more, and so many times as long, as the next."""


PARTS = "new", "again"
Cost = tuple[float, float] | None
"""ms of the first call with a number of images, and of the next one, forward and backward; None where not possible."""


@final
@dataclass(frozen=True)
class Shape:
    """Attention of one part of Semi-MAE's step of 13 labelled and 91 unlabelled images (ViT-S/16 at 224 pixels).

    samples  images, or None where their number changes from step to step
    """

    name: str
    samples: int | None
    heads: int
    queries: int
    keys: int
    width: int


SHAPES = (
    Shape("weak images", 91, 6, 197, 197, 64),
    Shape("labelled + n strong", None, 6, 197, 197, 64),
    Shape("their last block", None, 6, 1, 197, 64),
    Shape("visible tokens", 91, 6, 50, 50, 64),
    Shape("decoder", 91, 16, 197, 197, 32),
    Shape("decoder's last block", 91, 16, 147, 197, 32),
)


@final
class Attention(Stage):
    """The attention of a training step, shape by shape."""

    place = 2
    deadline_s = 90

    def run(self, context: Context) -> Iterator[Row]:
        """Yield a row for each shape, and one for the single call of all lengths."""
        device, dtype = torch.device(context.device), torch.bfloat16 if context.cuda else torch.float32
        for shape in SHAPES:
            yield examined(shape, device, dtype, new=2 if context.quick else 4)
        yield single_call(device) if context.cuda else no_gpu("one call for every length (varlen)")


def examined(shape: Shape, device: torch.device, dtype: torch.dtype, new: int) -> Row:
    """Time and check one shape with what a run would use and with each back-end that takes it."""
    scale = 1 if device.type == "cuda" else 13  # a CPU's figures are for few images
    counts = [max(1, (shape.samples or 13 + 12 * i) // scale) for i in range(1 if shape.samples else new)]
    query, key, value = drawn = tensors(shape, counts[0], device, dtype)
    chosen = NAMES.get(torch._fused_sdp_choice(query, key, value), "another")
    found = {"run": costs(shape, counts, device, dtype, None)}
    for name, back_end in BACK_ENDS.items() if device.type == "cuda" else ():
        found[name] = costs(shape, counts, device, dtype, back_end)
    error = relative_error(drawn)
    parts = [f"{f'a run: {chosen}' if name == 'run' else name} {said(cost)}" for name, cost in found.items()]
    figure = f"{'; '.join(parts)} ms first, again; error {error:.0e}"
    values = {"error": error}
    for name, cost in found.items():
        values |= {f"{name}_{part}_ms": ms for part, ms in zip(PARTS, cost, strict=True)} if cost else {}
    if not error <= FAR[dtype]:
        return Row(shape.name, "wrong", figure, "attention is wrong on this GPU: use another torch version", values)
    if shape.samples is None and dear(found["run"]):
        return Row(shape.name, "slow", figure, f"each new number of images waits for {chosen}", values)
    return Row(shape.name, "ok", figure, faster_cudnn(found), values)


def faster_cudnn(found: dict[str, Cost]) -> str:
    """Say how to have cuDNN's attention where it is a tenth faster and a new number of images is not dear."""
    here, other = found["run"], found.get("cudnn")
    if here is None or other is None or dear(other) or other[1] > 0.9 * here[1]:
        return ""
    return "cuDNN is faster here: SHOTCRETE_CUDNN_ATTENTION=1 lets torch choose it"


def costs(
    shape: Shape, counts: list[int], device: torch.device, dtype: torch.dtype, back_end: SDPBackend | None
) -> Cost:
    """Time the first and the next call for each number of images, the median of each.

    One more than the largest number warms up, so that what follows finds its memory allocated.
    """
    timed = []
    try:
        with only(back_end):
            for samples in [max(counts) + 1, *counts]:
                drawn = tensors(shape, samples, device, dtype)
                timed.append([once(drawn, device) for _ in PARTS])
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return None
    first, again = zip(*timed[1:], strict=True)
    return statistics.median(first), statistics.median(again)


def only(back_end: SDPBackend | None) -> AbstractContextManager:
    """Allow one back-end; those of a run where none is named."""
    return nullcontext() if back_end is None else sdpa_kernel([back_end])


def once(drawn: list[Tensor], device: torch.device) -> float:
    """Run forward and backward once, and return the ms until the device is done."""
    finish: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    finish()
    began = time.perf_counter()
    out = attend(drawn)
    out.backward(torch.ones_like(out))
    finish()
    return 1000 * (time.perf_counter() - began)


def tensors(shape: Shape, samples: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Draw query, key and value [samples, heads, tokens, width], strided as the packed step has them."""
    torch.manual_seed(samples)

    def drawn(tokens: int) -> Tensor:
        rows = torch.randn(samples * tokens, shape.heads, shape.width, device=device, dtype=dtype)
        return rows.unflatten(0, (samples, tokens)).transpose(1, 2).requires_grad_()

    return [drawn(shape.queries), drawn(shape.keys), drawn(shape.keys)]


def relative_error(drawn: list[Tensor]) -> float:
    """Compare a run's attention with softmax(q kᵀ / √d) v in float64, gradients too: the largest relative error."""
    few = [each.detach()[:3].requires_grad_() for each in drawn]
    exact = [each.detach().double().requires_grad_() for each in few]
    q, k, v = exact
    expected = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
    came = attend(few)
    weights = torch.randn_like(came)
    pairs = [(came.detach(), expected.detach())]
    gradients = torch.autograd.grad(came, few, weights), torch.autograd.grad(expected, exact, weights.double())
    pairs += zip(*gradients, strict=True)
    return max(float((a.double() - b).norm() / b.norm().clamp(min=1e-9)) for a, b in pairs)


def attend(drawn: list[Tensor]) -> Tensor:
    """Call attention as the packed step does."""
    query, key, value = drawn
    return F.scaled_dot_product_attention(query, key, value)


def dear(cost: Cost) -> bool:
    """Say whether the first call with a number of images is much dearer than the next one."""
    return cost is not None and cost[0] > cost[1] + DEAR_MS and cost[0] > DEAR_TIMES * cost[1]


def said(cost: Cost) -> str:
    return "none" if cost is None else f"{cost[0]:.2f}, {cost[1]:.2f}"


def single_call(device: torch.device) -> Row:
    """Compare encoder.attention varlen, one call for all lengths, with the calls of sdpa on the same tokens."""
    from models.encoder.build import Size, build_encoder
    from models.encoder.layout import Layout

    layout, name = Layout(((58, 197), (91, 50))), "one call for every length (varlen)"
    x = torch.randn(layout.rows, 384, device=device, dtype=torch.bfloat16)
    found, outs = {}, []
    for attention in ("sdpa", "varlen"):
        torch.manual_seed(0)
        vit = build_encoder(Size(384, 1, 6), image_size=224, patch=16, classes=2, attention=attention)
        block = vit.blocks[0].to(device, torch.bfloat16)

        def step(block=block) -> Tensor:
            out = block(x.detach().requires_grad_(), layout=layout)
            out.float().square().mean().backward()
            return out

        outs.append(step().float())
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            step()
        torch.cuda.synchronize()
        found[attention] = (time.perf_counter() - began) * 100
    apart = float((outs[0] - outs[1]).norm() / outs[0].norm())
    figure = ", ".join(f"{attention} {ms:.2f} ms a block" for attention, ms in found.items()) + f"; apart {apart:.0e}"
    values = {f"{attention}_ms": ms for attention, ms in found.items()}
    if not apart < FAR[torch.bfloat16]:
        return Row(name, "slow", figure, "keep encoder.attention sdpa: varlen disagrees here", values)
    return Row(name, "ok", figure, "set --encoder.attention varlen" * (found["varlen"] < 0.95 * found["sdpa"]), values)
