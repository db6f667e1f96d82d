"""Are the views that this GPU's kernels make the ones that torch makes on it? What disagrees is not used.

    refused(torch.device("cuda"))      # {} or {"apply_ops": "differs from torch in 3 of 68 images (equalize)"}
    python -m pipeline.executors.agreement cuda:0      # checks, and prints a line of JSON for each kernel

A compiler or a driver may make another program of a kernel than the one that was tested. So the Triton kernels run once
on each machine and version beside the torch executors, in a process of its own, because a kernel that reads where it
must not ends every later call of its process. The answer is kept in the machine's own temporary folder.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pipeline
from pipeline import rng
from pipeline.executors import crop_flip_torch, erase_torch, rand_augment_torch, resize_torch, yuv420_torch
from pipeline.views import erase
from pipeline.views import rand_augment as ra
from pipeline.views.crop_flip import BICUBIC, BILINEAR

DEADLINE_S = 240
"""Seconds for the check, in which Triton compiles the kernels, as the run would have."""
NOT_OPENED = 3
"""Exit code of a check that could not use the device beside the process that asks, as one in exclusive mode."""
ROUNDED = {"cut": 1e-3, "resize": 0.05}
"""Kernels that may differ by one grey level, in this share of their pixels: sums are rounded in another order, and the
weights of an antialiased filter are float32, which breaks ties otherwise than Pillow's whole numbers do."""
Verdict = dict[str, str]
"""Why a kernel is not used, by its name; empty where all agree."""


def cases(device: torch.device, size: int) -> dict[str, Callable[[Callable[..., Tensor], torch.device], list[Tensor]]]:
    """Return for each kernel a function that runs an executor of it on fixed inputs: square views u8 [N, 3, S, S]."""
    chance, sides = np.random.default_rng(0), (size, size)
    each = np.repeat(np.arange(len(ra.NAMES), dtype=np.int8), len(ARGS))
    pictures = torch.from_numpy(_pictures(chance, len(each), size)).permute(0, 3, 1, 2)
    single = ra.Ops(each[:, None], _arguments(each))
    drawn = {name: ra.draw(name, rng.keys(1, 0, np.arange(len(each)), rng.STRONG), sides) for name in ("usb", "timm")}
    pixels, geometry = _packed(chance, 12, size)
    framed = geometry.copy()
    framed[:, 6:8] = chance.integers(-(size // 5), size // 5 + 1, (12, 2))
    framed[:, 8:10] = chance.integers(size, size + size // 2 + 1, (12, 2))
    keys = rng.keys(2, 0, np.arange(len(each)), rng.STRONG)
    boxes = erase.draw_cutout(keys, sides), erase.draw_erasing(keys, sides, probability=0.7)
    planes, where = _planes(chance, 12, size)

    def to_rgb(run: Callable[..., Tensor], there: torch.device) -> list[Tensor]:
        return [run(planes.to(there), where)]

    def cut(run: Callable[..., Tensor], there: torch.device) -> list[Tensor]:
        return [run(pixels.to(there), geometry, sides)]

    def resized(run: Callable[..., Tensor], there: torch.device) -> list[Tensor]:
        return [run(pixels.to(there), framed, sides, kind) for kind in (BILINEAR, BICUBIC)]

    def apply_ops(run: Callable[..., Tensor], there: torch.device) -> list[Tensor]:
        plans = (single, False), (single, True), (drawn["usb"], True), (drawn["timm"], False)
        images = pictures.to(there)
        return [run(images, plan, nearest=nearest, fill=(124, 116, 104)) for plan, nearest in plans]

    def erased(run: Callable[..., Tensor], there: torch.device) -> list[Tensor]:
        fills = erase.CUTOUT_FILL, erase.noise_keys(keys)
        return [run(pictures.to(there, copy=True), some, fill) for some, fill in zip(boxes, fills, strict=True)]

    return {"to_rgb": to_rgb, "cut": cut, "resize": resized, "apply_ops": apply_ops, "erase": erased}


ARGS = (0.1, 0.45, 0.8)
"""Where in its range the argument of each operation is taken."""
RANGES = {
    "rotate": (-30, 30), "posterize": (0, 8), "solarize": (0, 256), "solarize_add": (0, 110), "hue": (-0.5, 0.5),
    **dict.fromkeys(("colour", "contrast", "brightness", "sharpness"), (0.1, 1.9)),
    **dict.fromkeys(("shear_x", "shear_y", "translate_x", "translate_y"), (-0.3, 0.3)),
}  # fmt: skip
REFERENCE: dict[str, Callable[..., Tensor]] = {
    "to_rgb": yuv420_torch.to_rgb, "cut": crop_flip_torch.cut, "resize": resize_torch.resize,
    "apply_ops": rand_augment_torch.apply_ops, "erase": erase_torch.erase,
}  # fmt: skip


def disagreement(name: str, kernel: Callable[..., Tensor], device: torch.device, size: int = 224) -> str | None:
    """Say how a kernel's views on a device differ from torch's there; None where they agree.

    name  to_rgb, cut, resize, apply_ops or erase

    Planes, colours and erasing agree to the bit, the others to one grey level (ROUNDED).
    """
    run = cases(device, size)[name]
    wrong = total = 0
    for ours, theirs in zip(run(kernel, device), run(REFERENCE[name], device), strict=True):
        apart = (ours.int() - theirs.int()).abs().flatten(1)
        rounded = name in ROUNDED and (apart > 0).float().mean() <= ROUNDED[name]
        off = (apart > 1).any(1) if rounded else apart.any(1)
        wrong, total = wrong + int(off.sum()), total + len(off)
    return f"it differs from torch in {wrong} of {total} images" if wrong else None


def kernels() -> dict[str, Callable[..., Tensor]]:
    """Import the Triton kernels by the names under which the executors call them."""
    from pipeline.executors import crop_flip_triton, erase_triton, rand_augment_triton, resize_triton, yuv420_triton

    return {
        "to_rgb": yuv420_triton.to_rgb,
        "cut": crop_flip_triton.cut,
        "resize": resize_triton.resize,
        "apply_ops": rand_augment_triton.apply_ops,
        "erase": erase_triton.erase,
    }


@cache
def refused(device: torch.device) -> Verdict:
    """Return the kernels that this GPU must not run, and why; checked once for each machine and version.

    Processes that ask at the same time wait for the first one's answer. Where no temporary folder is this user's own,
    nothing is kept, and each process checks.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return {}
    folder = pipeline.temporary_folder("agreement")

    def ask() -> tuple[Verdict, bool]:
        print("comparing the GPU's kernels with torch's, once on this machine and version", flush=True)
        return check(device)

    return ask()[0] if folder is None else kept(folder / f"{fingerprint(device)}.json", ask)


def kept(file: Path, ask: Callable[[], tuple[Verdict, bool]]) -> Verdict:
    """Return the answer in a file; where there is none, ask, and keep an answer that is sure."""
    file.parent.mkdir(exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        found, sure = ask()
        if sure:
            partial = file.with_suffix(".partial")  # one process writes at a time, as it holds the lock
            partial.write_text(json.dumps(found) + "\n", encoding="utf-8")
            partial.replace(file)
    return found


def check(device: torch.device, command: tuple[str, ...] = ()) -> tuple[Verdict, bool]:
    """Run the check in a process of its own, and return what is refused, and whether the check came to its end.

    Where it crashed, or the GPU had no memory for it, the kernels that it had not compared are refused this time.

    command  what to run instead of this module, for tests
    """
    if device.index is None and device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    command = command or (sys.executable, "-m", "pipeline.executors.agreement", str(device))
    root = Path(__file__).parents[2]
    own = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])}
    try:
        done = subprocess.run(command, cwd=root, env=own, capture_output=True, text=True, timeout=DEADLINE_S)
        code, printed, said = done.returncode, done.stdout, done.stderr.strip().splitlines()
    except subprocess.TimeoutExpired as error:
        code, printed, said = 1, (error.stdout or b"").decode(), [f"nothing came of it in {DEADLINE_S} s"]
    if code == NOT_OPENED:
        return {name: why for name, kernel in kernels().items() if (why := disagreement(name, kernel, device))}, True
    known = {line["kernel"]: line["why"] for line in map(json.loads, printed.splitlines())}
    why = f"its check ended with code {code}" + (f": {said[-1][:200]}" if said else "")
    found = {name: known.get(name, why) for name in REFERENCE}
    return {name: reason for name, reason in found.items() if reason}, code == 0


def fingerprint(device: torch.device) -> str:
    """Return a digest of all that an answer holds for: GPU, torch, Triton, driver, and the sources of this room."""
    sources = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"\0".join([*sources, repr(_versions(device)).encode()])).hexdigest()[:16]


def _versions(device: torch.device) -> list[Any]:
    import triton

    driver = Path("/proc/driver/nvidia/version")
    gpu = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return [*gpu, torch.__version__, triton.__version__, driver.read_text() if driver.exists() else ""]


def _pictures(chance: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Make images u8 [count, S, S, 3] in turns: noise, a ramp, few levels, and one colour, which has no contrast."""
    images = chance.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    images[1::4] = (np.arange(size)[:, None, None] * 255 // max(1, size - 1) + np.arange(3) * 40).astype(np.uint8)
    images[2::4] = images[2::4] // 64 * 64
    images[3::8] = 90
    return images


def _packed(chance: np.random.Generator, count: int, size: int) -> tuple[Tensor, np.ndarray]:
    """Make decoded images of several sizes in one buffer, and boxes in them, some beyond the border, some mirrored."""
    heights, widths = chance.integers(max(2, size // 3), 2 * size + 3, (2, count))
    places = np.concatenate([[0], np.cumsum(heights * widths)[:-1]])
    pixels = torch.from_numpy(chance.integers(0, 256, (int((heights * widths).sum()), 3), dtype=np.uint8))
    tall, wide = (chance.integers(1, side + 1) for side in (heights, widths))
    top, left = chance.integers(0, heights - tall + 1), chance.integers(0, widths - wide + 1)
    insets = chance.integers(0, max(1, size // 5), (count, 4)) * (np.arange(count)[:, None] % 2)
    columns = [places, widths, top, left, tall, wide, *insets.T, np.arange(count) % 3 == 0]
    return pixels, np.stack(columns, 1).astype(np.int64)


def _planes(chance: np.random.Generator, count: int, size: int) -> tuple[Tensor, np.ndarray]:
    """Make images of several sizes as planes of YUV 4:2:0 in one buffer, and where they lie, in it and as RGB."""
    heights, widths = chance.integers(1, 2 * size + 3, (2, count))
    sizes = heights * widths + 2 * ((heights + 1) // 2) * ((widths + 1) // 2)
    ends, areas = np.cumsum(sizes), heights * widths
    planes = torch.from_numpy(chance.integers(0, 256, int(ends[-1]), dtype=np.uint8))
    return planes, np.stack([ends - sizes, heights, widths, np.cumsum(areas) - areas], 1)


def _arguments(ops: np.ndarray) -> np.ndarray:
    """Return an argument for each of the operations i8 [N], in turns at ARGS of its range: f32 [N, 1]."""
    low, high = np.array([RANGES.get(ra.NAMES[op], (0, 0)) for op in ops], np.float64).T
    values = low + np.resize(ARGS, len(ops)) * (high - low)
    whole = np.isin(ops, (ra.POSTERIZE, ra.SOLARIZE, ra.SOLARIZE_ADD))
    return np.where(whole, values.round(), values).astype(np.float32)[:, None]


def main(argv: list[str]) -> int:
    """Check every kernel on a device and print a line for each; a size is a second argument, for tests."""
    device, size = torch.device(argv[0]), int(argv[1]) if len(argv) > 1 else 224
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # on which Triton launches
        torch.zeros(1, device=device)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return NOT_OPENED
    for name, kernel in kernels().items():
        print(json.dumps({"kernel": name, "why": disagreement(name, kernel, device, size)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
