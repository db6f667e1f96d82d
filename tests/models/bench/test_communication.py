"""Bytes that a step sends: counted in the collectives of real steps, and in the sockets that carry them."""

import json
import os
import socket
import struct
import time
from collections import Counter
from math import log2
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from models.bench import communication
from models.bench.flops import count
from models.bench.packed_step import Options, recipe
from models.bench.synthetic import random_batch
from models.config.recipe import Encoder, Recipe
from models.distributed.fsdp import shard
from models.distributed.process_group import World, settle
from models.encoder.vit import VisiblePatches, encode
from models.masked.settings import Reconstruct
from models.method import StepInfo
from pipeline.errors import InputError
from pipeline.spec import Data
from tests.processes import PRELOAD

INFO = StepInfo(step=0, labels_only=False)
RANKS = 3  # divides no width here: every tensor is padded


class Collectives(TorchDispatchMode):
    """Bytes of the whole tensors of all collectives below it, by kind. At its end all of them are over.

    After the backward pass FSDP2 prefetches a block that is not used: without a wait its bytes would be the next
    step's.
    """

    def __init__(self):
        super().__init__()
        self.found = Counter()
        self.works = []

    def __torch_dispatch__(self, op, types, args: tuple = (), kwargs=None):
        if op.namespace == "c10d":
            tensors = args[1] if op.__name__.startswith("_reduce_scatter") else args[0]
            whole = tensors if isinstance(tensors, torch.Tensor) else sum(map(torch.Tensor.flatten, tensors))
            self.found[op.__name__.split(".")[0]] += whole.nbytes
            self.found["calls"] += 1
        result = op(*args, **(kwargs or {}))
        if op.namespace == "c10d":
            self.works.append(result[-1] if isinstance(result, tuple) else result)
        return result

    def __exit__(self, *raised):
        super().__exit__(*raised)
        for work in self.works:
            work.wait()


def small(name):
    kind, own = communication.METHODS[name]
    settings = own() if name == "FixMatch" else own(reconstruct=Reconstruct(depth=3, width=40, heads=2))
    torch.manual_seed(0)
    return kind(
        Recipe(settings, Data(size=32), Encoder(None, 36, 2, 3, patch=8, position="sincos")), communication.CLASSES
    )


def spread(name, way, world):
    return nn.parallel.DistributedDataParallel(small(name)) if way == "ddp" else shard(small(name), world)


def step(model):
    batch = random_batch(recipe(Options(image_size=32, patch=8), 1), 1, 3, communication.CLASSES, torch.device("cpu"))
    model(batch, INFO).total.backward()


def sent():
    """Bytes that this process has sent over TCP, each once: the kernel's own count (tcpi_bytes_sent less _retrans)."""
    total = 0
    for path in Path("/proc/self/fd").iterdir():
        if path.is_symlink() and os.readlink(path).startswith("socket:"):
            with socket.socket(fileno=os.dup(int(path.name))) as each:
                if each.family in (socket.AF_INET, socket.AF_INET6):
                    info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    every, again = struct.unpack_from("QQ", info, 200)
                    total += every - again
    return total


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    found = {}
    for name in communication.METHODS:
        for way in ("ddp", "fsdp"):
            model = spread(name, way, World(rank, RANKS, rank, torch.device("cpu")))
            with Collectives():
                step(model)  # DDP sorts its buckets after the first
            dist.barrier()
            before = sent()
            with Collectives() as collectives:
                step(model)
            dist.barrier()
            time.sleep(0.05)
            found[f"{name} {way}"] = collectives.found | {"sent": sent() - before}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    settle()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What each of three gloo ranks did in one step: measured[rank]["MAE ddp"]."""
    folder = tmp_path_factory.mktemp("ranks")
    processes.get_context("forkserver").set_forkserver_preload(PRELOAD)
    processes.start_processes(one_rank, (str(folder),), RANKS, start_method="forkserver")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("name", communication.METHODS)
def test_ddp_sends_what_goes_through_the_sockets(measured, name):
    counted = communication.ddp(small(name))
    for rank in measured:
        found = rank[f"{name} ddp"]
        assert counted.forward + counted.backward == 2 * found["allreduce_"]
        assert counted.sent(RANKS) == pytest.approx(found["sent"], rel=0.02)


@pytest.mark.parametrize("name", communication.METHODS)
def test_fsdp_gathers_and_scatters_what_its_collectives_are_given(measured, name):
    counted = communication.fsdp(small(name), RANKS)
    for rank in measured:
        found = rank[f"{name} fsdp"]
        assert set(found) == {"_allgather_base_", "_reduce_scatter_base_", "calls", "sent"}
        assert counted.forward + counted.backward == found["_allgather_base_"] + found["_reduce_scatter_base_"]
        assert counted.gathers == found["calls"]
        extra = found["_reduce_scatter_base_"] * (RANKS - 1) / RANKS  # gloo scatters by an all-reduce: twice the bytes
        assert counted.sent(RANKS) + extra == pytest.approx(found["sent"], rel=0.02)


@pytest.mark.parametrize("ranks", [8, 64])
def test_fsdp_on_more_ranks_than_there_are_here(ranks):
    """In a world whose other ranks are pretended; 64 is more than any tensor here has rows."""
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        model = shard(small("Semi-MAE"), World(0, ranks, 0, torch.device("cpu")))
        with Collectives() as collectives:
            step(model)
    finally:
        settle()
        dist.destroy_process_group()
    assert sum(collectives.found.values()) - collectives.found["calls"] == pytest.approx(
        communication.fsdp(small("Semi-MAE"), ranks).sent(ranks) * ranks / (ranks - 1)
    )


def test_what_is_trained_is_timms_network_but_for_its_positions():
    for model in communication.MODELS:
        with torch.device("meta"):
            plain = timm.create_model(model, num_classes=communication.CLASSES)
        expected = sum(p.numel() for p in plain.parameters()) - plain.pos_embed.numel()
        assert communication.ddp(communication.networks(model)["FixMatch"]).backward == 2 * 4 * expected


def test_a_step_computes_what_torch_counts():
    method, options = (
        communication.networks("vit_small_patch16_224")["MAE"],
        communication.Options(labelled=1, unlabelled=1),
    )
    with torch.device("meta"):
        images, visible = torch.empty(2, 3, 224, 224), torch.empty(2, 49, dtype=torch.int64)
        hidden = torch.empty(2, 147, dtype=torch.int64)

    def forward():
        return method.branch.decoder(
            encode(method.encoder, [VisiblePatches(images, visible)])[0], visible, hidden
        ).sum()

    alone, both = count(forward), count(lambda: forward().backward())
    assert communication.step_flops(method, options) == (alone, both - alone)


def test_the_page_and_the_command_agree_about_the_recipe():
    """docs/scale.md: 54.9 GFLOP an image, for ViT-S with 8 blocks; at 1 : 7."""
    flops = sum(
        communication.step_flops(communication.networks("vit_small_patch16_224")["Semi-MAE"], communication.Options())
    )
    assert flops / (13 + 91) / 1e9 == pytest.approx(54.9, abs=0.05)


def test_milliseconds_are_bytes_over_the_slowest_link_and_a_way_through_all_ranks():
    links = communication.Links(nvlink_gb_s=100, card_gb_s=10, inside_us=1, between_us=10)
    ring, tree = communication.Traffic(10**9, 3 * 10**9, gathers=5), communication.Traffic(0, 10**9, reduces=5)
    assert sum(communication.seconds(ring, 8, 1, links)) == pytest.approx(4 * 7 / 8 / 100 + 5 * 7e-6)
    assert sum(communication.seconds(ring, 64, 2, links)) == pytest.approx(4 * 63 / 64 / 20 + 5 * (56e-6 + 80e-6))
    assert sum(communication.seconds(tree, 64, 8, links)) == pytest.approx(63 / 64 / 80 + 5 * 2 * log2(8) * 11e-6)
    assert communication.added(ring, (0.005, 1.0), 8, 1, links) == pytest.approx((0.035035, 0.035035 / 4 - 0.005))


def test_the_page_has_what_the_command_prints(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["communication"])
    communication.main()
    output = capsys.readouterr().out
    page = (Path(communication.__file__).parents[2] / "docs" / "scale.md").read_text()
    printed, kept = ({line for line in text.splitlines() if line.startswith("| vit")} for text in (output, page))
    assert len(printed) == 20
    assert len(kept) == 12  # of one GPU, the page has Semi-MAE alone
    assert kept <= printed


def test_one_gpu_sends_nothing_and_is_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["communication", "--ranks", "1", "1"])
    with pytest.raises(InputError, match="2 GPUs or more"):
        communication.main()
