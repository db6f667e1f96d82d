"""Before the first step: images that fit are found by trial, graphs are compiled ahead, and no trace is left."""

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

import train
from models.checkpoint import save_load
from models.config.resolve import resolve
from models.distributed.compile import WORTH_IT, compile_blocks, is_worth_compiling
from models.distributed.process_group import World
from models.optim.schedule import RunLength
from models.records import events
from models.training import trainer, warm_up
from pipeline.errors import InputError
from tests.conftest import same

GPU = torch.device("cuda", 0)
ALONE = World(0, 1, 0, torch.device("cpu"))
LENGTH = RunLength(total_steps=10, warmup_steps=0, labels_only_steps=0, labels_only_epoch_steps=1.0, epoch_steps=5.0)


def trial(fits: int, device: str = "meta", tried: list[int] | None = None) -> SimpleNamespace:
    """A trial whose device has memory for so many images."""

    def step(labelled: int, unlabelled: int, **_: object) -> None:
        if tried is not None:
            tried.append(labelled + unlabelled)
        if labelled + unlabelled > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return SimpleNamespace(method=torch.nn.Linear(2, 2), device=torch.device(device), step=step)


@pytest.mark.parametrize(
    ("fits", "known", "micro", "images", "tried"),
    [
        (1000, None, 1, 256, [256]),
        (200, None, 2, 128, [256, 128]),
        (40, None, 8, 32, [256, 128, 64, 32]),
        (128, 64, 4, 64, [64]),  # at an earlier start: the run goes on as it was
        (32, 64, 8, 32, [64, 32]),  # ... unless it now has less
    ],
)
def test_images_are_halved_until_they_fit(fits, known, micro, images, tried):
    seen: list[int] = []
    found, line = warm_up.fitting(trial(fits, tried=seen), (32, 224), LENGTH, ALONE, known)
    assert (found, seen) == (micro, tried)
    failed = f"{', '.join(map(str, tried[:-1]))} do not fit, " if tried[1:] else ""
    assert line == f"run.device_images auto: {failed}{images} do: {micro} micro-batch{'es' * (micro > 1)} a step"


def test_what_does_not_fit_in_any_part_is_refused_in_one_line():
    with pytest.raises(InputError, match="not even 8 images at once fit on meta, and the step divides no further"):
        warm_up.fitting(trial(3), (32, 224), LENGTH, ALONE, None)


def test_a_cpu_sets_no_limit_and_is_not_tried():
    seen: list[int] = []
    found, line = warm_up.fitting(trial(1, "cpu", seen), (32, 224), LENGTH, ALONE, None)
    assert (found, seen) == (1, [])
    assert line == "run.device_images auto: 256 images at once, as a CPU sets no limit"


def run(tiny: Callable, patch: pytest.MonkeyPatch, folder, *flags: str) -> list[int]:
    """Train with dynamo's eager back-end; -> the number of graphs before each step."""
    graphs = []

    def counted(each, batches, step=train.train_step):
        graphs.append(counters["stats"]["unique_graphs"])
        step(each, batches)
        graphs.append(counters["stats"]["unique_graphs"])

    patch.setattr(train, "train_step", counted)
    patch.setattr(trainer, "compile_blocks", partial(compile_blocks, compiler="eager"))
    flags = (*flags, "--run.compile=on", "--run.stop-step=8", "--optim.labels-only-epochs=3", "--encoder.drop-path=0.3")
    assert tiny("semi_mae:digits", folder, *flags, "--method.pseudo.threshold=0.108", "--run.evaluate-steps=6") == 75
    return graphs


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_steps_compile_nothing_more_and_equal_those_of_a_run_without(tiny, tmp_path, monkeypatch, capsys):
    torch._dynamo.reset()
    with monkeypatch.context() as patch:
        graphs = run(tiny, patch, tmp_path / "ahead", "--run.device-images=auto")
    assert graphs[0] == graphs[-1] > 0
    said = capsys.readouterr().out
    passed = [line.split(": ")[1].split(",")[0] for line in said.splitlines() if line.startswith("compiled ")]
    assert passed[0] == "labels only"
    assert passed[-3:] == ["1 passed", "0 passed", "evaluation"]
    assert "as a CPU sets no limit" in said
    assert events.latest(tmp_path / "ahead", "device_images") == 32
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "get_ready", lambda run: None)
        run(tiny, patch, tmp_path / "without")
    ahead, without = (save_load.load(tmp_path / name / "last.pt") for name in ("ahead", "without"))
    assert same(ahead["method"], without["method"])
    assert same(ahead["optimiser"], without["optimiser"])


def test_a_gpu_is_said_to_wait_for_its_host_where_a_step_is_little_work():
    method = SimpleNamespace(encoder=torch.nn.Linear(1000, 1000, bias=False))
    recipe = resolve("mae:digits", ["--data.size=32", "--encoder.patch=4"])
    enough = math.ceil(warm_up.LEAST_TERAFLOP * 1e12 / (6 * 1e6 * 64))
    assert warm_up.too_small_to_fill(method, recipe, enough, GPU) is None
    line = warm_up.too_small_to_fill(method, recipe, enough // 2, GPU)
    assert line is not None
    assert f"about {warm_up.LEAST_TERAFLOP / 2:.2g} TFLOP ({enough // 2} images)" in line
    assert warm_up.too_small_to_fill(method, recipe, 1, torch.device("cpu")) is None


def test_compiling_is_worth_it_on_a_gpu_for_a_network_of_some_size():
    large, small = torch.nn.Linear(WORTH_IT, 1, bias=False), torch.nn.Linear(WORTH_IT - 1, 1, bias=False)
    cpu = torch.device("cpu")
    assert is_worth_compiling("auto", large, GPU)
    assert not is_worth_compiling("auto", small, GPU)
    assert not is_worth_compiling("auto", large, cpu)
    assert is_worth_compiling("on", small, cpu)
    assert not is_worth_compiling("off", large, GPU)
    with pytest.raises(InputError, match=r"run.device_images is auto.*run.shard.*give --run.device-images a number"):
        resolve("mae:digits", ["--run.device-images=auto", "--run.shard"])
