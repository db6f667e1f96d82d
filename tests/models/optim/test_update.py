import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.config.recipe import Optim
from models.distributed.process_group import World
from models.optim.build import build_optimiser
from models.optim.update import FiniteGuard, GradientCheck, clip_grad_norm, set_lr
from pipeline.errors import InputError
from tests.conftest import same

ALONE = World(0, 1, 0, torch.device("cpu"))
IDS = torch.tensor([5, 9])


KINDS = pytest.mark.parametrize("kind", ["adamw", "lars", "sgd"])


def toy(kind: str = "adamw") -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    method = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1))
    made = build_optimiser(method, Optim(kind=kind, weight_decay=0.1))
    set_lr(made, 1e-2)
    return method, made


def backward(method: nn.Module, poison: float = 1.0) -> torch.Tensor:
    method.zero_grad()
    loss = method(torch.arange(6.0).reshape(2, 3)).square().mean() * poison
    loss.backward()
    return loss


@KINDS
def test_a_finite_step_is_a_plain_step(tmp_path: Path, kind: str) -> None:
    (ours, made), (plain, reference), guard = toy(kind), toy(kind), FiniteGuard(ALONE)
    for step in range(3):
        guard.step(made, backward(ours), clip_grad_norm(ours.parameters(), None), IDS, step)
        backward(plain)
        reference.step()
    guard.check(tmp_path)
    assert same(ours.state_dict(), plain.state_dict())
    assert same(made.state_dict()["state"], reference.state_dict()["state"])
    assert list(tmp_path.iterdir()) == []


@KINDS
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing_and_is_named(tmp_path: Path, poison: float, kind: str) -> None:
    (method, made), guard = toy(kind), FiniteGuard(ALONE)
    guard.step(made, backward(method), clip_grad_norm(method.parameters(), 1.0), torch.tensor([1, 2]), 0)
    weights, moments = copy.deepcopy(method.state_dict()), copy.deepcopy(made.state_dict()["state"])
    guard.step(made, backward(method, poison), clip_grad_norm(method.parameters(), 1.0), IDS, 1)
    assert same(method.state_dict(), weights)
    assert same(made.state_dict()["state"], moments)
    with pytest.raises(InputError, match=r"^loss or gradient was not finite in step 1 \(1 such[^\n]*$"):
        guard.check(tmp_path)
    assert json.loads((tmp_path / "not_finite.json").read_text()) == {"step": 1, "ids": [5, 9]}


def test_an_infinite_loss_under_finite_gradients_is_caught(tmp_path: Path) -> None:
    (method, made), guard = toy(), FiniteGuard(ALONE)
    weights = copy.deepcopy(method.state_dict())
    loss = backward(method)
    guard.step(made, loss.detach() + float("inf"), clip_grad_norm(method.parameters(), None), IDS, 0)
    assert same(method.state_dict(), weights)
    with pytest.raises(InputError):
        guard.check(tmp_path)


@KINDS
def test_steps_after_a_bad_one_still_train_until_the_check(tmp_path: Path, kind: str) -> None:
    (method, made), guard = toy(kind), FiniteGuard(ALONE)
    for step, poison in enumerate((1.0, float("nan"), 1.0)):
        guard.step(made, backward(method, poison), clip_grad_norm(method.parameters(), None), IDS, step)
    plain, reference = toy(kind)
    for _ in range(2):
        backward(plain)
        reference.step()
    assert same(method.state_dict(), plain.state_dict())


def gradients(scale: float) -> list[nn.Parameter]:
    held = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(5))]
    torch.manual_seed(0)
    for parameter in held[:2]:  # the third never got one
        parameter.grad = scale * torch.randn(parameter.shape)
    return held


def flat(held: list[nn.Parameter]) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in held if parameter.grad is not None])


@pytest.mark.parametrize("norm", [None, 0.5, 1e3])
def test_clipping_scales_to_the_norm_and_reports_the_one_before(norm: float | None) -> None:
    held = gradients(2.0)
    before = flat(held)
    total = clip_grad_norm(held, norm)
    assert total.shape == ()
    assert float(total) == pytest.approx(float(before.norm()), rel=1e-6)
    scale = 1 if norm is None else min(1, norm / float(before.norm()))
    torch.testing.assert_close(flat(held), before * scale, rtol=1e-5, atol=0)


def test_a_parameter_that_lost_its_gradient_stops_the_run_and_one_that_is_idle_or_frozen_does_not():
    net = torch.nn.ModuleDict({name: torch.nn.Linear(2, 1) for name in ("used", "idle", "frozen", "lost")})
    net["frozen"].requires_grad_(False)
    net["used"](torch.ones(1, 2)).sum().backward()
    idle = list(net["idle"].parameters())
    with pytest.raises(InputError, match=r"2 parameters .* got no gradient .*\(labels only\): lost.weight, lost.bias"):
        GradientCheck()(net.named_parameters(), idle, "labels only")

    net["lost"](torch.ones(1, 2)).sum().backward()
    check = GradientCheck()
    check(net.named_parameters(), idle, "labels only")
    net.zero_grad(set_to_none=True)
    check(net.named_parameters(), idle, "labels only")  # looked at once, as it walks over all parameters
    with pytest.raises(InputError, match="every loss"):
        check(net.named_parameters(), idle, "every loss")
