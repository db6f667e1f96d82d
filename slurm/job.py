"""Run one task of a job, from the code snapshot."""

import importlib
import os
import signal
import socket
import sys
import time
import traceback
from types import FrameType
from typing import final

from submitit import JobEnvironment
from submitit.helpers import Checkpointable

from models.records.exit_codes import BAD_INPUT, CRASHED, STOPPED
from models.records.failures import line_count
from models.records.run_folder import InUse
from pipeline.errors import InputError
from slurm import first_failure, rendezvous
from slurm.first_failure import Failure


@final
class Job(Checkpointable):
    """The submission that submitit pickles: names as text, no code. A second call resumes the run.

    after, stage  of a job that follows a member of a sweep (slurm.chain_jobs): the run folder whose end it waits for,
                  and the stage's name

    submitit calls `checkpoint`, which submits the same again, if a signal comes before train.py handles it.
    """

    def __init__(self, module: str, argv: list[str], run: str, after: str | None = None, stage: str = "") -> None:
        self.module, self.argv, self.run, self.after, self.stage = module, argv, run, after, stage

    def __call__(self) -> None:
        """Run the module's main() in the environment that torchrun would set; end with its exit code."""
        signal.signal(signal.SIGTERM, _stop)
        job = JobEnvironment()
        code, failure = self._train(job)
        if failure:
            first_failure.write(job.paths.folder, _start_id(job), failure)
        sys.stdout.flush()
        sys.stderr.flush()
        if code:  # at once, as a thread that does not end would keep the other ranks waiting
            os._exit(code)

    def _train(self, job: JobEnvironment) -> tuple[int, Failure | None]:
        """Run the module's main(); return its exit code, and its failure if it failed."""
        sys.argv = [f"{self.module}.py", *self.argv]
        try:
            ranks, nodes = (job.global_rank, job.num_tasks, job.local_rank), list(job.hostnames)
            os.environ.update(rendezvous.environment(*ranks, nodes, _start_id(job)))
            return importlib.import_module(self.module).main() or 0, None
        except InputError as error:
            failure = _failure(job, error, CRASHED if isinstance(error, InUse) else BAD_INPUT)
            print(f"error: {error}", file=sys.stderr)
        except SystemExit as error:  # of the module itself, which has printed why
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            return code, _failure(job, error, code) if code not in (0, STOPPED) else None
        except BaseException as error:
            failure = _failure(job, error, CRASHED)
            traceback.print_exc()
        return failure.code, failure


def _stop(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM before train.py handles it, or in a module that does not: there is nothing to save."""
    raise SystemExit(STOPPED)


def _failure(job: JobEnvironment, error: BaseException, code: int) -> Failure:
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1].removeprefix("pipeline.errors.")
    log = job.paths.stderr
    return Failure(_node(), str(job.global_rank), line, str(log), line_count(log) + 1, time.time(), code)


def _start_id(job: JobEnvironment) -> str:
    """Return the name of this start of the job, which all of its ranks share and another start does not."""
    return f"{job.job_id}_{os.environ.get('SLURM_RESTART_COUNT', 0)}_{os.environ.get('ATTEMPT', 0)}"


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())
