"""Run the tasks of a job on this machine, and start them again after a crash, as the batch script does on Slurm.

    python -m slurm.local_controller LOGS RUN TRIES PAUSE_S    # slurm.local starts it, with submitit's variables set

Its process id is the id of the job; it ends with the job. A task that a signal ends (kill -9, out of memory, a
segmentation fault) is a crash, too.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import final

from submitit.local.local import Controller, LocalJobEnvironment

from models.records.exit_codes import DONE, STOPPED
from models.records.failures import line_count
from slurm import attempt, first_failure, job_events
from slurm.attempt import Attempt, JobState
from slurm.first_failure import Failure

POLL_S = 0.05
PEERS_S, KILL_WAIT_S = 15.0, 30.0
"""Seconds in which the other tasks may end by themselves after one has failed, and then from SIGTERM to SIGKILL."""


@final
class LocalController(Controller):
    """Starts the tasks of one job until they are done, fail for good, or are to stop."""

    def __init__(self, logs: Path, run: Path, tries: int, pause_s: float) -> None:
        """tries, pause_s: as in slurm.request.Request."""
        super().__init__(logs)
        self.job_run, self.tries, self.pause_s = run, tries, pause_s
        self.stopping, self.name = False, ""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a terminal's Ctrl-C; slurm.local has blocked it until now
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def run(self, max_retry: int = 0) -> None:
        """Run attempts as `slurm.attempt.decide` has it; `max_retry` of submitit is not used."""
        number, again = 0, True
        while again:
            self.name = f"{self.pid}_0_{number}"
            os.environ["ATTEMPT"] = str(number)  # for the names of the tasks' own failures
            which = Attempt(self.job_run, self.folder, self.pid, 0, number, socket.gethostname())
            attempt.record_begin(which)
            try:
                self.start_tasks()
                if self.stopping:  # asked while they were being started
                    self._forward_signal(signal.SIGTERM)
                codes = self._wait_for_tasks()
            finally:
                self.kill_tasks()
            now = JobState("TIMEOUT", "TimeLimit") if None in codes else self._state()
            step = attempt.record_end(which, exit_code(codes, self.stopping), now, self.tries, self.pause_s)
            again, number = step.startswith("again") and self._pause(float(step.removeprefix("again "))), number + 1

    def _wait_for_tasks(self) -> Sequence[int | None]:
        """Wait until all tasks have ended or the time is up; -> exit codes as of subprocess, None of one that runs.

        Before the time is up the tasks get the signal to save, as on Slurm.
        """
        began, failed, sent, save_after_s = time.monotonic(), None, [], self.timeout_s - self.signal_delay_s
        known: set[int] = set()
        while True:
            codes, now = [task.poll() for task in self.tasks], time.monotonic()
            ended = {rank: code for rank, code in enumerate(codes) if code is not None}
            if not self.stopping and signal.SIGTERM not in sent:
                for rank in sorted(ended.keys() - known):
                    self._record_signal(rank, ended[rank])
            known = set(ended)
            if None not in codes or now - began > self.timeout_s:
                return codes
            if failed is None and any(code not in (None, DONE, STOPPED) for code in codes):
                failed = now
            failed_s = 0.0 if failed is None else now - failed
            due = (signal.SIGTERM, PEERS_S), (signal.SIGKILL, PEERS_S + KILL_WAIT_S)
            for number in [each for each, after_s in due if each not in sent and failed_s > after_s]:
                sent.append(number)
                self._forward_signal(number)
            save = LocalJobEnvironment._usr_sig()
            if save not in sent and 0 <= save_after_s <= now - began:
                sent.append(save)
                self._forward_signal(save)
            time.sleep(POLL_S)

    def _record_signal(self, rank: int, code: int) -> None:
        """Write the failure of a task that a signal has ended, which could not write one itself."""
        if code >= 0:
            return
        log = str(self.folder / f"{self.pid}_{rank}_log.err")
        error = f"killed by signal {-code} ({signal_name(-code)})"
        place = socket.gethostname(), str(rank), error, log, max(1, line_count(log)), time.time(), 128 - code
        first_failure.write(self.folder, self.name, Failure(*place))

    def _state(self) -> JobState:
        """The job's state, as Slurm would tell it: `cancel` has written an event before it sent SIGTERM."""
        rows = job_events.of_job(job_events.read(self.job_run), self.pid)
        return JobState("CANCELLED" if any(row["event"] == "cancelled" for row in rows) else "RUNNING")

    def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt; -> False if the job was asked to stop meanwhile or before."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.stopping:
            time.sleep(POLL_S)
        return not self.stopping

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        self._forward_signal(signal.SIGTERM)


def exit_code(codes: Sequence[int | None], stopping: bool) -> int:
    """The exit code of an attempt, from those of its tasks as of subprocess: the largest of those that failed.

    exit_code([0, -9], stopping=False)  # 137

    stopping  the tasks were asked to stop: one that SIGTERM has ended, before it listened, counts as stopped
    """
    found = [128 + signal.SIGKILL if code is None else 128 - code if code < 0 else code for code in codes]
    found = [STOPPED if stopping and code == 128 + signal.SIGTERM else code for code in found]
    return max([code for code in found if code not in (DONE, STOPPED)] or found)


def signal_name(number: int) -> str:
    """The name of a signal, such as SIGSEGV; a real-time signal has none of its own."""
    return signal.Signals(number).name if number in {*signal.Signals} else "no name"


def main() -> None:
    """Run the job that the command line and submitit's variables describe."""
    logs, run, tries, pause_s = sys.argv[1:]
    LocalController(Path(logs), Path(run), int(tries), float(pause_s)).run()


if __name__ == "__main__":
    main()
