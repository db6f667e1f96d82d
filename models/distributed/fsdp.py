"""FSDP2: shard the weights, gradients and moments of a run over its ranks; a block's weights are whole while it runs.

Each rank keeps 1/n of every tensor (its share of dimension 0). The weights of a block are gathered before it runs,
forward and backward, and its gradients are averaged and scattered after; parameters outside of blocks (embeddings,
norms, heads) are gathered for the whole of the method's forward, because `models.encoder.vit.encode` reads them outside
of any submodule's forward.

Ranks must run the same blocks the same number of times in a step. They do, whatever number of strong views passed the
threshold, as one packed matrix goes through all blocks. A parameter without a gradient on all ranks is allowed, unlike
under DDP. Every micro-batch scatters its gradients, so that no rank holds whole ones. Weights are gathered in float32,
in which they are kept, so that the numbers are DDP's; under autocast their bfloat16 copies live until the backward
pass, unless blocks are checkpointed.

Tested on CPUs with gloo; CUDA with NCCL takes the same path and was not yet run.
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
    """Shard a method, equal on all ranks, over the ranks' devices, in place; -> the method. Then build its optimiser.

    The blocks of an EMA teacher are sharded, too; the frozen weights that it shares with the encoder become its own.
    """
    if method.ema is not None:
        method.ema.own_all()
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in list(blocks(method)):
        fully_shard(block, mesh=mesh)
    fully_shard(method, mesh=mesh)
    return method.to(world.device)


def without_weights(method: Method) -> Method:
    """A copy of a method whose parameters are on the meta device, for `full_method` to fill; call it before `shard`."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in method.parameters()}
    return copy.deepcopy(method, empty)


@torch.no_grad()
def full_method(method: Method, empty: Method, world: World) -> Method:
    """A plain method with the whole weights of a sharded one, which each rank may evaluate alone. A collective call.

    empty  the method as `without_weights` returned it; it is copied

    The copy takes the memory of all weights on each device.
    """
    full = {name: _gathered(tensor) for name, tensor in method.state_dict().items()}
    filled = copy.deepcopy(empty)
    filled.load_state_dict(full, assign=True)
    return filled.to(world.device)


def shard_state(state: dict, optimiser: torch.optim.Optimizer) -> dict:
    """An optimiser's state of whole tensors as that of a sharded method loads it; a plain method's is unchanged."""
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
    # src_data_rank None: every rank has read the same checkpoint and takes its part of it
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
