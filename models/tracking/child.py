"""The process that follows one run: it sends the journal's rows while the run writes them, and ends after the run.

python -m models.tracking.child RUN SERVICE      # `follow.py` starts it, and keeps its standard input open

It writes what the user should know to standard output, a line each; what the service's package prints is dropped. It
imports no torch.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from models.tracking.journal import state_of
from models.tracking.sender import InUse, Sender, without_secrets
from models.tracking.tracker import State

POLL_S = 2.0
RETRY_S, RETRY_MOST_S = 30.0, 600.0
"""Pause after an error, and the longest one: it doubles with each error in a row."""
HANG_S = 1800
"""Seconds after which a call of a service is given up: SIGALRM ends this process then, also in a library's own code."""
LAST_S = 60
"""Seconds after the run's end in which this process ends by itself, whatever it waits for."""
VERDICT_S = 3.0
"""Seconds in which a run that ended without a word is given time to say why."""
PAUSE_S = 2.0
"""Pause between two tries when the run has ended."""


def follow(folder: Path, service: str, say: Callable[[str], None], ended: threading.Event) -> None:
    """Send rows until the run has ended, then the rest and the summary.

    An error is said once; what failed is tried again after a pause, silently. While the process of an earlier start
    still sends the run, this one waits.
    """
    sender, pause, failed = None, 0.0, False
    while not ended.wait(pause):
        signal.alarm(HANG_S)
        if ended.is_set():  # between the two lines above
            signal.alarm(LAST_S)
        try:
            sender = sender or Sender(folder, service)
            for line in (sender.note, sender.open()):
                if line and not failed:
                    say(f"tracking: {service}, {line}")
            sender.note = None
            sender.send()
            pause = POLL_S
        except InUse:
            pause = POLL_S
        except Exception as error:
            if not failed:
                say(f"warning: tracking: {service}: {without_secrets(error)}; further tries are silent")
            pause = min(2 * pause, RETRY_MOST_S) if failed else RETRY_S
            failed = True
    if (error := _send_the_rest(sender, folder, service)) is not None:
        why = "the tries failed to the end" if failed else without_secrets(error)
        todo = f"`python -m models.tracking {folder} --to {service}` sends what is missing"
        say(f"warning: tracking: {service}: {why}; {todo}")


def _send_the_rest(sender: Sender | None, folder: Path, service: str) -> Exception | None:
    """Send the last rows and the summary; -> the last error if that failed twice, or if another process still sends."""
    until, tries = time.monotonic() + LAST_S - 2 * PAUSE_S, 2
    while True:
        try:
            sender = sender or Sender(folder, service)
            sender.send()
            sender.finish(_verdict(folder))
            return None
        except Exception as error:
            tries -= not isinstance(error, InUse)
            if not tries or time.monotonic() > until:
                return error
        time.sleep(PAUSE_S)


def _when_closed(ended: threading.Event) -> None:
    """Wait until standard input is closed, which says that the run has ended; from then on LAST_S are left."""
    while os.read(0, 1024):
        pass
    ended.set()
    signal.alarm(LAST_S)


def _verdict(folder: Path) -> State:
    until = time.monotonic() + VERDICT_S
    while (state := state_of(folder)) == "running" and time.monotonic() < until:
        time.sleep(0.1)
    return "failed" if state == "running" else state


def _to_the_run() -> Callable[[str], None]:
    """Keep standard output for the lines to the run, and drop what else is printed to it and to standard error."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)

    def say(line: str) -> None:
        with suppress(OSError):  # the run has ended and reads no more
            print(line, file=lines)

    return say


def main() -> None:
    """Follow the run and the service that the command line names."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)  # they are meant for the run, which may have rows to write yet
    os.nice(5)
    ended = threading.Event()
    threading.Thread(target=_when_closed, args=(ended,), daemon=True).start()
    follow(Path(sys.argv[1]), sys.argv[2], _to_the_run(), ended)
    os._exit(0)  # not after what the package registered for the end of the process, which may wait for a server


if __name__ == "__main__":
    main()
