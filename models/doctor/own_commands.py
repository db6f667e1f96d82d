"""Run the project's own commands as a user would, each in a process, and compare the checkpoints that they write.

done = ran(["train.py", "semi_mae:digits", ...])
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from models.checkpoint import save_load
from models.doctor.supervise import ROOT, own_path
from models.records.exit_codes import STOPPED
from models.records.run_folder import LAST
from pipeline.convert.digits import ensure_digits
from pipeline.errors import InputError

COMMAND_S = 150
SHORT = [
    "--optim.epochs=24", "--optim.warmup-epochs=4", "--optim.labels-only-epochs=8", "--run.save-steps=12",
    "--run.log-steps=12", "--run.compile=off", "--data.backend=memory", "--method.pseudo.threshold=0.11",
]  # fmt: skip
"""Flags of a run on digits of 24 steps; where it is stopped, after HALF of them."""
HALF = 12


class Done(NamedTuple):
    """How a command ended: its exit code (None: not over in time), and all that it printed."""

    code: int | None
    printed: str

    @property
    def last(self) -> str:
        """Return the last line that it printed."""
        lines = [line for line in self.printed.splitlines() if line.strip()]
        return lines[-1].strip()[:200] if lines else "nothing printed"


def ran(words: Sequence[str], limit_s: float = COMMAND_S, **environment: str) -> Done:
    """Run python with these words in the checkout, and wait for it; what it prints goes into the log, too."""
    own = (
        {"OMP_NUM_THREADS": "1"} | os.environ | own_path()
    )  # networks are small, and several processes share the cores
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=own | environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit_s,
        )  # fmt: skip
        found = Done(done.returncode, done.stdout)
    except subprocess.TimeoutExpired as error:
        found = Done(None, (error.stdout or b"").decode(errors="replace"))
    print(f"python {' '.join(words)}\n{found.printed}\nexit code {found.code}", flush=True)
    return found


def train(folder: Path, root: Path, *flags: str, **environment: str) -> Done:
    """Train Semi-MAE on digits for 24 steps of 32 images in a folder, or until a flag stops it."""
    words = ["train.py", "semi_mae:digits", *SHORT, f"--run.folder={folder}", f"--data.root={root}", *flags]
    return ran(words, limit_s=COMMAND_S, **environment)


def stopped(done: Done) -> bool:
    """Say whether a command saved and stopped on request."""
    return done.code == STOPPED


def digits(folder: Path) -> Path:
    """Return the digits' folder: the checkout's where it has one, else a new one. Raises InputError without either."""
    there = ROOT / "data" / "digits"
    try:
        return ensure_digits(there if there.is_dir() else folder / "digits")
    except ImportError as error:
        raise InputError(f"data/digits is not here, and cannot be made: {error}; install scikit-learn") from error


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Load the tensors of the method in a run's last checkpoint."""
    return {k: v for k, v in save_load.load(folder / LAST)["method"].items() if isinstance(v, torch.Tensor)}


def apart(a: Path, b: Path) -> float:
    """Return the relative difference of the weights of two runs; 0 where they are equal to the bit."""
    one, other = weights(a), weights(b)
    if one.keys() != other.keys():
        return float("inf")
    if all(torch.equal(one[name], other[name]) for name in one):
        return 0.0
    far = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one)
    return max(far, 1e-300) ** 0.5 / sum(float(tensor.double().square().sum()) for tensor in other.values()) ** 0.5


def world(ranks: int, rank: int, port: int) -> dict[str, str]:
    """Return what torchrun adds to the environment of a rank on one machine."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(ranks))
    return shared | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))


def free_port() -> int:
    """Find a port of this machine that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
