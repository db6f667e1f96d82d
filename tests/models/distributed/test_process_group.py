import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.config.recipe import Run
from models.distributed.process_group import World, any_rank, from_main, start, sum_over_ranks, wrap_ddp
from pipeline.errors import InputError
from tests.models.ranks import run_interpreters, run_ranks

TOGETHER = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from models.config.recipe import Optim, Run
from models.distributed.process_group import any_rank, finish, from_main, start, sum_over_ranks, wrap_ddp
from models.optim.build import build_optimiser
from models.optim.update import FiniteGuard, clip_grad_norm, set_lr
from pipeline.errors import InputError

world = start(Run(device="cpu", devices=2))
torch.manual_seed(world.rank)
votes = [any_rank(False, world), any_rank(world.rank == 1, world), any_rank(True, world)]
total = sum_over_ranks(torch.tensor([1.0 + world.rank, 10.0]), world).tolist()
word = from_main({"backend": f"rank {world.rank}"}, world)

torch.manual_seed(3)
method = nn.Linear(4, 2)
images = torch.randn(8, 4)
method(images).square().mean().backward()
expected = method.weight.grad.clone()
method.zero_grad()
ours = wrap_ddp(method, world)
ours(images[world.rank::2]).square().mean().backward()
error = float((method.weight.grad - expected).abs().max())

made, guard = build_optimiser(method, Optim()), FiniteGuard(world)
set_lr(made, 1e-2)
before = method.weight.detach().clone()
loss = torch.tensor(float("inf") if world.rank == 1 else 1.0)
guard.step(made, loss, clip_grad_norm(method.parameters(), None), torch.tensor([10 + world.rank]), 0)
unchanged = torch.equal(before, method.weight)
message = ""
try:
    guard.check(Path(sys.argv[1]))
except InputError as caught:
    message = str(caught)
print(json.dumps([world.rank, world.size, world.main, votes, total, word, error, unchanged, message]))
finish(world)
"""

ALONE = World(0, 1, 0, torch.device("cpu"))


def test_two_processes_agree_add_average_and_skip_together(tmp_path: Path) -> None:

    first, second = (json.loads(output) for output in run_ranks(TOGETHER, 2, str(tmp_path)))
    assert first[:3] == [0, 2, True]
    assert second[:3] == [1, 2, False]
    for _, _, _, votes, total, word, error, unchanged, message in (first, second):
        assert votes == [False, True, True]
        assert total == [3.0, 20.0]
        assert word == {"backend": "rank 0"}
        assert error < 1e-6
        assert unchanged
        assert "not finite in step 0" in message
    assert json.loads((tmp_path / "not_finite.json").read_text())["ids"] == [11]  # only rank 1's loss was bad


LEAVING = """
import json, os
from pathlib import Path
import torch
from models.config.recipe import Run
from models.distributed.process_group import finish, start, sum_over_ranks

def threads():
    return [Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in os.listdir("/proc/self/task")]

world = start(Run(device="cpu", devices=2))
sum_over_ranks(torch.ones(1), world)
before = threads()
finish(world)
print(json.dumps([before, threads()]))
"""


def test_no_thread_of_gloo_outlives_the_groups() -> None:
    for output in run_interpreters(LEAVING, 2):
        before, after = json.loads(output)
        assert any("gloo" in name for name in before)
        assert not any("gloo" in name for name in after)


def test_a_single_process_is_its_own_world(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    world = start(Run(device="cpu", devices=1))
    assert world == ALONE
    assert world.main
    method = torch.nn.Linear(1, 1)
    assert wrap_ddp(method, world) is method
    assert any_rank(True, world)
    assert not any_rank(False, world)
    assert sum_over_ranks(torch.tensor([2.0]), world).tolist() == [2.0]
    assert from_main("mine", world) == "mine"


def gpus(monkeypatch: pytest.MonkeyPatch, visible: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


@pytest.mark.parametrize(
    ("visible", "run", "environment", "message"),
    [
        (8, Run(), {}, r"8 GPUs are visible.*torchrun --nproc-per-node 8.*--run.devices 1"),
        (2, Run(devices=4), {}, r"run.devices is 4, 2 GPU"),
        (4, Run(devices=4), {}, r"1 process.*torchrun --nproc-per-node 4"),
        (4, Run(devices=2), {"WORLD_SIZE": "4"}, r"run.devices is 2, 4 process"),
        (2, Run(), {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, r"4 processes were started here, 2 GPUs"),
        (0, Run(device="cuda"), {}, r"no GPU is visible"),
    ],
)
def test_devices_that_do_not_fit_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, visible: int, run: Run, environment: dict[str, str], message: str
) -> None:
    gpus(monkeypatch, visible)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message) as caught:
        start(run)
    assert "\n" not in str(caught.value)


def test_tasks_of_a_slurm_step_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")  # as in a batch script or under salloc: one process of a larger job
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert start(Run(device="cpu")).size == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # srun --ntasks 1
    assert start(Run(device="cpu")).size == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(InputError, match="srun started 8 tasks, but RANK is not set"):
        start(Run(device="cpu"))
    monkeypatch.setenv("RANK", "0")  # torchrun in a step: one of its own world
    assert start(Run(device="cpu")).size == 1


def test_one_gpu_of_many_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 8)
    assert start(Run(devices=1)).device == torch.device("cuda", 0)
    gpus(monkeypatch, 1)
    assert start(Run()).device == torch.device("cuda", 0)
    gpus(monkeypatch, 0)
    assert start(Run()).device == torch.device("cpu")


@pytest.mark.parametrize(("asked", "left_to_torch"), [(None, False), ("0", False), ("1", True)])
def test_attention_on_a_gpu_leaves_out_cudnns_plans_for_each_shape(monkeypatch, asked, left_to_torch) -> None:
    gpus(monkeypatch, 1)
    before = torch.backends.cuda.cudnn_sdp_enabled(), torch.get_float32_matmul_precision()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        if asked is not None:
            monkeypatch.setenv("SHOTCRETE_CUDNN_ATTENTION", asked)
        start(Run())
        assert torch.backends.cuda.cudnn_sdp_enabled() is left_to_torch
        assert torch.backends.cuda.flash_sdp_enabled()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before[0])
        torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "expandable_segments:True None"),
        ({"PYTORCH_ALLOC_CONF": "a:1"}, "a:1 None"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "b:2"}, "None b:2"),
    ],
)
def test_segments_grow_unless_the_user_has_chosen(environment, expected) -> None:
    shown = "import models, os; print(*map(os.environ.get, ('PYTORCH_ALLOC_CONF', 'PYTORCH_CUDA_ALLOC_CONF')))"
    clean = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    told = subprocess.run([sys.executable, "-c", shown], env=clean | environment, capture_output=True, text=True)
    assert told.stdout.strip() == expected
