import pytest
import torch
from torch import nn

from models.ema import EMA


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_follows_the_slow_recurrence(warmup: bool) -> None:
    torch.manual_seed(0)
    student = module().double()
    ema = EMA(student, 0.9, warmup=warmup)
    slow = {name: value.clone() for name, value in student.named_parameters()}
    for step in range(6):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        student(torch.randn(8, 3).double())  # moves the buffers
        ema.update(student, step)
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        for name, value in student.named_parameters():
            slow[name] = decay * slow[name] + (1 - decay) * value
    for name, value in ema.module.named_parameters():
        torch.testing.assert_close(value, slow[name], rtol=1e-12, atol=1e-12)
    for name, value in ema.module.named_buffers():
        assert torch.equal(value, student.get_buffer(name))


def test_the_copy_is_frozen_in_evaluation_mode_and_its_own() -> None:
    student = module()
    ema = EMA(student, 0.99)
    method = nn.ModuleDict({"student": student, "average": ema}).train()
    assert method["student"].training
    assert not any(part.training for part in ema.modules())
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not {id(p) for p in student.parameters()} & {id(p) for p in ema.parameters()}


def test_the_average_travels_in_a_state_dict() -> None:
    student = module()
    ema, other = EMA(student, 0.5), EMA(module(), 0.5)
    other.load_state_dict(ema.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ema.parameters(), other.parameters(), strict=True))


def test_frozen_weights_are_shared_until_both_copies_change() -> None:
    torch.manual_seed(0)
    student = module()
    student[0].requires_grad_(False)
    ema = EMA(student, 0.5)
    assert ema.module[0].weight is student[0].weight
    assert ema.module[1].weight is not student[1].weight
    ema.own_all()
    assert torch.equal(ema.module[0].weight, student[0].weight)
    assert not {p.data_ptr() for p in student.parameters()} & {p.data_ptr() for p in ema.parameters()}
    assert not any(parameter.requires_grad for parameter in ema.parameters())
