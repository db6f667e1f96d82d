"""What trainers pickle beside weights: settings and numbers that run no code are read, anything else is refused."""

import os
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from tests.models.pretrained import released_files as released
from tests.models.pretrained.test_formats import started


class CfgNode(dict):
    """As yacs.config's, which SimMIM's trainer saves: a dictionary with attributes."""


class Runs:
    """A pickle that would make a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def written(folder, **beside):
    torch.save({"model": released.vit().state_dict()} | beside, folder / "x.pth")
    return folder / "x.pth"


def test_settings_of_yacs_are_read_as_plain_types_without_yacs(tmp_path, monkeypatch):
    module = ModuleType("yacs.config")
    module.CfgNode = CfgNode
    monkeypatch.setattr(CfgNode, "__module__", "yacs.config")
    monkeypatch.setitem(sys.modules, "yacs", ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = CfgNode(TYPE="simmim", MODEL=CfgNode(DROP=0.1))
    config.__dict__["__immutable__"] = True
    path = written(tmp_path, config=config)
    monkeypatch.undo()
    assert "yacs.config" not in sys.modules
    assert started(path)[1].encoder.depth == 2


@pytest.mark.parametrize(
    "beside",
    [
        {"best_acc": np.float64(81.5), "loss": np.float32(0.1), "count": np.int64(3)},
        {"args": Namespace(output_dir=Path("out"), lr=1e-3, seed=np.int64(1))},
    ],
    ids=["numbers", "paths"],
)
def test_numbers_of_numpy_and_paths_are_read(tmp_path, beside):
    assert started(written(tmp_path, **beside))[1].encoder.depth == 2


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path):
    path = written(tmp_path, hook=Runs(tmp_path / "ran"))
    with pytest.raises(InputError, match=r"holds more than tensors and plain types; it is not loaded") as refused:
        started(path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_a_torchscript_archive_is_refused_with_what_to_do(tmp_path):
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated
        torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "clip.pt")
    with pytest.raises(InputError, match=r"clip.pt is a TorchScript archive .* torch.save\(torch.jit.load"):
        started(tmp_path / "clip.pt")


@pytest.mark.parametrize("kept", [0, 10, 100, 5_000, 200_000])
def test_a_file_that_was_cut_short_is_one_line(tmp_path, kept):
    path = written(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    assert kept < len(whole)
    with pytest.raises(InputError, match=r"is cut short, or holds more than tensors") as refused:
        started(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda held: held.pop("blocks.1.mlp.fc2.bias"),
            r"has no blocks.1.mlp.fc2.bias, and a plain ViT's blocks have",
        ),
        (lambda held: held.update({"blocks.0.attn.q_norm.weight": torch.ones(64)}), r"has blocks.0.attn.q_norm.weight"),
        (
            lambda held: held.update({"patch_embed.proj.weight": torch.ones(128, 1, 8, 8)}),
            r"got shape \[128, 1, 8, 8\]",
        ),
        (lambda held: held.update({"blocks.0.mlp.fc2.weight": torch.ones(128, 9)}), r"an MLP or of SwiGLU for a width"),
        (lambda held: held.update({"pos_embed": torch.ones(1, 1, 17, 128)}), r"expected pos_embed of 3 dimensions"),
        (lambda held: held.pop("norm.weight"), r"expected norm.weight of shape \[128\], got nothing"),
    ],
)
def test_tensors_that_are_no_plain_vits_are_shown_beside_what_was_looked_for(tmp_path, change, said):
    held = released.vit().state_dict()
    change(held)
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(InputError, match=said) as refused:
        started(tmp_path / "x.pth")
    assert "\n" not in str(refused.value)
