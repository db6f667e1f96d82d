import pytest
import torch
from torch import nn

from models.training.average import Average


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


@pytest.mark.parametrize("warm_up", [False, True])
def test_the_average_follows_the_slow_recurrence(warm_up: bool) -> None:
    torch.manual_seed(0)
    student = module().double()
    average = Average(student, 0.9, warm_up=warm_up)
    slow = {name: value.clone() for name, value in student.named_parameters()}
    for step in range(6):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        student(torch.randn(8, 3).double())  # moves the buffers
        average.update(student, step)
        decay = min(0.9, (1 + step) / (10 + step)) if warm_up else 0.9
        for name, value in student.named_parameters():
            slow[name] = decay * slow[name] + (1 - decay) * value
    for name, value in average.module.named_parameters():
        torch.testing.assert_close(value, slow[name], rtol=1e-12, atol=1e-12)
    for name, value in average.module.named_buffers():
        assert torch.equal(value, student.get_buffer(name))


def test_the_copy_is_frozen_in_evaluation_mode_and_its_own() -> None:
    student = module()
    average = Average(student, 0.99)
    method = nn.ModuleDict({"student": student, "average": average}).train()
    assert method["student"].training
    assert not any(part.training for part in average.modules())
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not {id(p) for p in student.parameters()} & {id(p) for p in average.parameters()}


def test_the_average_travels_in_a_state_dict() -> None:
    student = module()
    average, other = Average(student, 0.5), Average(module(), 0.5)
    other.load_state_dict(average.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), other.parameters(), strict=True))
