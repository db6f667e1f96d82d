"""End a process with one line and exit code 1 when a memory-mapped file can no longer be read.

guard(data, Path("train.beton"))      # data: a memory map of the file

The file may have been cut short, or its mount be gone.

The kernel answers such a read with SIGBUS, in whatever thread it is, amid a decoder: no Python handler can run. So the
handler is machine code that finds the file by the address that failed, and calls write and _exit alone. llvmlite
(numba's) makes it in some milliseconds; numba itself would take 200, and the addresses in it rule out a cache.
"""

import ctypes
import mmap
import signal
import weakref
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import Unavailable

SLOTS = 16  # files at once that can be named; a bus error in another map is left to whoever had the signal before
CODE, ADDRESS = 8, 16  # of siginfo_t, in 64-bit Linux: where si_code and si_addr are
RAISED = -6  # si_code SI_TKILL: faulthandler's way of passing a signal on; the read then fails again
FLAGS = 0x0C000004  # SA_SIGINFO, SA_ONSTACK, SA_NODEFER


class Action(ctypes.Structure):
    """struct sigaction of 64-bit Linux."""

    _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_byte * 128), ("flags", ctypes.c_int),
                ("restorer", ctypes.c_void_p))  # fmt: skip


class Installed(NamedTuple):
    """All that must live as long as the process: the handler's code, the handler before it, and its table, which holds
    first address, end, message and its bytes for each file."""

    engine: Any
    before: Action
    files: ctypes.Array


def guard(data: np.ndarray, path: Path) -> None:
    """From now on a bus error in `data` (u8 [bytes], memory-mapped) names `path` and ends the process with code 1."""
    mapped = data
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    free = next((file for file in _installed().files if not file[1]), None)
    if free is None or not isinstance(mapped, mmap.mmap):
        return
    path = path.absolute()
    line = (
        f"error: {path} can no longer be read (bus error): it was cut short, or the storage under it is gone; see that "
        f"it is mounted and whole (python -m pipeline.store {path}), then run again\n"
    )
    message = ctypes.create_string_buffer(line.encode(errors="backslashreplace"))  # a path may be no UTF-8
    free[:] = data.ctypes.data, data.ctypes.data + data.size, ctypes.addressof(message), len(message) - 1
    weakref.finalize(mapped, _forget, free, message).atexit = False


def _forget(file: ctypes.Array, message: ctypes.Array) -> None:  # holds the message until then
    file[:] = 0, 0, 0, 0


@cache
def _installed() -> Installed:
    import llvmlite.binding as llvm

    files, before = (ctypes.c_int64 * 4 * SLOTS)(), Action()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0)
    code = llvm.parse_assembly(_handler(ctypes.addressof(files), ctypes.addressof(before)))
    engine = llvm.create_mcjit_compiler(code, machine)
    engine.finalize_object()
    action = Action(engine.get_function_address("on_bus_error"), flags=FLAGS)
    ctypes.CDLL(None).sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(before))
    return Installed(engine, before, files)


def _handler(files: int, before: int) -> str:
    """void on_bus_error(int signal, siginfo_t *info, void *context), with the addresses of the table and of what
    handled the signal before."""
    from llvmlite import ir

    i32, i64, void = ir.IntType(32), ir.IntType(64), ir.VoidType()
    module = ir.Module()

    def function(name: str, returns: ir.Type, *arguments: ir.Type) -> ir.Function:
        return ir.Function(module, ir.FunctionType(returns, arguments), name)

    write, end, sigaction = (
        function("write", i64, i32, i64, i64), function("_exit", void, i32), function("sigaction", i32, i32, i64, i64)
    )  # fmt: skip
    handler = function("on_bus_error", void, i32, i64, i64)
    b, (number, info, _) = ir.IRBuilder(handler.append_basic_block()), handler.args

    def load(place: ir.Value, kind: ir.Type) -> ir.Value:
        return b.load(b.inttoptr(place, kind.as_pointer()))

    with b.if_then(b.icmp_signed("==", load(b.add(info, i64(CODE)), i32), i32(RAISED))):
        b.ret_void()
    address = load(b.add(info, i64(ADDRESS)), i64)
    for file in range(files, files + 32 * SLOTS, 32):
        first, last, message, length = (load(i64(file + 8 * i), i64) for i in range(4))
        inside = b.and_(b.icmp_unsigned(">=", address, first), b.icmp_unsigned("<", address, last))
        with b.if_then(inside):
            b.call(write, [i32(2), message, length])
            b.call(end, [i32(Unavailable.code)])
    b.call(sigaction, [number, i64(before), i64(0)])  # and the read fails again, for that one to see
    b.ret_void()
    return str(module)
