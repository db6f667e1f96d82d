"""A GPU that is not there: fake tensors carry its device, and a watch says what would wait for it or be copied."""

from collections import Counter
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

aten = torch.ops.aten
READ, NONZERO = aten._local_scalar_dense.default, aten.nonzero.default
READS = {READ, aten.item.default}  # inference mode does not take item() and to() apart
COPIES = {aten._to_copy.default, aten.to.dtype_layout, aten.to.device}
WAITS = {*READS, NONZERO, aten.masked_select.default, aten.equal.default, aten.repeat_interleave.Tensor}


class Watch(TorchDispatchMode):
    """Counts operations, by name: `waits`, where the host would wait for the device; `mixed`, where a host tensor other
    than a number enters a device's operation; `unpinned`, copies to the device that are not from pinned memory.
    `products` are the types of matrix products, "tf32" for float32 whose factors may be rounded.

    Half of what is asked for by nonzero() is pretended to be other than 0.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.mixed, self.unpinned = Counter(), Counter(), Counter()
        self.products = set()

    def __torch_dispatch__(self, op, types, args: tuple = (), kwargs=None):
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        kinds = {x.device.type for x in given if x.ndim or x.device.type == "cuda"}  # a host's number may join
        if "cuda" in kinds and op in WAITS:
            self.waits[str(op)] += 1
        if op in READS:
            return 1  # fakes have no values
        if kinds == {"cpu", "cuda"}:
            self.mixed[str(op)] += 1
        if op is NONZERO and kinds == {"cuda"}:
            return torch.zeros(-(-args[0].numel() // 2), args[0].ndim, dtype=torch.int64, device="cuda")
        out = op(*args, **(kwargs or {}))
        if op in (aten.mm.default, aten.addmm.default):
            tf32 = out.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
            self.products.add("tf32" if tf32 else out.dtype)
        if op in COPIES and kinds == {"cpu"} and out.device.type == "cuda" and not getattr(args[0], "pinned", False):
            self.unpinned[str(op)] += 1
        if op in COPIES and kinds == {"cuda"} and out.device.type == "cpu":
            self.waits[str(op)] += 1
        return out


@contextmanager
def pretended_gpu(monkeypatch):
    """In it, the device "cuda" can be had; gives the mode whose from_tensor makes fakes."""

    def pin_memory(tensor):
        tensor.pinned = True
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    torch.set_float32_matmul_precision("high")  # as models.distributed.process_group sets it for CUDA
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        torch.set_float32_matmul_precision("highest")


def move(module: nn.Module, mode: FakeTensorMode) -> None:
    """What module.to("cuda") does: parameters and buffers, shared ones once, and no other tensor."""
    moved = {}  # by identity; the original is held, or its identity would be given away again
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None and id(tensor) not in moved:
                    there = mode.from_tensor(tensor.detach()).to("cuda")
                    moved[id(tensor)] = (
                        tensor,
                        (nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else there),
                    )
                held[name] = None if tensor is None else moved[id(tensor)][1]
