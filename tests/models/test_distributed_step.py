"""One rank where three pseudo-labels pass and one where none does give the gradients of a single process."""

from pathlib import Path

import pytest
import torch
from torch import nn

from models.bench import baselines
from models.distributed.compile import compile_blocks
from models.distributed.fsdp import shard
from models.distributed.process_group import World, settle
from models.encoder.vit import Size, build_encoder, eval_logits
from models.masked.mae import Decoder
from tests.models.ranks import run_ranks

RANK = "import sys; from tests.models.test_distributed_step import one_rank; one_rank(*sys.argv[1:])"

DOUBLE, PASSED = torch.float64, (3, 0)


class Method(nn.Module):
    """Every parameter is used inside one forward: that is what DDP waits for. The encoder runs as a teacher, first."""

    ema = None

    def __init__(self, position="learned"):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = build_encoder(Size(32, 2, 4), image_size=32, patch=8, classes=5, position=position).to(DOUBLE)
        self.decoder = Decoder(32, (4, 4), 8, width=24, depth=1, heads=3).to(DOUBLE)

    def forward(self, step, way=baselines.packed):
        eval_logits(self.encoder, step.weak)
        return way(self.encoder, self.decoder, step)


def draw(rank):
    generator = torch.Generator().manual_seed(100 + rank)
    images = [torch.randn(n, 3, 32, 32, dtype=DOUBLE, generator=generator) for n in (1, 7, 7)]
    visible = torch.rand(7, 16, generator=generator).argsort(1)[:, :4].sort(1).values
    return baselines.Step(images[0], torch.tensor([rank]), *images[1:], visible, torch.arange(7) < PASSED[rank])


WAYS = {
    "ddp": lambda method, _: nn.parallel.DistributedDataParallel(method),  # find_unused_parameters stays False
    "shard": shard,
    "shard, checkpointing": lambda method, world: shard(checkpointing(method), world),
    "shard, compiled": lambda method, world: shard(compiled(method), world),
}


def checkpointing(method):
    method.encoder.set_grad_checkpointing()
    return method


def compiled(method):
    compile_blocks(method, "eager")
    return method


def one_rank(folder, way):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    way, position = way.split("/")
    method = WAYS[way](Method(position), World(rank, 2, rank, torch.device("cpu")))
    for _ in range(2):  # a second step: DDP complains about the first one's unused parameters only then
        method.zero_grad()
        method(draw(rank)).backward()
    gradients = {
        name: parameter.grad if way == "ddp" else parameter.grad.full_tensor()
        for name, parameter in (method.module if way == "ddp" else method).named_parameters()
    }
    torch.save(gradients, Path(folder) / f"gradients-{rank}.pt")
    settle()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("way", [*(f"{way}/learned" for way in WAYS), "shard, checkpointing/bias"])
def test_unequal_pass_counts_give_the_gradients_of_one_process(tmp_path, way):
    run_ranks(RANK, 2, str(tmp_path), way)
    position = way.split("/")[1]
    alone, separate = Method(position), baselines.separate if position == "learned" else baselines.packed
    sum(alone(draw(rank), separate) / 2 for rank in range(2)).backward()
    expected = {name: parameter.grad for name, parameter in alone.named_parameters()}
    largest = max(gradient.abs().max() for gradient in expected.values())
    for rank in range(2):
        found = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).abs().max() / gradient.abs().max().clamp_min(1e-6 * largest) < 1e-9, name
