"""Triton kernels without a GPU: run by Triton's interpreter, compiled for the GPUs that we name, launched on none."""

import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

triton = pytest.importorskip("triton", reason="Triton comes with the CUDA builds of torch")
CAPABILITIES = (75, 80, 90, 100)
DEVICE = 1000  # none that is there


def interpreted(script: str, *argv: str) -> None:
    """Run a script whose kernels are interpreted: Triton decides that as it is imported, once for a process."""
    run(script, *argv, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


def run(script: str, *argv: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def on_the_gpu(script: str, *argv: str) -> None:
    """Run it on the GPU of this machine, or skip."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    run(script, *argv)


def compiled(kernel, types: dict[str, str], constants: dict[str, object], capability: int, **options) -> dict[str, int]:
    """What a kernel's machine code needs, as cuobjdump says: REG, STACK, LOCAL and SHARED, per thread or block."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = types | dict.fromkeys(constants, "constexpr")
    fixed = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=fixed)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4, **options})
    return usage(made.asm["cubin"])


def usage(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    path = Path(f"/dev/shm/{os.getpid()}.cubin")
    path.write_bytes(cubin)
    try:
        said = subprocess.run([tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    finally:
        path.unlink()
    return {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", said)}


@contextmanager
def launching(*kernels) -> Generator[list[tuple[int, ...]]]:
    """In it, kernels are launched as on an H100, up to the driver, which does nothing; gives the grids so far.

    Triton chooses by the arguments what to compile, and compiles it.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    grids: list[tuple[int, ...]] = []
    pretended = SimpleNamespace(
        get_current_device=lambda: DEVICE,
        get_current_stream=lambda _: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        launcher_cls=lambda *_: lambda *args: grids.append(args[:3]),
        utils=SimpleNamespace(
            load_binary=lambda *_: (object(), object(), 0, 0, 1024),
            get_device_properties=lambda _: {"max_shared_mem": 227 << 10},
        ),
    )
    before = driver._active
    driver.set_active(pretended)
    try:
        yield grids
    finally:
        driver._active = before
        for kernel in kernels:
            kernel.device_caches.pop(DEVICE, None)


def variants(kernel) -> list:
    """What has been compiled of a kernel while `launching`."""
    return list(kernel.device_caches[DEVICE][0].values())
