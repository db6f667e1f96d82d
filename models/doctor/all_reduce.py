"""Measure how fast the processes of a run sum a tensor over all of them, and that the sum is right.

torchrun --nproc-per-node 8 -m models.doctor.all_reduce       # each rank prints a line of JSON
"""

import json
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

FLOATS = {"cuda": 1 << 26, "cpu": 1 << 20}
LIMIT = timedelta(seconds=90)
TIMES = 8


def main() -> int:
    """Join the group that RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR describe, measure, and print the figures."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None, timeout=LIMIT)
    ranks, rank = dist.get_world_size(), dist.get_rank()
    tensor = torch.full((FLOATS[device.type],), float(rank + 1), device=device)
    dist.all_reduce(tensor)
    right = bool((tensor == ranks * (ranks + 1) / 2).all())
    for timed in (False, True):
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(TIMES if timed else 2):
            dist.all_reduce(tensor)
        if cuda:
            torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / TIMES
    sent = 2 * (ranks - 1) / ranks * tensor.numel() * tensor.element_size()
    print(json.dumps({"right": right, "gb_s": sent / seconds / 1e9, "ranks": ranks, "kind": device.type}), flush=True)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
