"""Stopping on request: a signal sets a flag, the loop saves at the next step boundary and exits with 75."""

import signal
import time
from types import FrameType
from typing import final

DONE, BAD_INPUT, STOPPED = 0, 2, 75
"""Exit codes: trained to the end; pipeline.errors.command's; stopped early on request (EX_TEMPFAIL), run again."""
AGREE_STEPS = 8
"""Ranks ask each other for a stop every so many steps: a signal may reach only one of them."""
SIGNALS = signal.SIGTERM, signal.SIGUSR2, signal.SIGINT


@final
class Stop:
    """True once SIGTERM, SIGUSR2 or SIGINT has come; another SIGINT, over a second later, interrupts at once.

    Saving in a handler could meet a half-done step, so none is done here. torchrun hands a Ctrl-C on to its workers,
    who have had it from the terminal already: hence the second.
    """

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def __bool__(self) -> bool:
        return self.asked_at is not None

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.asked_at is not None and now - self.asked_at > 1:
            raise KeyboardInterrupt
        self.asked_at = self.asked_at or now
