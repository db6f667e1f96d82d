"""Moments are paired with their weights whatever the order of memory in which a checkpoint holds them."""

import copy

import pytest
import torch
from torch import nn

from models.checkpoint import save_load
from models.checkpoint.async_save import AsyncSaver
from models.config.recipe import Optim
from models.optim.build import build_optimiser, load_moments


def start() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimiser = build_optimiser(network, Optim())
    for group in optimiser.param_groups:
        group["lr"] = 0.1
    return network, optimiser


def step(network: nn.Module, optimiser: torch.optim.Optimizer, number: int) -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
    network(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.mark.parametrize("kept", ["by the saver", "in rows"])
def test_convolutions_resume_as_if_they_had_not_stopped(tmp_path, kept):
    network, optimiser = start()
    step(network, optimiser, 0)
    before = {"method": copy.deepcopy(network.state_dict()), "optimiser": copy.deepcopy(optimiser.state_dict())}
    if kept == "by the saver":
        saver = AsyncSaver(tmp_path)
        saver.save(before)
        saver.close()
        before = save_load.load(tmp_path / "last.pt")
    else:  # as checkpoints were written before
        for held in before["optimiser"]["state"].values():
            held.update({name: each.contiguous() for name, each in held.items() if each.ndim})
    other, resumed = start()
    other.load_state_dict(before["method"])
    load_moments(resumed, before["optimiser"])
    for each in (network, optimiser), (other, resumed):
        step(*each, 1)
    assert torch.equal(network.weight, other.weight)
    held = resumed.state[other.weight]["exp_avg"]
    assert held.stride() == other.weight.stride() != held.contiguous().stride()
