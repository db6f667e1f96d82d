"""Batch norm's running statistics on several ranks: one set for all."""

import torch
import torch.distributed as dist
from torch import nn


@torch.no_grad()
def share_statistics(module: nn.Module) -> None:
    """Give every rank the main rank's running statistics, in one message; nothing to do in a single process.

    Batches are normalised by each rank's own images. The running statistics are the main rank's everywhere, as under
    DDP's own default (`broadcast_buffers`), which the authors ran: teachers agree, and as a checkpoint holds the main
    rank's, a run that carries on is the same run on every rank. A collective call.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    held = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    message = torch.cat([buffer.flatten() for buffer in held])
    dist.broadcast(message, 0)
    parts = message.split([buffer.numel() for buffer in held])
    torch._foreach_copy_(held, [part.view_as(buffer) for part, buffer in zip(parts, held, strict=True)])
