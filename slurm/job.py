"""What runs in every task of a job, from the code snapshot."""

import importlib
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import final

from submitit import JobEnvironment
from submitit.helpers import Checkpointable

from models.records.exit_codes import BAD_INPUT, CRASHED, STOPPED
from models.records.failures import line_count
from models.records.run_folder import InUse
from pipeline.errors import InputError
from slurm import address, events, failure

AGAIN_LOCALLY = 144
"""The exit code on which submitit's local executor starts the tasks again, six times at most."""


@final
class Job(Checkpointable):
    """The pickled submission: strings by reference. Running it again is resuming, so a requeue changes nothing.

    submitit asks for `checkpoint` (which is: the same again) if a signal comes before train.py listens itself.
    """

    def __init__(self, module: str, argv: list[str], run: str) -> None:
        self.module, self.argv, self.run = module, argv, run

    def __call__(self) -> None:
        """Run the module's main() as torchrun would have it; leave with its exit code."""
        signal.signal(signal.SIGTERM, _stop)
        job = JobEnvironment()
        first, local = job.global_rank == 0, job.cluster == "local"
        if local and first:  # on Slurm slurm.between does
            events.note(Path(self.run), "started", job.job_id, nodes=socket.gethostname())
        code, found = self._train(job)
        if local and first:
            event = {0: "done", BAD_INPUT: "failed", STOPPED: "preempted"}.get(code, "crashed")
            events.note(Path(self.run), event, job.job_id, code=code, **(failure.fields(found) if found else {}))
        if found:
            failure.write(job.paths.folder, _start(job), found)
        sys.stdout.flush()
        sys.stderr.flush()
        if code:
            os._exit(AGAIN_LOCALLY if local and code == CRASHED else code)  # no thread holds back the other ranks

    def _train(self, job: JobEnvironment) -> tuple[int, failure.Failure | None]:
        sys.argv = [f"{self.module}.py", *self.argv]
        try:
            os.environ.update(
                address.environment(job.global_rank, job.num_tasks, job.local_rank, list(job.hostnames), _start(job))
            )
            return importlib.import_module(self.module).main() or 0, None
        except InputError as error:
            found = _failure(job, error, CRASHED if isinstance(error, InUse) else BAD_INPUT)
            print(f"error: {error}", file=sys.stderr)
        except SystemExit as error:  # a module's own, which has said why
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            return code, _failure(job, error, code) if code not in (0, STOPPED) else None
        except BaseException as error:
            found = _failure(job, error, CRASHED)
            traceback.print_exc()
        return found.code, found


def _stop(number: int, frame: FrameType | None) -> None:
    """Told to stop before train.py listens itself, or in a module that never does: there is nothing to save."""
    raise SystemExit(STOPPED)


def _failure(job: JobEnvironment, error: BaseException, code: int) -> failure.Failure:
    said = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1].removeprefix("pipeline.errors.")
    log = job.paths.stderr
    return failure.Failure(_node(), str(job.global_rank), said, str(log), line_count(log) + 1, time.time(), code)


def _start(job: JobEnvironment) -> str:
    """One name for this start of the job: every rank knows it, no other start has it."""
    return f"{job.job_id}_{os.environ.get('SLURM_RESTART_COUNT', 0)}_{os.environ.get('ATTEMPT', 0)}"


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())
