"""train.py on semi_mae:digits, but each start takes its time from a step on.

Who signals a run, or kills a part of it, when it has logged that step finds it training still, however fast the
machine. The step is what a file beside the run's folder says as a start begins; no number depends on it.
"""

import sys
import time
from pathlib import Path

PAUSE_S = 0.25


def begin_at(step: int, run: Path) -> None:
    """Say from which step on the starts that follow take their time."""
    (run.parent / "slow_from").write_text(str(step))


def main() -> int:
    import train
    from models.optim.update import FiniteGuard

    folder = next(Path(flag.partition("=")[2]) for flag in sys.argv if flag.startswith("--run.folder="))
    stepped, slow_from = FiniteGuard.step, int((folder.parent / "slow_from").read_text())

    def step(self: FiniteGuard, optimiser: object, loss: object, norm: object, ids: object, number: int) -> None:
        if number >= slow_from:
            time.sleep(PAUSE_S)
        stepped(self, optimiser, loss, norm, ids, number)

    FiniteGuard.step = step
    sys.argv[1:1] = ["semi_mae:digits"]
    return train.main()
