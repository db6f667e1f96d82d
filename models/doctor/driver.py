"""Read what the NVIDIA driver says of itself and its GPUs, whether or not torch sees them."""

import re
import shutil
import subprocess
from pathlib import Path

QUERY_S = 20
LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""Oldest driver branch for each major version of CUDA (NVIDIA's minor-version compatibility)."""


def driver_version(root: Path = Path("/")) -> str | None:
    """Return the version of the kernel's NVIDIA module, such as "580.65.06"; None where none is loaded."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        values = query("driver_version")
        return values[0][0] if values else None
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
    return found.group(1) if found else None


def query(*fields: str) -> list[list[str]]:
    """Ask nvidia-smi for fields of each GPU; empty where it is absent, or fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []


def too_old(driver: str, cuda: str) -> int | None:
    """Return the driver branch that a wheel for this CUDA needs at least, if the driver is older; None if it is not.

    too_old("535.183", "13.0")      # 580
    """
    least = LEAST_DRIVER.get(int(cuda.split(".")[0]))
    return least if least is not None and int(driver.split(".")[0]) < least else None
