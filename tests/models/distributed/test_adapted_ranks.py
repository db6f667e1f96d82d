"""Adapted encoders on two gloo ranks, under DDP and FSDP2: the steps of one process, and frozen weights stay."""

import pytest

from tests.models.ranks import run_ranks

RANK = """
import copy, sys
from dataclasses import replace
import torch
from torch.distributed.tensor import DTensor
from models.config.recipe import Optim, Run
from models.distributed import fsdp, process_group
from models.distributed.compile import compile_blocks
from models.encoder.lora import lora_layers
from models.method import StepInfo
from models.methods import supervised
from models.optim.build import build_optimiser
from models.optim.update import GradientCheck, set_lr
from pipeline.batch import Batch, Labelled

torch.set_num_threads(1)
way, adapt = sys.argv[1:]
world = process_group.start(Run(device="cpu", shard=way != "ddp"))
recipe = supervised.digits()
adapt = int(adapt) if adapt.isdigit() else adapt
recipe = replace(
    recipe,
    encoder=replace(recipe.encoder, width=32, depth=2, heads=2, adapt=adapt),
    optim=replace(recipe.optim, layer_decay=0.75, weight_decay=0.3, ema_decay=0.9),
)
torch.manual_seed(0)
plain = supervised.Supervised(recipe, 10).double().train()
for layer in lora_layers(plain):
    torch.nn.init.normal_(layer.lora_B, std=0.1)
spread = copy.deepcopy(plain)
if way == "shard, compiled":
    compile_blocks(spread, "eager")
if way == "ddp":
    model = process_group.wrap_ddp(spread, world)
else:
    empty = fsdp.without_weights(spread)
    model = fsdp.shard(spread, world)

def step(method, model, mine):
    made = build_optimiser(method, recipe.optim)
    assert len([p for group in made.param_groups for p in group["params"]]) == len(learning)
    set_lr(made, 1e-2)
    check = GradientCheck()
    for number in range(2):
        g = torch.Generator().manual_seed(number)
        images = torch.randn(8, 3, 16, 16, generator=g, dtype=torch.float64)[mine]
        labels = torch.randint(0, 10, (8,), generator=g)[mine]
        model(Batch(0, Labelled(torch.arange(8)[mine], images, labels), None), StepInfo(number, False)).total.backward()
        check(method.named_parameters(), [], "every loss")
        made.step()
        made.zero_grad()
        method.after_step(number)

learning = {name for name, p in plain.named_parameters() if p.requires_grad}
assert learning == {name for name, p in spread.named_parameters() if p.requires_grad}
before = {name: p.detach().clone() for name, p in plain.named_parameters()}
step(plain, plain, slice(0, 8))
step(spread, model, slice(4 * world.rank, 4 * world.rank + 4))
moved = learning | {name.replace("encoder.", "ema.module.") for name in learning}
found = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in spread.named_parameters()}
for name, p in plain.named_parameters():
    torch.testing.assert_close(found[name], p, rtol=1e-9, atol=1e-12, msg=name)
    assert torch.equal(found[name], before[name]) == (name not in moved), name
if way != "ddp":
    whole, images = fsdp.full_method(spread, empty, world), torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(whole.logits(images), plain.logits(images), rtol=1e-9, atol=1e-12)
    for name, p in plain.named_parameters(remove_duplicate=False):  # whose average shares what is frozen
        assert whole.get_parameter(name).requires_grad == p.requires_grad, name
process_group.finish(world)
"""


@pytest.mark.parametrize(
    ("way", "adapt"),
    [*((way, adapt) for way in ("ddp", "shard") for adapt in ("lora", "bitfit", "1", "head")),
     ("shard, compiled", "lora")],
)  # fmt: skip
def test_two_ranks_take_the_steps_of_one_process_and_leave_what_is_frozen(way: str, adapt: str) -> None:
    run_ranks(RANK, 2, way, adapt)
