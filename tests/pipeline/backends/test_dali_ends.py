"""Nothing of DALI outlives what used it: threads, pipelines, a process."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.backends.dali import Dali
from tests.pipeline.backends.test_backends import SIZE, plan_of
from tests.pipeline.backends.test_dali import opened


@pytest.mark.parametrize("asked", ["all()", "all()[0]()"])
def test_a_process_that_does_not_close_it_ends_all_the_same(dali, beton, asked):
    lines = [
        "import numpy as np, torch",
        "from pipeline.backends.dali import Dali",
        "from pipeline.store.beton import open_beton",
        f"backend = Dali(open_beton({str(beton.path)!r}), {SIZE}, torch.device('cpu'), 'cpu', 2)",
        "all = lambda: [backend.decode(np.arange(60).repeat(40)) for _ in range(9)]",
        asked,
    ]
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=root, timeout=60, capture_output=True, text=True
    )
    assert ended.returncode == 0
    assert "Exception" not in ended.stderr


def test_one_that_nobody_holds_ends_its_threads(dali, nothing_stays, beton):
    backend = opened(Dali, beton)
    backend.decode(np.arange(9))()
    del backend
    gc.collect()


def test_closing_ends_every_thread_whatever_was_asked(dali, beton):
    def tasks() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/task"))

    counts = []
    for _ in range(4):
        backend = opened(Dali, beton)
        for _ in range(6):
            backend.start(plan_of(beton, np.arange(60)))
        backend.close()
        counts.append(tasks())
    assert counts[1] == counts[3]  # the first leaves one thread that DALI keeps for the process
    with pytest.raises(RuntimeError, match="closed"):
        backend.decode(np.arange(2))
