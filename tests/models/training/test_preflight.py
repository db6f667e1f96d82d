"""Batch norm on one image is refused before a run folder is begun, and when a job of N ranks is checked."""

from pathlib import Path

import pytest
import torch
from torch import nn

from models.config.resolve import resolve
from models.training.preflight import check, check_batch_norm
from pipeline.errors import InputError
from tests.conftest import DECODER, TINY


def recipe(name: str, root: Path, *flags: str):
    decoder = DECODER if "mae" in name else []
    return resolve(name, [*TINY, *decoder, f"--data.root={root}", f"--run.folder={root / 'run'}", *flags])


@pytest.mark.parametrize("name", ["supmae:digits", "probe:digits"])
@pytest.mark.parametrize(("flags", "ranks", "cure"), [
    (["--data.batch=1"], 1, "set --data.batch to 2 or more"),
    (["--data.batch=4"], 4, "set --data.batch to 8 or more, or run fewer ranks"),
    (["--data.batch=12", "--run.device-images=1"], 2, "set --run.device-images to 2 or more"),
    (["--data.batch=3", "--run.device-images=2"], 1, "set --run.device-images to 3 or more"),
])  # fmt: skip
def test_one_image_at_a_time_is_refused_where_a_batch_norm_trains_with_or_without_the_data(
    name, flags, ranks, cure, digits, tmp_path
):
    for root in (digits, tmp_path):  # tmp_path holds no data, as a login node may not
        with pytest.raises(InputError, match=r"has batch norm \(.*head.*\), expected 2 images .* got 1") as refused:
            check(recipe(name, root, *flags), ranks)
        assert str(refused.value).endswith(cure)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "flags", "ranks"), [
    ("supmae:digits", ["--data.batch=8"], 4),
    ("supmae:digits", ["--data.batch=4", "--run.device-images=2"], 1),
    ("supmae:digits", ["--data.batch=1", "--method.objective=rec"], 1),
    ("supmae:digits", ["--data.batch=1", "--method.layers=1"], 1),
    ("supmae:digits_unlabelled", ["--data.batch=4", "--data.ratio=1"], 2),
    ("mae:digits", ["--data.batch=1"], 1),
    ("finetune:digits", ["--data.batch=8", "--run.device-images=1"], 2),
], ids=["two a rank", "two at once", "no head", "no norm", "one of each kind", "mae", "finetune"])  # fmt: skip
def test_two_images_at_once_or_a_network_without_batch_norm_pass(name, flags, ranks, digits):
    check(recipe(name, digits, *flags), ranks)


def test_a_frozen_batch_norm_does_not_count(digits):
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True):
            return super().train(False)

    method = nn.Sequential(Frozen(nn.BatchNorm1d(2)), nn.Linear(2, 2))
    check_batch_norm(recipe("mae:digits", digits), method, (0, 1), 1)
    assert method(torch.ones(1, 2)).shape == (1, 2)


def test_a_run_of_one_image_at_a_time_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(InputError, match="device-images to 2 or more"):
        tiny("supmae:digits", tmp_path / "run", "--run.device-images=1")
    assert not (tmp_path / "run").exists()
