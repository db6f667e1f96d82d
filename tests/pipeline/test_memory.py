"""What a loader holds beyond the page cache.  `python -m tests.pipeline.test_memory FILE.beton` measures it in full:
a semi-supervised step of 256 labelled and 1,792 unlabelled images at 224 pixels, with CPU views and with GPU views,
three batches ahead.
"""

import json
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from pipeline.loader import Loader
from pipeline.open import open_backend
from pipeline.spec import Data, Needs
from pipeline.store.beton import open_beton
from pipeline.train_data import loader_spec, open_train_data
from tests.models.ranks import run_ranks

CPU = torch.device("cpu")
NEEDS = {
    "cpu": Needs(labelled=True, unlabelled=True, strong=True, unlabelled_visible=True),
    "device": Needs(labelled=True, unlabelled=True, unlabelled_visible=True),
}
"""GPU views without strong ones: their intermediates lie on the device, which here is the CPU."""
AHEAD = 3


def anonymous_mb() -> float:
    """Memory of this process that no file backs: pages of the .beton are the page cache's, and shared by all ranks."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(status[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024 / 1e6


def most_mb(path: Path, views_on: str, batch: int, size: int, batches: int) -> float:
    """The most that a loader of `batch` images a step held at any moment while it made some batches."""
    data = Data(str(path.parent), path.name, batch=batch, size=size, backend="ffcv", views_on=views_on, ahead=AHEAD)
    train_data = open_train_data(data, NEEDS[views_on])
    fed = loader_spec(train_data, data, NEEDS[views_on], patch=16, total_steps=100)
    most, over, before = 0.0, threading.Event(), anonymous_mb()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.01):
            most = max(most, anonymous_mb())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with Loader(fed, open_backend(data, train_data.beton, CPU), CPU, ahead=AHEAD) as loader:
            for _ in range(batches):
                batch = next(loader)
                while not all(future.done() for future in loader._pending):  # a slow consumer: all are there
                    time.sleep(0.01)
            del batch
    finally:
        over.set()
        watching.join()
    return most - before


def view_mb(batch: int, size: int) -> float:
    """A batch as handed out: one view of an eighth of it, two of the rest."""
    return (batch / 8 + 2 * batch * 7 / 8) * 3 * size * size / 1e6


def figures(path: Path, views_on: str, sizes: list[tuple[int, int]], batches: int) -> list[float]:
    """Largest holdings in MB for each (batch, size); what is held for good has been met before."""
    most_mb(path, views_on, 16, 32, 1)
    return [most_mb(path, views_on, batch, size, batches) for batch, size in sizes]


SMALL = {"cpu": [(32, 96), (256, 96)], "device": [(32, 96), (128, 96)]}  # views of a device take a CPU long
COPIES = {"cpu": AHEAD + 2, "device": 25}
"""Batches of views that may be held: those ahead, the one in use and the next; where the CPU plays the device also what
a GPU would hold of floats while two planners cut."""


@pytest.mark.parametrize("views_on", ["cpu", "device"])
def test_memory_grows_with_the_views_of_the_batches_ahead_and_nothing_else(beton, views_on: str) -> None:
    asked = views_on, SMALL[views_on], AHEAD + 1  # all that may be ahead, and one in use
    code = f"from tests.pipeline.test_memory import *; print(figures(Path(sys.argv[1]), *{asked}))"
    few, many = json.loads(run_ranks(code, 1, str(beton.path), timeout_s=240)[0])
    less, more = (view_mb(*each) for each in SMALL[views_on])
    assert few > 0
    assert many - few < COPIES[views_on] * (more - less) + 20


def main() -> None:
    """Print the figures at full size."""
    path = Path(sys.argv[1])
    print(f"{path}: {open_beton(path).n} images; the most held beyond files, a batch is {view_mb(2048, 224):.0f} MB:")
    print(f"CPU views {figures(path, 'cpu', [(2048, 224)], 3)[0]:.0f} MB", flush=True)
    print(f"GPU views, weak ones alone, the CPU as device {figures(path, 'device', [(2048, 224)], 3)[0]:.0f} MB")


if __name__ == "__main__":
    main()
