"""A tiny run of any recipe, in this process."""

import gc
import json
import sys
from pathlib import Path

import pytest
import torch

import train
from models.checkpoint import save_load
from models.training import finish

TINY = [
    "--encoder.width=32", "--encoder.depth=2", "--encoder.heads=2", "--data.batch=32", "--data.ratio=3",
    "--optim.epochs=12", "--optim.warmup-epochs=2", "--optim.labels-only-epochs=0", "--run.log-steps=3",
    "--run.save-steps=4", "--run.device=cpu",
]  # fmt: skip
DECODER = ["--method.reconstruct.depth=1", "--method.reconstruct.width=32", "--method.reconstruct.heads=2"]


def pytest_collection_finish() -> None:
    """Spare every later garbage collection what the imports have made; it was a twentieth of all tests' time."""
    gc.freeze()


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """The embedded digits, written once for all tests."""
    from pipeline.convert.digits import ensure_digits

    return ensure_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def tiny(monkeypatch, digits):
    """tiny(recipe, folder, *flags) trains a recipe on digits with a toy network; -> exit code.

    Its report is an empty page: plotting takes longer than training. With `report=True` it is the real one.
    """

    def run(recipe: str, folder: Path, *flags: str, report: bool = False) -> int:
        decoder = DECODER if "mae" in recipe else []
        argv = ["train.py", recipe, *TINY, *decoder, f"--data.root={digits}", f"--run.folder={folder}", *flags]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", argv)
            if not report:
                without_report(patch)
            return train.main()

    return run


def without_report(patch: pytest.MonkeyPatch) -> None:
    """Let a run write an empty page in place of its report, and draw no pictures for it."""

    def empty_page(folder: Path, **_: object) -> Path:
        page = folder / "report.html"
        page.touch()
        return page

    patch.setattr(finish, "_pictures", lambda *_: [])
    patch.setattr(finish, "write_report", empty_page)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, digits):
    """trained(recipe) -> the folder of a finished tiny run of it, the same one for every test: only look at it."""
    made: dict[str, Path] = {}

    def of(recipe: str) -> Path:
        if recipe not in made:
            made[recipe] = folder = tmp_path_factory.mktemp("trained")
            more = [*TINY, *(DECODER if "mae" in recipe else []), f"--data.root={digits}", f"--run.folder={folder}"]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["train.py", recipe, *more, "--data.weak.jitter", "0.1", "0.1", "0", "0"])
                without_report(patch)
                assert train.main() == 0
        return made[recipe]

    return of


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The method's tensors in a run's last checkpoint."""
    return save_load.load(folder / "last.pt")["method"]


def same(a: object, b: object) -> bool:
    """Whether two states, tensors or nested dicts that hold some, are equal in type and in every bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return a == b


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Equal but for the order of sums; keys' biases have no gradient but rounding, which Adam blows up to a step."""
    for name, tensor in a.items():
        if not name.endswith("qkv.bias"):
            assert (tensor - b[name]).norm() <= 1e-3 * tensor.norm() + 1e-5, name


def rows(folder: Path) -> list[dict]:
    """The journal without what a clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "timing"} for line in lines]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU skip where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # keywords hold the names of folders, too
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
