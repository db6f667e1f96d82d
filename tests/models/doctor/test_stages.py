"""The checks of the doctor's stages find what is planted, and find nothing where nothing is."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.bench.step_time import FixedShare
from models.config.resolve import resolve
from models.doctor import cluster, own_commands, step_rates
from models.doctor.own_commands import Done, apart
from models.doctor.photographs import COUNT, open_photographs
from models.doctor.stage import Context
from models.doctor.stages import attention, backends, correctness, end_to_end, ranks, throughput, views
from models.optim.update import FiniteGuard
from pipeline.errors import InputError
from pipeline.executors import gpu_views
from pipeline.spec import View

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Context:
    return Context(False, True, None, tmp_path_factory.mktemp("doctor"))


@pytest.fixture(scope="module")
def photographs(context):
    return open_photographs(context)


SHAPE = attention.Shape("toy", None, 2, 3, 5, 8)


def test_attention_is_right_and_a_planted_one_is_not(monkeypatch):
    assert attention.examined(SHAPE, CPU, torch.float32, new=2).result == "ok"
    right = attention.attend
    monkeypatch.setattr(attention, "attend", lambda drawn: right(drawn) * 1.001)
    assert attention.examined(SHAPE, CPU, torch.float32, new=2).result == "wrong"


@pytest.mark.parametrize(
    ("cost", "dear"), [((45.0, 0.4), True), ((0.5, 0.4), False), ((8.0, 6.0), False), (None, False)]
)
def test_a_new_number_is_dear_if_it_takes_much_more(cost, dear):
    assert attention.dear(cost) == dear


@pytest.mark.parametrize(
    ("cudnn", "told"), [((0.5, 0.2), True), ((90.0, 0.2), False), ((0.5, 0.5), False), (None, False)]
)
def test_cudnn_is_told_of_where_it_is_faster_and_plans_nothing(cudnn, told):
    assert bool(attention.faster_cudnn({"run": (0.5, 0.4), "cudnn": cudnn})) == told


def test_a_dear_number_is_a_slow_row(monkeypatch):
    monkeypatch.setattr(attention, "costs", lambda *_: (50.0, 0.5))
    assert attention.examined(SHAPE, CPU, torch.float32, new=2).result == "slow"
    assert (
        attention.examined(replace(SHAPE, samples=3), CPU, torch.float32, new=2).result == "ok"
    )  # its number is fixed


def test_the_packed_step_is_right_and_a_planted_one_is_not(monkeypatch):
    assert [row.result for row in correctness.packed_rows(CPU)] == ["ok"] * 4
    monkeypatch.setattr(correctness, "packed", lambda *given: correctness.separate(*given) * 1.01)
    assert [row.result for row in correctness.packed_rows(CPU)] == ["wrong"] * 4


def test_a_parameter_without_a_gradient_is_named(monkeypatch):
    monkeypatch.setattr(correctness, "METHODS", ("mae", "semi_mae"))
    assert correctness.gradients(CPU).result == "ok"
    made = correctness.made

    def lost(recipe, device):
        method, batch = made(recipe, device)
        method.unread = torch.nn.Parameter(torch.zeros(3))
        return method, batch

    monkeypatch.setattr(correctness, "made", lost)
    row = correctness.gradients(CPU)
    assert (row.result, row.figure) == ("wrong", "mae: unread, semi_mae: unread")


def test_a_guard_that_lets_nan_in_is_wrong(monkeypatch):
    assert correctness.planted_nan(CPU).result == "ok"
    monkeypatch.setattr(FiniteGuard, "step", lambda self, optimiser, *_: optimiser.step())
    assert correctness.planted_nan(CPU).figure == "they changed"
    monkeypatch.setattr(FiniteGuard, "step", lambda *_: None)
    assert correctness.planted_nan(CPU).result == "wrong"


# torch 2.13's dynamo asks activations for .grad and hides its own warning in a way that "error" outruns (November 2026)
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_are_compared(monkeypatch):
    monkeypatch.setattr(correctness, "compile_blocks", lambda method, _: method.encoder.norm.weight.data.mul_(1.1))
    assert [row.result for row in correctness.compiled(CPU)] == ["wrong", "skipped"]
    monkeypatch.setattr(correctness, "compile_blocks", lambda method, _: None)
    assert [row.result for row in correctness.compiled(CPU)] == ["ok", "skipped"]


def test_every_wait_is_an_error_but_the_count_of_what_passed(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    nonzero = torch.Tensor.nonzero
    with correctness.no_waits() as counted:
        assert torch.tensor([0, 2, 0]).nonzero().tolist() == [[1]]
    assert (counted.number, modes) == (1, ["error", "default", "error", "default"])
    assert torch.Tensor.nonzero is nonzero
    with pytest.raises(ZeroDivisionError), correctness.no_waits():
        raise ZeroDivisionError
    assert modes[-1] == "default"


def test_the_one_wait_of_a_step_is_counted_and_another_is_slow(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda _: None)
    row = correctness.waits(CPU)
    assert (row.result, row.values) == ("ok", {"semi_mae": 1.0, "mae": 0.0})
    guard = FiniteGuard.step

    def waiting(self, *given):
        guard(self, *given)
        if len(self._unchecked) > 1:  # the first step is not watched
            raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(FiniteGuard, "step", waiting)
    assert correctness.waits(CPU).result == "slow"


def test_every_crop_filter_preset_and_kind_of_erasing_is_compared():
    crops = [(view.crop, view.filter) for view in views.crops().values()]
    assert {*crops} == {*product(("random_resized", "resize_then_crop", "centre"), ("area", "bilinear", "bicubic"))}
    named = " ".join(views.presets())
    assert all(kind in named for kind in ("usb", "timm", "torchvision", "cutout", "random", "jitter"))


def test_views_agree_and_a_planted_executor_does_not(photographs, monkeypatch):
    ids = np.arange(6)
    plan = views.planned(photographs, View(augment="usb", erase="cutout"), ids, 32)
    crop = views.planned(photographs, View(scale=(0.5, 1.0)), ids, 32)
    assert views.colours_row("usb", plan, CPU).result == "ok"
    assert views.crop_row("random", crop, photographs, CPU).result == "ok"
    own = gpu_views.executors("cpu")
    wrong = own._replace(erase=lambda *given: own.erase(*given) + 1, cut=lambda *given: own.cut(*given) // 2)
    monkeypatch.setattr(gpu_views, "executors", lambda _: wrong)
    assert views.colours_row("usb", plan, CPU).result == "wrong"
    assert views.crop_row("random", crop, photographs, CPU).result == "wrong"


def test_the_stores_and_the_race_are_compared_by_their_pixels(photographs, monkeypatch):
    assert views.stores_row(photographs, np.arange(4), 32, CPU).result == "ok"
    monkeypatch.setattr(views, "BATCHES", 2)
    assert views.race_row(photographs, 32, CPU).result == "ok"
    monkeypatch.setattr(views, "sums", lambda *_, asleep: torch.full((2, 3), int(asleep)))
    row = views.race_row(photographs, 32, CPU)
    assert (row.result, row.figure[:22]) == ("wrong", "2 of 2 batches differ;")


def test_a_step_is_measured_and_its_weights_stay():
    flags = ["--encoder.width=32", "--encoder.depth=1", "--encoder.heads=2", "--data.ratio=3"]
    recipe = resolve("semi_mae:digits", flags)
    step = step_rates.Stepper(recipe, step_rates.built(recipe, 10, CPU))
    batch = throughput.synthetic_batch(recipe, 8, 10, CPU)
    before = {name: value.clone() for name, value in step.method.named_parameters()}
    flops = step_rates.flops_per_image(step, batch)
    rates = step_rates.measured(step, batch, flops, seconds=0.0)
    assert all(torch.equal(before[name], value) for name, value in step.method.named_parameters())
    assert rates.images == 8
    assert min(rates.fixed, rates.varying, rates.tflops, flops) > 0
    assert throughput.step_row("toy", rates).result == "ok"
    assert step_rates.host_ms(step, batch) > 0


def test_the_number_that_passes_varies_from_step_to_step():
    recipe = resolve("fixmatch:digits", ["--encoder.width=32", "--encoder.depth=1", "--encoder.heads=2"])
    step = step_rates.Stepper(recipe, step_rates.built(recipe, 10, CPU))

    def passed() -> set[int]:
        (threshold,) = [part for part in step.method.modules() if isinstance(part, FixedShare)]
        return {int(threshold.weigh(torch.rand(90), torch.zeros(90)).sum()) for _ in range(20)}

    step.let_pass()
    assert passed() == {45}
    step.let_pass(varying=True)
    assert len(passed()) > 5


def test_kernels_and_copies_are_the_gpus_work_and_ranges_around_them_are_not():
    cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
    events = [
        SimpleNamespace(name=name, device_type=kind)
        for name, kind in (("void kernel<float>", cuda), ("Memcpy HtoD (Pinned -> Device)", cuda), ("aten::mm", cpu),
                           ("Optimizer.step#AdamW.step", cuda), ("## Call CompiledFxGraph", cuda))
    ]  # fmt: skip
    assert [step_rates.is_gpu_work(event) for event in events] == [True, True, False, False, False]


@pytest.mark.parametrize(("changed", "result"), [
    ({}, "ok"), ({"varying": 700.0}, "slow"), ({"gpu_ms": 60.0}, "slow"), ({"varying": 990.0, "gpu_ms": 99.0}, "ok"),
])  # fmt: skip
def test_a_gpus_rates_are_judged(changed, result):
    rates = step_rates.Rates(100, 1000.0, 1000.0, 100.0, 200.0, 95.0, 1600, 8.0, 9.0)
    row = throughput.step_row("step", replace(rates, **changed))
    assert row.result == result
    assert "1,600 kernels" in row.figure


def test_a_profiler_that_sees_nothing_is_said():
    row = throughput.step_row("step", step_rates.Rates(9, 9.0, 9.0, 9.0, 9.0, peak_gb=8.0, reserved_gb=9.0))
    assert (row.result, "saw no kernels" in row.figure, "reserved 9.0" in row.figure) == ("ok", True, True)


def test_the_loader_feeds_the_step(context, monkeypatch):
    recipe = resolve("semi_mae:digits", ["--encoder.width=32", "--encoder.depth=1", "--encoder.heads=2"])
    step = step_rates.Stepper(recipe, step_rates.built(recipe, 10, CPU))
    monkeypatch.setattr(throughput.time, "perf_counter", iter(np.arange(0, 1e4, 0.7)).__next__)
    row = throughput.feeding_row(context, step, 32)
    assert "of the time waiting for data" in row.figure
    assert row.values["images_s"] > 0


def test_without_dali_its_rows_say_so(photographs, monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: None)
    rows = list(backends.dali_rows(photographs, False, CPU, 0.1))
    assert {(row.result, row.figure) for row in rows} == {("skipped", "DALI is not installed")}


def test_dalis_pixels_are_ffcvs(photographs):
    pytest.importorskip("nvidia.dali")
    row = backends.cpu_row(photographs, 0.1)
    assert row.result == "ok"
    assert "0 level(s) from ffcv" in row.figure


def test_images_kept_decoded_are_measured(photographs):
    assert backends.kept_row(photographs, CPU, 0.1).values["images_s"] > 0


def checkpoint(folder: Path, value: float) -> Path:
    from models.checkpoint import save_load

    folder.mkdir()
    save_load.save(folder, {"method": {"weight": torch.full((3,), value)}})
    return folder


def test_a_resumed_run_is_compared_to_the_bit(tmp_path):
    whole, same, near, far = (checkpoint(tmp_path / str(i), value) for i, value in enumerate((1.0, 1.0, 1 + 1e-5, 2.0)))
    assert apart(same, whole) == 0.0
    done = Done(0, "")
    for halves, cuda, result in ((same, False, "ok"), (near, False, "wrong"), (near, True, "ok"), (far, True, "wrong")):
        assert end_to_end.resumed_row(done, whole, halves, cuda=cuda).result == result
    assert end_to_end.resumed_row(Done(1, "x\nKeyError: 'planted'\n"), whole, same, cuda=False).figure.endswith(
        "'planted'"
    )


def test_commands_are_judged_by_their_exit_code():
    assert end_to_end.trained_row(Done(0, "24/24  test: top1 95.0 %\nreport: x")).figure == "top1 95.0 %"
    assert end_to_end.trained_row(Done(None, "")).result == "wrong"
    assert end_to_end.command_row("e", Done(0, "images  3\ntop1   9 %\npage: x"), "top1 ").figure == "top1 9 %"
    assert end_to_end.command_row("e", Done(2, "error: no\n"), "top1").result == "wrong"


def test_a_command_that_does_not_end_is_ended():
    done = own_commands.ran(["-c", "print('begun', flush=True); import time; time.sleep(100)"], limit_s=1)
    assert done == Done(None, "begun\n")


def test_digits_that_cannot_be_made_are_said(monkeypatch, tmp_path):
    def no_module(_):
        raise ModuleNotFoundError("No module named 'sklearn'")

    monkeypatch.setattr(own_commands, "ensure_digits", no_module)
    with pytest.raises(InputError, match="install scikit-learn"):
        own_commands.digits(tmp_path)


RIGHT = '{"right": true, "gb_s": 42.0, "ranks": 8, "kind": "cuda"}\n'


@pytest.mark.parametrize(("code", "printed", "result"), [
    (0, RIGHT, "ok"), (0, RIGHT.replace("42.0", "1.0"), "slow"), (0, RIGHT.replace("true", "false"), "wrong"),
    (None, "NCCL WARN\n", "wrong"), (1, RIGHT, "wrong"), (0, "", "wrong"),
    (0, RIGHT.replace("42.0", "1.0").replace("cuda", "cpu"), "ok"),
])  # fmt: skip
def test_an_exchange_is_judged(code, printed, result):
    assert cluster.exchange_row("all-reduce", code, printed).result == result


def test_one_process_exchanges_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert cluster.exchange() is None


def test_two_processes_sum_over_both():
    first, second = ranks.by_ranks(["-m", "models.doctor.all_reduce"], 2)
    row = cluster.exchange_row("all-reduce", *first)
    assert (row.result, second.code) == ("ok", 0)
    assert row.figure.endswith("a rank of 2")


WRAPPED = """
import torch
from models.doctor.stages import ranks
for row in ranks.wrapped_rows(torch.device("cpu")):
    print(row.result, row.what)
"""


def test_ddp_and_fsdp_of_one_rank_give_a_plain_steps_gradients():
    done = own_commands.ran(["-c", WRAPPED])
    assert done.printed.splitlines()[-2:] == ["ok DDP of one rank, gloo", "ok FSDP2 of one rank, gloo"]


def test_gradients_of_other_shapes_or_values_are_apart():
    one, two = [torch.ones(2)], [torch.full((2,), 2.0)]
    assert ranks.relative(one, one) == 0
    assert ranks.relative(one, two) == pytest.approx(0.5)
    assert ranks.relative(one, [torch.ones(3)]) == float("inf")


def test_the_photographs_are_as_many_bytes_as_photographs(photographs):
    assert photographs.n == COUNT
    assert 40_000 < photographs.sizes[:].mean() < 90_000
