"""Share batch norm's running statistics between ranks."""

import torch
import torch.distributed as dist
from torch import nn


@torch.no_grad()
def share_statistics(module: nn.Module) -> None:
    """Give every rank the main rank's running statistics, in one message; does nothing in a single process.

    share_statistics(model)   # after each step, on all ranks: a collective call

    Batches are normalised by the images of each rank. The running statistics are the main rank's everywhere, as with
    DDP's default (`broadcast_buffers`), which the authors ran. So the teachers of all ranks agree, and a run resumed
    from a checkpoint, which holds the main rank's, is the same run on every rank.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    held = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    message = torch.cat([buffer.flatten() for buffer in held])
    dist.broadcast(message, 0)
    parts = message.split([buffer.numel() for buffer in held])
    torch._foreach_copy_(held, [part.view_as(buffer) for part, buffer in zip(parts, held, strict=True)])
