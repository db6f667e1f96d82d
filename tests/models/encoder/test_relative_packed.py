"""Groups packed with relative positions: the images one by one, with or without checkpointing and compiled graphs."""

import copy

import pytest
import torch

from models.distributed.compile import compile_blocks
from models.encoder.vit import FullImages, MaskedImages, SelectedImages, VisiblePatches, encode
from tests.models.encoder.relative_by_hand import (
    DOUBLE,
    KINDS,
    build,
    images,
    plain,
    shuffled,
)

OPTIONS = [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg", "fc_norm": False}, {"qk_norm": True},
           {"init_values": 0.3}]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_groups_are_the_images_one_by_one(kind, options):
    vit, x, y = build(kind, **options), images(), images(2)
    rows, visible = torch.tensor([2, 0]), shuffled(3, 16, 4)
    window, covered = shuffled(2, 16, 6), torch.rand(2, 6) < 0.5
    all_covered, mask = torch.rand(3, 16) < 0.5, torch.full((32,), 0.5, dtype=DOUBLE)
    groups = [
        FullImages(y),
        SelectedImages(x, rows, pooled=False),
        SelectedImages(x, rows[:0]),
        VisiblePatches(x, visible),
        MaskedImages(y, covered, mask, window),
        MaskedImages(x, all_covered, mask),
    ]
    found = encode(vit, groups)
    assert found[2].shape[0] == 0
    everything = torch.arange(16).expand(3, -1)
    expected = [
        plain(vit, kind, y, everything[:2])[:, : found[0].shape[1]],
        plain(vit, kind, x[rows], everything[:2]),
        found[2].detach(),
        plain(vit, kind, x, visible),
        plain(vit, kind, y, window, covered),
        plain(vit, kind, x, everything, all_covered),
    ]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    results = []
    for tokens in (found, expected):
        vit.zero_grad()
        sum(group.sin().sum() for group in tokens).backward()
        results.append({name: p.grad for name, p in vit.named_parameters() if p.grad is not None})
    assert any("relative" in name or "rpe_k" in name for name in results[0])
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_nothing(kind):
    vit, x, visible = build(kind), images(), shuffled(3, 16, 4)
    other = copy.deepcopy(vit)
    other.set_grad_checkpointing()
    results = []
    for each in (vit, other):
        whole, partly = encode(each, [FullImages(x[:2]), VisiblePatches(x, visible)])
        (whole.sin().sum() + partly.sin().sum()).backward()
        results.append([whole, partly, *(parameter.grad for parameter in each.blocks.parameters())])
    torch.testing.assert_close(*results)


# torch 2.13's dynamo asks activations for .grad and hides its own warning in a way that "error" outruns (November 2026)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_graphs_serve_groups_of_any_size_and_change_nothing(kind):
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    eager, x = build(kind, depth=3), images(8)
    compiled = copy.deepcopy(eager)
    compile_blocks(compiled, counting)
    for strong in (3, 5, 0):
        results, visible = [], shuffled(8, 16, 4)
        for vit in (eager, compiled):
            tokens = encode(
                vit, [FullImages(x[:2]), SelectedImages(x, torch.arange(strong)), VisiblePatches(x, visible)]
            )
            vit.zero_grad()
            torch.cat([group.flatten() for group in tokens]).sin().sum().backward()
            results.append([*tokens, *(block.attn.qkv.weight.grad for block in vit.blocks)])
        torch.testing.assert_close(*results)
    # blocks: all rows or the first; a fixed, any and no number of strong images. The patch projection: a fixed and any
    # number of patches, if no test before has compiled it
    assert 0 < len(graphs) <= 2 * 3 + 2
