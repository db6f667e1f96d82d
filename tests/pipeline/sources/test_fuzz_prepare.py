"""A short fuzz of `prepare` in a process of its own, so that a decoder that crashes is seen.

SHOTCRETE_FUZZ_SECONDS sets how long; the first seed then is the time, so that each run tries other files.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_damaged_files_of_every_kind_are_refused_or_stored():
    seconds = os.environ.get("SHOTCRETE_FUZZ_SECONDS", "4")
    first = "0" if "SHOTCRETE_FUZZ_SECONDS" not in os.environ else str(int(time.time()) * 1000)
    command = [sys.executable, "-m", "tests.pipeline.sources.fuzz_prepare", seconds, first]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=float(seconds) + 300, check=False)
    assert ended.returncode == 0, f"seed {ended.stdout[-30:]}\n{ended.stderr[-3000:]}"
    tried, _, stored, _ = ended.stdout.splitlines()[-1].replace(",", "").split()
    assert int(tried) > int(stored) > 0
