"""LARS against steps worked out by hand and a slow loop, SGD against torch's; what is not finite changes nothing."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from models.distributed.process_group import settle
from models.optim.lars import LARS, trust_ratio
from tests.models.ranks import run_ranks

RANK = "import sys; from tests.models.optim.test_lars import one_rank; one_rank(sys.argv[1])"


def parameters(*shapes: tuple[int, ...], dtype=torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def gradients(held: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(100 + seed)
    for parameter in held:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def grouped(held: list[nn.Parameter], decay: float, lr: float) -> list[dict]:
    """Matrices decay, vectors do not, as models.optim.build groups them."""
    parts = [[p for p in held if (p.ndim > 1) == matrix] for matrix in (True, False)]
    return [{"params": part, "weight_decay": decay if i == 0 else 0.0, "lr": lr} for i, part in enumerate(parts)]


def test_two_steps_of_lars_are_those_worked_out_by_hand():
    """|w| = 5, |g| = 2: the step is scaled by 0.001 * 5 / 2."""
    w = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    made = LARS([{"params": [w], "lr": 2.0}], momentum=0.9, trust=0.001)
    w.grad = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    made.step()
    assert w.tolist() == [[3.0, pytest.approx(4 - 2 * 0.005)]]
    w.grad = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    made.step()
    scale = 0.001 * math.hypot(3, 3.99) / 0.5
    assert w.tolist() == [[pytest.approx(3 - 2 * scale * 0.5), pytest.approx(3.99 - 2 * 0.9 * 0.005)]]


def slow(start, held_gradients, lr, momentum, trust, decay):
    """MAE's order: decay, then the norms, then momentum, then the rate; flat lists, `matrix` says what is scaled."""
    (matrix, w), v = start, [0.0] * len(start[1])
    for g in held_gradients:
        d = [gi + (decay * wi if matrix else 0) for gi, wi in zip(g, w, strict=True)]
        size, length = (math.sqrt(sum(x * x for x in part)) for part in (w, d))
        scale = trust * size / length if matrix and size > 0 and length > 0 else 1
        v = [momentum * vi + scale * di for vi, di in zip(v, d, strict=True)]
        w = [wi - lr * vi for wi, vi in zip(w, v, strict=True)]
    return w


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lars_is_the_slow_loop(decay):
    held = parameters((3, 4), (5,), (2, 1, 3))
    starts, seen = [(p.ndim > 1, p.flatten().tolist()) for p in held], [[] for _ in held]
    made = LARS(grouped(held, decay, lr=3.0), momentum=0.9, trust=0.01)
    for step in range(3):
        gradients(held, step)
        for kept, parameter in zip(seen, held, strict=True):
            kept.append(parameter.grad.flatten().tolist())
        made.step()
    for parameter, start, given in zip(held, starts, seen, strict=True):
        expected = slow(start, given, 3.0, 0.9, 0.01, decay)
        assert parameter.flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("weights", "change"), [(0.0, 1.0), (1.0, 0.0)])
def test_where_a_norm_is_zero_nothing_is_scaled(weights, change):
    assert trust_ratio(torch.full((2, 2), weights), torch.full((2, 2), change), 0.001) == 1


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_without_trust_it_is_torchs_sgd_to_the_bit(decay):
    ours, theirs = (parameters((3, 4), (5,), dtype=torch.float32) for _ in range(2))
    made = LARS(grouped(ours, decay, lr=0.1), momentum=0.9)
    reference = torch.optim.SGD(grouped(theirs, decay, lr=0.1), lr=0.1, momentum=0.9, foreach=False)
    for step in range(3):
        for held, stepper in ((ours, made), (theirs, reference)):
            gradients(held, step)
            stepper.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("trust", [None, 0.001])
def test_a_step_that_is_not_finite_changes_nothing_even_if_it_is_the_first(trust):
    ours, theirs = (parameters((3, 4), (5,)) for _ in range(2))
    made, reference = (LARS(grouped(held, 0.1, lr=0.1), 0.9, trust) for held in (ours, theirs))
    for step, bad in enumerate((True, False, True, False)):
        gradients(ours, step)
        ours[0].grad[0, 0] = float("nan") if bad else ours[0].grad[0, 0]
        made.found_inf = torch.tensor(float(bad))
        made.step()
        if not bad:
            gradients(theirs, step)
            reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    held, expected = (stepper.state_dict()["state"] for stepper in (made, reference))
    assert all(torch.equal(held[i]["momentum_buffer"], expected[i]["momentum_buffer"]) for i in expected)


def test_parameters_without_a_gradient_do_not_change():
    held = parameters((2, 2), (2, 2))
    gradients(held[:1], 0)
    before = held[1].detach().clone()
    made = LARS([{"params": held, "lr": 1.0}], momentum=0.9, trust=0.1)
    made.step()
    assert torch.equal(held[1], before)
    assert list(made.state) == [held[0]]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3)).double()


def three_steps(model: nn.Module, images: torch.Tensor) -> None:
    made = LARS(grouped(list(model.parameters()), 0.1, lr=5.0), momentum=0.9, trust=0.01)
    for step in range(3):
        made.zero_grad()
        model(images).square().mean().backward()
        made.found_inf = torch.tensor(float(step == 1))  # the second is not to count
        made.step()


def one_rank(folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo")
    rank, model = torch.distributed.get_rank(), network()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    three_steps(model, batch()[4 * rank : 4 * rank + 4])
    torch.save({name: p.full_tensor() for name, p in model.named_parameters()}, Path(folder, f"weights-{rank}.pt"))
    settle()
    torch.distributed.destroy_process_group()


def batch() -> torch.Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_two_ranks_that_share_the_weights_step_as_one(tmp_path):
    run_ranks(RANK, 2, str(tmp_path))
    alone = network()
    three_steps(alone, batch())
    for rank in range(2):
        found = torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True)
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-12, atol=1e-14)
