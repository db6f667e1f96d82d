"""What a user reads where DALI cannot be used."""

import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from pipeline.backends import dali_pipe
from pipeline.errors import InputError
from pipeline.open import open_backend
from pipeline.store.beton import Beton
from tests.pipeline.test_loader import CPU, data_of
from tests.pretended import pretended_gpu


def test_pixels_that_do_not_lie_together_are_put_together(dali):
    images = [np.full((2, 3, 3), level, np.uint8) for level in (1, 2)]
    listed = dali.tensors.TensorListCPU([dali.tensors.TensorCPU(each) for each in images])

    class Scattered:
        def __iter__(self):
            return iter(listed)

        def shape(self):
            return listed.shape()

        def as_reshaped_tensor(self, _):
            raise RuntimeError("not contiguous")

    expected = torch.from_numpy(np.concatenate(images).reshape(-1, 3))
    assert torch.equal(dali_pipe.packed(listed), expected)
    assert torch.equal(dali_pipe.packed(Scattered()), expected)


def test_pixels_are_put_together_beside_the_training_step_which_nobody_waits_for(monkeypatch):
    """On a stream of their own, whose end is waited for, as DALI overwrites what is copied."""

    class Scattered(list):
        def shape(self):
            return [tuple(image.shape) for image in self]

        def as_reshaped_tensor(self, _):
            raise RuntimeError("not contiguous")

    log, now = [], ["training"]

    class Event:
        def __init__(self, blocking: bool):
            assert blocking

        def record(self, stream: str):
            log.append(f"recorded on {stream}")

        def synchronize(self):
            log.append("waited")

    @contextmanager
    def on(stream: str | None):
        now.append(stream or now[-1])
        yield
        now.pop()

    def cat(images: list) -> torch.Tensor:
        log.append(f"copied on {now[-1]}")
        return together(images)

    together = torch.cat
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", None)  # is not asked for
    monkeypatch.setattr(torch.cuda, "synchronize", None)
    monkeypatch.setattr(torch, "from_dlpack", lambda image: image)
    monkeypatch.setattr(torch, "cat", cat)
    with pretended_gpu(monkeypatch):
        image = torch.zeros(2, 3, 3, dtype=torch.uint8, device="cuda")
        assert dali_pipe.packed(Scattered([image, image]), "packing").shape == (12, 3)
    assert log == ["copied on packing", "recorded on packing", "waited"]


def test_the_share_of_the_gpus_engine_reaches_dali(dali, nothing_stays, beton, monkeypatch):
    asked, image = [], dali.fn.decoders.image

    def spied(jpegs, **options):
        asked.append(options["hw_decoder_load"])
        return image(jpegs, **options)

    monkeypatch.setattr(dali.fn.decoders, "image", spied)
    for data in (data_of(beton, backend="dali"), data_of(beton, backend="dali", hw_decoder_load=0.8)):
        open_backend(data, beton, CPU).close()
    assert asked == [0.65, 0.8]


def refused(beton: Beton, device: torch.device = CPU, on: str = "cpu") -> str:
    with pytest.raises(InputError) as error:
        open_backend(data_of(beton, backend="dali", views_on=on), beton, device)
    assert "\n" not in str(error.value)
    assert "make setup" in str(error.value)
    return str(error.value)


def test_without_dali_a_line_says_what_to_install(nothing_stays, beton, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    assert "not installed" in refused(beton)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'nvtx'", name="nvtx"), "without nvtx"),
        (ImportError("libcudart.so.12: cannot open shared object file"), "libcudart.so.12: cannot open"),
    ],
)
def test_a_broken_wheel_is_said_in_a_line(nothing_stays, beton, monkeypatch, error, said):
    class Broken:
        def find_spec(self, name, *_):
            if name.startswith("nvidia.dali"):
                raise error

    for name in [name for name in sys.modules if name.startswith("nvidia.dali")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert said in refused(beton)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_driver_a_line_says_so(dali, nothing_stays, beton):
    assert "CUDA is not available" in refused(beton, torch.device("cuda", 0), "device")


def test_a_driver_too_old_for_the_wheel_is_said_with_both_versions(dali, nothing_stays, beton, monkeypatch):
    def build(*_):
        raise RuntimeError(
            "Critical error in pipeline:\nCUDA driver version is insufficient for CUDA runtime version\n"
        )

    monkeypatch.setattr(dali_pipe, "_build", build)
    said = refused(beton, torch.device("cuda", 0), "device")
    assert f"made for CUDA {str(dali.__cuda_version__)[:2]}" in said
    assert "says: CUDA driver version is insufficient for CUDA runtime version; " in said
    assert "EXTRA=cuda12" in said


def test_without_nvjpeg_it_does_not_fall_back_silently(nothing_stays, beton, monkeypatch):
    monkeypatch.setattr(dali_pipe, "load", lambda: types.SimpleNamespace(__cuda_version__=99001))
    assert "no nvJPEG (libnvjpeg.so.99)" in refused(beton, torch.device("cuda", 0), "device")
