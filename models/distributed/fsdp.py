"""FSDP2: weights, gradients and moments of a run spread over its ranks; whole only a block at a time, while it runs.

Each rank keeps 1/n of every tensor (its share of dimension 0). A block's weights are gathered before it runs, forward
and backward, and its gradients are averaged and scattered after; what is no block's (embeddings, norms, heads) is
gathered for the whole of the method's forward, because `models.encoder.vit.encode` reads it outside of any submodule's.

Ranks must run the same blocks the same number of times in a step: they do, whatever number of strong views passed, as
one packed matrix goes through all. A parameter without gradient on all ranks is no trouble, unlike under DDP. Every
micro-batch scatters its gradients: none is ever whole. Weights are gathered as they are kept, in float32, so that the
numbers are DDP's; under autocast their bfloat16 copies live until the backward pass, unless blocks are checkpointed.

Seen on CPU with gloo; CUDA with NCCL takes the same path and was not yet run.
"""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from models.distributed.compile import blocks
from models.distributed.process_group import World
from models.method import Method


def shard(method: Method, world: World) -> Method:
    """Spread a method, the same on all ranks, over them and their devices, in place; before its optimiser is made.

    The teacher's blocks are spread, too.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in list(blocks(method)):
        fully_shard(block, mesh=mesh)
    fully_shard(method, mesh=mesh)
    return method.to(world.device)


def outline(method: Method) -> Method:
    """A copy of a method with no weights, to be filled by `whole`; before it is spread."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in method.parameters()}
    return copy.deepcopy(method, empty)


@torch.no_grad()
def whole(method: Method, empty: Method, world: World) -> Method:
    """A plain method with all weights of a spread one, for evaluation: every rank may use it alone. A collective call.

    Takes the memory of all weights on each device for as long as it is kept.
    """
    full = {name: _gathered(tensor) for name, tensor in method.state_dict().items()}
    filled = copy.deepcopy(empty)
    filled.load_state_dict(full, assign=True)
    return filled.to(world.device)


def spread(state: dict, optimiser: torch.optim.Optimizer) -> dict:
    """An optimiser's state of whole tensors as the optimiser of a spread (or of a plain) method loads it."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments = {
        number: {name: _scattered(value, parameters[number]) for name, value in held.items()}
        for number, held in state["state"].items()
    }
    return state | {"state": moments}


def _gathered(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _scattered(value: object, parameter: nn.Parameter) -> object:
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    # src_data_rank None: every rank has read the same checkpoint, and takes its part of it
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
