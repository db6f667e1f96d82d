"""Sum a tensor over all processes of a job, and judge the sum and its rate.

ended = exchange()      # in each process of the job; None where it is the only one

Imports the standard library only.
"""

import json
import os
import subprocess
import sys
import time

from models.doctor.stage import Row
from models.doctor.supervise import ROOT, Ended, own_path

EXCHANGE_S = 180
SLOW_GB_S = 5
"""Rate of an all-reduce below which GPUs exchange through the host; PCIe 4.0 brings 10 to 20, NVLink 100 and more."""


def exchange() -> Ended | None:
    """Run models.doctor.all_reduce as this process's rank of the job that RANK and WORLD_SIZE describe."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return None
    began, command = time.monotonic(), [sys.executable, "-m", "models.doctor.all_reduce"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | own_path(), stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=EXCHANGE_S,
        )  # fmt: skip
        code, printed = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        code, printed = None, (error.stdout or b"").decode(errors="replace")
    print(printed, file=sys.stderr, flush=True)
    return Ended([exchange_row("all-reduce over the job", code, printed)], {}, time.monotonic() - began)


def exchange_row(what: str, code: int | None, printed: str) -> Row:
    """Judge an all-reduce by its exit code (None: not over in time) and the line of JSON that it has printed."""
    lines = [line for line in printed.splitlines() if line.strip()]
    found = [json.loads(line) for line in lines if line.startswith("{")]
    if code != 0 or not found:
        figure = f"exit code {code}: {lines[-1].strip()[:200] if lines else 'nothing printed'}"
        return Row(what, "wrong", figure, "set NCCL_DEBUG=INFO and read the log")
    rates = found[-1]
    figure, values = f"{rates['gb_s']:.2f} GB/s a rank of {rates['ranks']}", {"gb_s": rates["gb_s"]}
    if not rates["right"]:
        return Row(what, "wrong", f"{figure}; the sum is wrong", "check the GPUs' links and memory", values)
    slow = rates["kind"] == "cuda" and rates["gb_s"] < SLOW_GB_S
    return Row(what, "slow" if slow else "ok", figure, "see `nvidia-smi topo -m`" * slow, values)
