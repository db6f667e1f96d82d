"""Wait for a result with a limit: after it, print where every thread stands and raise, instead of hanging.

batch = result(future, hang_timeout_s=300, doing=lambda: "waiting for batch 7")
"""

import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from pipeline.errors import Unavailable

TICK_S = 1.0
COMPILE_S = 1800  # compiling for longer counts as hanging
COMPILERS = ("/numba/core/", "/torch/_dynamo/", "/torch/_inductor/", "/triton/")
STATES = {"R": "runs", "S": "sleeps", "D": "waits for a disk or a driver", "T": "is stopped", "Z": "has ended"}


def result(future: Future, hang_timeout_s: float | None, doing: Callable[[], str]) -> Any:
    """Return a future's result. Raises Unavailable after `hang_timeout_s` seconds without it; None waits for ever.

    Before it raises, what `doing` returns (what is waited for) and where every thread stands are printed on stderr.
    Seconds in which a thread compiles do not count. Time is counted in ticks of this process, so that it is not taken
    for stuck after Slurm has suspended and resumed it.
    """
    waited, compiled = 0.0, 0.0
    while not wait([future], TICK_S).done:
        if compiled < COMPILE_S and _compiling():
            compiled += TICK_S
            continue
        waited += TICK_S
        if hang_timeout_s is not None and waited >= hang_timeout_s:
            print(f"{doing()}\n{standing()}", file=sys.stderr, flush=True)
            raise Unavailable(
                f"no batch for {hang_timeout_s:g} s, see above where every thread stands; is the storage alive? "
                "data.hang_timeout_s sets how long to wait"
            )
    return future.result()


def standing() -> str:
    """Describe where each thread of this process stands, innermost call first, and its state in the kernel.

    There are no source lines: they would be read from files, which may lie on the storage that hangs.
    """
    frames, known = sys._current_frames(), {thread.native_id: thread for thread in threading.enumerate()}
    lines = []
    for native, thread in known.items():
        if native is None or thread.ident is None:
            continue  # it has not begun
        lines.append(f"{thread.name} {_state(native)}:")
        calls = traceback.walk_stack(frames.get(thread.ident))
        lines += [f"  {frame.f_code.co_filename}:{line} {frame.f_code.co_name}" for frame, line in calls]
    others = [_state(int(task.name)) for task in Path("/proc/self/task").iterdir() if int(task.name) not in known]
    counts = [f"{others.count(state)} {state}" for state in sorted(set(others))]
    return "\n".join([*lines, f"threads of libraries: {', '.join(counts) or 'none'}"])


def _state(native: int) -> str:
    try:
        letter = Path(f"/proc/self/task/{native}/stat").read_text().rpartition(") ")[2][0]
    except (OSError, IndexError):
        letter = "Z"
    return STATES.get(letter, letter)


def _compiling() -> bool:
    for frame in sys._current_frames().values():
        for each, _ in traceback.walk_stack(frame):
            if any(part in each.f_code.co_filename for part in COMPILERS):
                return True
    return False
