"""train.py on semi_mae:digits, but the job's first start takes its time from a step on.

Who signals a run, or kills a part of it, when it has logged that step finds it training still, however fast the
machine. Later starts run at full speed; no number depends on it.
"""

import os
import sys
import time

STEP, PAUSE_S = 36, 0.25


def main() -> int:
    import train
    from models.optim.update import FiniteGuard

    stepped, first = (
        FiniteGuard.step,
        os.environ["ATTEMPT"] == "0" and os.environ.get("SLURM_RESTART_COUNT", "0") == "0",
    )

    def step(self: FiniteGuard, optimiser: object, loss: object, norm: object, ids: object, number: int) -> None:
        if first and number >= STEP:
            time.sleep(PAUSE_S)
        stepped(self, optimiser, loss, norm, ids, number)

    FiniteGuard.step = step
    sys.argv[1:1] = ["semi_mae:digits"]
    return train.main()
