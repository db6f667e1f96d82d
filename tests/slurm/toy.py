"""A stand-in for a long computation, without torch: it starts in a second."""

import argparse
import os
import signal
import time
from pathlib import Path
from types import FrameType

WORD = "first edition"
"""The test of snapshots edits this while the job waits."""


def stop(number: int, frame: FrameType | None) -> None:
    """What train.py does once it has saved."""
    raise SystemExit(75)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--say", type=Path, help="append a line to this file")
    parser.add_argument("--say-gpus", type=Path, help="append the GPUs that are ours to this file")
    parser.add_argument("--sleep", type=float, default=0)
    parser.add_argument("--raise-on", type=int)
    parser.add_argument("--kill", type=int)
    parser.add_argument("--signal", type=int, default=signal.SIGKILL, help="by which --kill ends the rank")
    parser.add_argument("--once", type=Path, help="be killed only if this file is not there yet, and make it")
    parser.add_argument("--code", type=int, default=0)
    parser.add_argument("--deaf", action="store_true", help="leave SIGTERM to whoever started this")
    asked = parser.parse_args()
    if not asked.deaf:
        signal.signal(signal.SIGTERM, stop)
    rank = int(os.environ["RANK"])
    if asked.say:
        with open(asked.say, "a") as file:
            place = [
                os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
            ]
            file.write(f"{WORD} {' '.join(place)}\n")
    if asked.say_gpus:
        with open(asked.say_gpus, "a") as file:
            file.write(os.environ["CUDA_VISIBLE_DEVICES"] + "\n")
    if asked.raise_on == rank:
        time.sleep(0.2)
        raise ValueError(f"rank {rank} divides by its own doubt")
    if asked.kill == rank and not (asked.once and asked.once.exists()):
        if asked.once:
            asked.once.touch()
        os.kill(os.getpid(), asked.signal)
    if asked.raise_on is not None:
        time.sleep(60)
    time.sleep(asked.sleep)
    return asked.code
