"""What the processes that tests start have in common: imported once, in the process that they are forked from."""
# ruff: noqa: F401

import torch.distributed.fsdp
import torch.distributed.tensor
import torch.utils.tensorboard
import tyro
from numba.core.registry import cpu_target

import tests.processes
import train
from models.methods import crossmae, mae, semi_mae, supmae

for _context in (cpu_target.typing_context, cpu_target.target_context):
    _context.refresh()  # what numba's first compiled function waits for
