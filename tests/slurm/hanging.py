"""train.py on semi_mae:digits, but rank 1 of the job's first start hangs after a step."""

import os
import sys
import time

STEP = 36


def main() -> int:
    import train
    from models.optim.update import FiniteGuard

    stepped, hangs = FiniteGuard.step, (os.environ["RANK"], os.environ["ATTEMPT"]) == ("1", "0")

    def step(self: FiniteGuard, optimiser: object, loss: object, norm: object, ids: object, number: int) -> None:
        if hangs and number == STEP:
            time.sleep(1e6)
        stepped(self, optimiser, loss, norm, ids, number)

    FiniteGuard.step = step
    sys.argv[1:1] = ["semi_mae:digits"]
    return train.main()
