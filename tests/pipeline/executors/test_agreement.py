"""A kernel whose views are not torch's is not used, and the run says so: planted ones, and ours by the interpreter."""

import json
import sys

import pytest
import torch

import pipeline
from pipeline.executors import agreement, gpu_views
from tests.pipeline.executors import by_triton

CPU, SIZE = torch.device("cpu"), 12
INTERPRETED = """
import torch, triton.language as tl
from pipeline.executors import agreement, erase_triton
ours, cpu = agreement.kernels(), torch.device("cpu")
for name in ("to_rgb", "cut", "resize", "erase"):  # colours take it a minute, and have their own test
    assert agreement.disagreement(name, ours[name], cpu, 4) is None, name
erase_triton._BASE_1 = tl.constexpr(erase_triton.BASE[1] + (3 << 16))
assert agreement.disagreement("erase", ours["erase"], cpu, 4) is not None
"""


def off_by(levels: int, name: str):
    """An executor that gives one image of a batch other levels."""

    def kernel(*arguments, **named):
        views = agreement.REFERENCE[name](*arguments, **named).clone(memory_format=torch.contiguous_format)
        flat = views.view(-1)
        flat[0] = (flat[0].int() + levels) % 256
        return views

    return kernel


@pytest.mark.parametrize("name", agreement.REFERENCE)
def test_the_reference_agrees_with_itself_and_a_planted_kernel_does_not(name):
    assert agreement.disagreement(name, agreement.REFERENCE[name], CPU, SIZE) is None
    assert "differs from torch in" in agreement.disagreement(name, off_by(2, name), CPU, SIZE)


def test_a_cut_may_be_rounded_otherwise_and_colours_may_not():
    assert agreement.disagreement("cut", off_by(1, "cut"), CPU, 12) is None
    assert agreement.disagreement("cut", off_by(1, "cut"), CPU, 4) is not None  # one of 576 is more than a thousandth
    assert agreement.disagreement("apply_ops", off_by(1, "apply_ops"), CPU, 40) is not None


def test_every_operation_changes_the_pictures_that_are_compared():
    run = agreement.cases(CPU, 24)["apply_ops"]  # equalising changes nothing below 256 pixels
    single, *_ = run(agreement.REFERENCE["apply_ops"], CPU)
    pictures, *_ = run(lambda images, *_, **__: images, CPU)
    changed = (single != pictures).flatten(1).any(1).view(-1, len(agreement.ARGS)).any(1)
    unchanged = [name for name, each in zip(agreement.ra.NAMES, changed, strict=True) if not each]
    assert unchanged == ["identity"]


def test_the_kernels_agree_when_they_are_interpreted_and_a_wrong_one_does_not():
    by_triton.interpreted(INTERPRETED)


@pytest.mark.gpu
def test_the_kernels_agree_on_the_gpu():
    assert agreement.check(torch.device("cuda")) == ({}, True)


def answer(*lines: dict, code: int = 0) -> tuple[str, ...]:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return sys.executable, "-c", f"print({text!r}, end=''); raise SystemExit({code})"


def test_a_check_that_crashes_refuses_what_it_had_not_compared():
    agrees, differs = {"kernel": "cut", "why": None}, {"kernel": "apply_ops", "why": "it differs"}
    found, sure = agreement.check(CPU, answer(agrees, differs, code=134))
    crashed = dict.fromkeys(("to_rgb", "resize", "erase"), "its check ended with code 134")
    assert (found, sure) == ({"apply_ops": "it differs"} | crashed, False)
    whole = agrees, differs, *({"kernel": name, "why": None} for name in ("to_rgb", "erase", "resize"))
    assert agreement.check(CPU, answer(*whole)) == ({"apply_ops": "it differs"}, True)


def test_a_check_that_cannot_open_the_device_is_made_in_this_process(monkeypatch):
    wrong = dict(agreement.REFERENCE, erase=off_by(3, "erase"))
    monkeypatch.setattr(agreement, "kernels", lambda: wrong)
    found, sure = agreement.check(CPU, answer(code=agreement.NOT_OPENED))
    assert (list(found), sure) == (["erase"], True)


def test_a_sure_answer_is_kept_and_another_is_asked_for_again(tmp_path):
    asked = []

    def ask(found, sure):
        def answered():
            asked.append(found)
            return found, sure

        return answered

    file = tmp_path / "agreement" / "x.json"
    assert agreement.kept(file, ask({"cut": "crashed"}, False)) == {"cut": "crashed"}
    assert agreement.kept(file, ask({}, True)) == {}
    assert agreement.kept(file, ask({"cut": "never asked"}, True)) == {}
    assert asked == [{"cut": "crashed"}, {}]


@pytest.fixture
def pretended(monkeypatch):
    """A GPU that is asked for nothing but its name, on which a kernel is refused."""
    pytest.importorskip("triton", reason="Triton comes with the CUDA builds of torch")
    from triton.runtime import driver

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(type(driver), "active", property(lambda _: type("Driver", (), {"get_current_target": int})))
    for cached in (gpu_views.executors, gpu_views.check_device):
        cached.cache_clear()
    yield
    for cached in (gpu_views.executors, gpu_views.check_device):
        cached.cache_clear()


def test_a_refused_kernel_is_replaced_and_said_in_one_line(pretended, monkeypatch, capsys):
    from pipeline.executors import crop_flip_triton, erase_triton, resize_triton, yuv420_triton

    monkeypatch.setattr(agreement, "refused", lambda _: {"apply_ops": "it differs from torch in 3 of 4 images"})
    used = gpu_views.executors("cuda")
    colours = agreement.REFERENCE["apply_ops"]
    assert used == (yuv420_triton.to_rgb, crop_flip_triton.cut, resize_triton.resize, colours, erase_triton.erase)
    gpu_views.check_device(torch.device("cuda"))
    gpu_views.check_device(torch.device("cuda"))
    (line,) = capsys.readouterr().out.splitlines()
    assert "kernel of apply_ops is not used on a GPU" in line
    assert "differs from torch in 3 of 4 images" in line


def test_nothing_is_refused_without_a_gpu_and_nothing_is_said(monkeypatch, capsys):
    assert agreement.refused.__wrapped__(CPU) == {}
    assert agreement.refused.__wrapped__(torch.device("cuda")) == {} or torch.cuda.is_available()
    gpu_views.check_device(CPU)
    assert capsys.readouterr().out == ""


def test_the_answers_folder_is_this_users_own():
    folder = pipeline.temporary_folder("agreement")
    assert folder is not None
    assert folder.parent.stat().st_mode & 0o077 == 0
