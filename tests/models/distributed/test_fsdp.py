"""FSDP2, a step at a time, on two gloo ranks."""

import pytest

from tests.models.ranks import run_ranks

RANK = """
import os, sys
from dataclasses import replace
import torch
from torch.distributed.tensor import DTensor
from models.methods import semi_mae
from models.config.recipe import Run
from models.masked.settings import Reconstruct
from models.distributed import fsdp, process_group
from models.optim.build import build_optimiser
from models.optim.update import clip_grad_norm, set_lr

torch.set_num_threads(1)
world = process_group.start(Run(device="cpu", shard=True))
recipe = semi_mae.digits()
recipe = replace(
    recipe,
    method=replace(recipe.method, reconstruct=Reconstruct(1, 32, 2)),
    encoder=replace(recipe.encoder, width=32, depth=2, heads=2),
)
torch.manual_seed(0)
plain, spread = semi_mae.SemiMAE(recipe, 10), semi_mae.SemiMAE(recipe, 10)
spread.load_state_dict(plain.state_dict())

def bytes_of(tensors):
    return sum((t.to_local() if isinstance(t, DTensor) else t).untyped_storage().nbytes() for t in tensors)
"""

HALVES = (
    RANK
    + """
whole_bytes = bytes_of(plain.parameters())
made = build_optimiser(fsdp.shard(spread, world), recipe.optim)
assert all(isinstance(p, DTensor) for p in spread.parameters())
assert bytes_of(spread.parameters()) < 0.55 * whole_bytes
for p in spread.parameters():
    if p.requires_grad:
        p.grad = torch.ones_like(p)
made.step()
trained = bytes_of(p for p in plain.parameters() if p.requires_grad)
def moments():
    return [t for held in made.state.values() for name, t in held.items() if name.startswith("exp")]
assert len(moments()) == 2 * len([p for p in plain.parameters() if p.requires_grad])
assert bytes_of(moments()) < 0.55 * 2 * trained, "made"
saved = made.state_dict()
full = {n: {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in held.items()}
        for n, held in saved["state"].items()}
made.load_state_dict(fsdp.shard_state(saved | {"state": full}, made))
assert bytes_of(moments()) < 0.55 * 2 * trained, "loaded"
norm = clip_grad_norm(spread.parameters(), 0.5)
assert type(norm) is torch.Tensor
torch.testing.assert_close(norm, torch.tensor(float(trained / 4)).sqrt())
torch.testing.assert_close(clip_grad_norm(spread.parameters(), None), torch.tensor(0.5))
process_group.finish(world)
"""
)

GUARDED = (
    RANK
    + """
from models.optim.update import FiniteGuard
made = build_optimiser(fsdp.shard(spread, world), recipe.optim)
set_lr(made, 1e-2)
guard = FiniteGuard(world)
def held():
    moments = [t for held in made.state.values() for t in held.values()]
    return [(t.to_local() if isinstance(t, DTensor) else t).clone() for t in [*spread.parameters(), *moments]]
def step(number, loss):
    for p in spread.parameters():
        if p.requires_grad:
            p.grad = torch.ones_like(p)
    guard.step(made, loss, clip_grad_norm(spread.parameters(), None), torch.arange(2), number)
step(0, torch.tensor(1.0))
before = held()
step(1, torch.tensor(float("nan") if world.rank == 1 else 1.0))
assert all(torch.equal(a, b) for a, b in zip(before, held(), strict=True))
step(2, torch.tensor(1.0))
assert not all(torch.equal(a, b) for a, b in zip(before, held(), strict=True))
assert {float(held["step"]) for held in made.state.values()} == {2.0}
process_group.finish(world)
"""
)

ALONE = (
    RANK
    + """
empty = fsdp.without_weights(spread)
assert all(p.is_meta for p in empty.parameters()) and not any(b.is_meta for b in empty.buffers())
fsdp.shard(spread, world)
copied = fsdp.full_method(spread, empty, world)
assert not any(isinstance(p, DTensor) for p in copied.parameters())
found, expected = copied.state_dict(), plain.state_dict()
assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in plain.parameters()]
assert all(p.is_meta for p in empty.parameters())
if world.main:  # while the other does nothing
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(copied.logits(images), plain.logits(images))
    visible = torch.arange(4).expand(3, -1)
    predicted = [m.branch.predict(m.encoder, images, visible) for m in (copied, plain)]
    assert torch.equal(*predicted)
process_group.finish(world)
"""
)

CROSS = """
import sys
from dataclasses import replace
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from models.distributed.compile import blocks, compile_blocks
from models.method import StepInfo
from models.methods import crossmae
from models.config.recipe import Run
from models.distributed import fsdp, process_group
from models.optim.build import build_optimiser
from models.optim.update import set_lr
from pipeline.batch import Batch, Unlabelled

torch.set_num_threads(1)
world = process_group.start(Run(device="cpu", shard=True))
recipe = crossmae.digits()
recipe = replace(recipe, encoder=replace(recipe.encoder, width=32, depth=2, heads=2))
torch.manual_seed(0)
plain, spread = (crossmae.CrossMAE(recipe, 10).double() for _ in range(2))
spread.load_state_dict(plain.state_dict())
if sys.argv[1] == "compiled":
    compile_blocks(spread, "eager")
fsdp.shard(spread, world)
assert len(list(blocks(spread))) == 2 + recipe.method.reconstruct.depth
assert all(isinstance(block, FSDPModule) for block in blocks(spread))

def step(method, mine):
    made = build_optimiser(method, recipe.optim)
    set_lr(made, 1e-3)
    for number in range(2):
        g = torch.Generator().manual_seed(number)
        images = torch.randn(8, 3, 16, 16, generator=g, dtype=torch.float64)[mine]
        visible = torch.rand(8, 16, generator=g).argsort(1)[mine, :8].sort(1).values
        batch = Batch(0, None, Unlabelled(torch.arange(8)[mine], images, None, visible))
        method(batch, StepInfo(number, labels_only=False)).total.backward()
        gradients = [p.grad for p in method.parameters() if p.grad is not None]
        assert gradients and all(isinstance(g, DTensor) == (method is spread) for g in gradients)  # scattered at once
        made.step()
        made.zero_grad()

before = {name: p.detach().clone() for name, p in plain.named_parameters() if p.requires_grad}
step(plain, slice(0, 8))
step(spread, slice(4 * world.rank, 4 * world.rank + 4))
for name, p in plain.named_parameters():
    whole = dict(spread.named_parameters())[name].full_tensor()
    torch.testing.assert_close(whole, p, rtol=1e-9, atol=1e-12, msg=name)
    assert name not in before or not torch.equal(p, before[name]), name
process_group.finish(world)
"""


@pytest.mark.parametrize("way", ["plain", "compiled"])
def test_two_steps_of_crossmae_on_half_of_the_images_each_are_those_of_one_process(way: str) -> None:
    run_ranks(CROSS, 2, way)


def test_a_rank_holds_half_of_the_weights_and_of_the_moments_made_or_loaded() -> None:
    run_ranks(HALVES, 2)


def test_a_loss_that_is_not_finite_on_one_rank_leaves_every_shard_as_it_is() -> None:
    run_ranks(GUARDED, 2)


def test_the_whole_method_is_plain_and_one_rank_may_use_it_alone() -> None:
    run_ranks(ALONE, 2)
