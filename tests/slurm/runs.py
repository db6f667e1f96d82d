"""A tiny run on two nodes of the local Slurm, as a user would submit it, and what can be asked of it meanwhile."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slurm import job_events, results, state, submit
from tests.conftest import DECODER, TINY

STEPS, SAVE_STEPS, LOG_STEPS = 64, 8, 4
FLAGS = [*TINY, *DECODER, f"--optim.epochs={STEPS}", f"--run.save-steps={SAVE_STEPS}", f"--run.log-steps={LOG_STEPS}",
         "--encoder.drop-path=0.3"]  # fmt: skip
METHOD = {"semi_mae:digits": ["--method.pseudo.threshold=0.108"]}


@dataclass(frozen=True)
class Job:
    """A run on its way."""

    run: Path
    began: float

    @property
    def id(self) -> str:
        return state.read_record(self.run)["job"]

    @property
    def events(self) -> list[str]:
        return [row["event"] for row in job_events.of_job(job_events.read(self.run), self.id)]

    def at(self, step: int) -> "Job":
        """Wait until it has logged a step."""
        return self.until(lambda: results.last_step(self.run) >= step)

    def until(self, holds: Callable[[], bool], timeout_s: float = 180) -> "Job":
        end = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end, f"{self.events}\n{self.said()}"
            assert "failed" not in self.events, self.said()
            time.sleep(0.05)
        return self

    def said(self) -> str:
        logs = sorted(Path(state.read_record(self.run)["logs"]).glob(f"{self.id}_*log.*"))
        return "\n".join(f"{path}:\n{path.read_text()[-2000:]}" for path in logs)

    def nodes(self) -> list[str]:
        """Its nodes, the batch host first."""
        listed = subprocess.run(["squeue", "-h", "-j", self.id, "-o", "%B %N"], capture_output=True, text=True)
        host, every = listed.stdout.split()
        names = subprocess.run(["scontrol", "show", "hostnames", every], capture_output=True, text=True).stdout.split()
        return sorted(names, key=lambda name: name != host)

    def repeated(self) -> int:
        """Steps that were computed more than once: lines of the log, which is kept over restarts."""
        said = [line.split("/")[0].strip() for line in self.said_by_main() if "  loss " in line]
        return (len(said) - len(set(said))) * LOG_STEPS

    def said_by_main(self) -> list[str]:
        return Path(state.read_record(self.run)["logs"], f"{self.id}_0_log.out").read_text().splitlines()


def submitted(digits: Path, folder: Path, recipe: str, *flags: str) -> Job:
    """A run on two nodes, one process each, by the command that a user would give."""
    asked = ["--nodes", "2", "--gpus", "0", "--hours", "0.2", "--mem", "500M", "--code", "live", "--pause", "0.5"]
    flags, overrides = submit.split(flags)
    own = [*FLAGS, f"--data.root={digits}", f"--run.folder={folder}", *METHOD.get(recipe, []), *overrides]
    began = time.monotonic()
    assert submit.main([recipe, *asked, *flags, "--", *own]) == 0
    return Job(folder, began)
