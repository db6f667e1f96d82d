"""Triton kernels without a GPU: run by Triton's interpreter, compiled for the GPUs that we name, launched on none."""

import atexit
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

triton = pytest.importorskip("triton", reason="Triton comes with the CUDA builds of torch")
CAPABILITIES = (75, 80, 90, 100)
DEVICE = 1000  # none that is there


INTERPRETER = """
import json, os, sys
import numpy, torch, triton
from pipeline.executors import agreement, gpu_views, resize_triton
for line in sys.stdin:
    script, path, *argv = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = [path, *argv]
        exec(compile(script, "script", "exec"), {"__name__": "__main__"})
        sys.stderr.flush()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@cache
def interpreter() -> subprocess.Popen:
    """A process whose kernels are interpreted, which runs scripts in forks of it: it imports torch once.

    Triton decides what is interpreted as it is imported, once for a process.
    """
    own = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", INTERPRETER], env=own, stdin=pipe, stdout=pipe, text=True)

    def end() -> None:
        process.communicate()

    atexit.register(end)
    return process


def interpreted(script: str, *argv: str) -> None:
    """Run a script whose kernels are interpreted."""
    process = interpreter()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.NamedTemporaryFile("r") as said:
        process.stdin.write(json.dumps([script, said.name, *argv]) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "0\n", said.read()


def run(script: str, *argv: str) -> None:
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True)
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
