"""Starting a run from another run's encoder, by the kind of its positions."""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.checkpoint import save_load
from models.encoder.vit import Size, build_encoder, eval_logits
from models.pretrained import load_encoder
from pipeline.errors import InputError

POSITIONS = ["learned", "irpe", "bias", "block_bias", "none"]


def method(position, classes=5, size=32):
    torch.manual_seed(classes)
    vit = build_encoder(Size(32, 2, 4), image_size=size, patch=8, classes=classes, position=position)
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.3)
    return SimpleNamespace(encoder=vit, ema=None, branch=None)


def saved(folder, held):
    save_load.save(folder, {"method": {f"encoder.{name}": t for name, t in held.encoder.state_dict().items()}})
    return folder / "last.pt"


@pytest.mark.parametrize("position", POSITIONS)
def test_an_encoder_starts_from_one_with_the_same_kind_of_positions(tmp_path, position):
    before, after = method(position), method(position, classes=7)
    said = load_encoder(after, saved(tmp_path, before))
    assert said.endswith("new: head.weight, head.bias")
    for name, tensor in before.encoder.state_dict().items():
        assert name.startswith("head.") or torch.equal(after.encoder.state_dict()[name], tensor)


def test_a_bias_that_all_blocks_shared_becomes_each_blocks_own(tmp_path):
    before, after = method("bias"), method("block_bias")
    load_encoder(after, saved(tmp_path, before))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(eval_logits(after.encoder, x), eval_logits(before.encoder, x))


@pytest.mark.parametrize("position", ["bias", "block_bias"])
@pytest.mark.parametrize("size", [16, 48])
def test_biases_of_another_grid_are_resampled_as_pillow_does(tmp_path, position, size):
    before, after = method(position), method(position, size=size)
    said = load_encoder(after, saved(tmp_path, before))
    grid = size // 8
    assert f"position biases resampled from 4 x 4 to {grid} x {grid} patches" in said
    held = after.encoder.state_dict()
    tables = {name: table for name, table in before.encoder.state_dict().items() if name.endswith("bias_table")}
    assert len(tables) == (1 if position == "bias" else 2)
    for name, table in tables.items():
        assert torch.equal(held[name][-3:], table[-3:])
        for head in range(4):
            picture = Image.fromarray(table[:-3, head].view(7, 7).numpy())  # "F", one float a pixel
            wanted = np.asarray(picture.resize((2 * grid - 1, 2 * grid - 1), Image.Resampling.BICUBIC))
            np.testing.assert_allclose(held[name][:-3, head].view(wanted.shape).numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("position", ["bias", "block_bias"])
def test_started_at_another_size_an_encoder_is_the_one_that_was_shown_it(tmp_path, position):
    before, after = method("bias"), method(position, size=48)
    load_encoder(after, saved(tmp_path, before))
    x = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(eval_logits(after.encoder, x), eval_logits(before.encoder, x))


def test_a_table_of_the_same_grid_is_copied_and_one_of_no_square_or_of_other_heads_is_refused(tmp_path):
    before, after = method("bias"), method("bias", classes=7)
    assert "resampled" not in load_encoder(after, saved(tmp_path, before))
    state = before.encoder.rel_pos_bias
    for shape, came in (((5 * 7 + 3, 4), [38, 4]), ((6 * 6 + 3, 4), [39, 4]), ((49 + 3, 8), [52, 8])):
        state.relative_position_bias_table = nn.Parameter(torch.zeros(shape))
        with pytest.raises(InputError, match=rf"bias_table of shape \[52, 4\], got \[{came[0]}, {came[1]}\]"):
            load_encoder(after, saved(tmp_path, before))


@pytest.mark.parametrize(
    ("came", "wanted"), [pair for pair in permutations(POSITIONS, 2) if pair != ("bias", "block_bias")]
)
def test_positions_of_another_kind_are_refused_in_one_line(tmp_path, came, wanted):
    one, other = ("learned or sincos" if kind == "learned" else kind for kind in (came, wanted))
    with pytest.raises(InputError, match=f"trained with position {one}, got {other}; set encoder.position to {one}"):
        load_encoder(method(wanted), saved(tmp_path, method(came)))


def test_an_encoder_of_another_size_is_refused_by_the_first_tensor_that_differs(tmp_path):
    path, other = saved(tmp_path, method("irpe")), method("irpe")
    other.encoder = build_encoder(Size(48, 2, 4), image_size=32, patch=8, classes=5, position="irpe")
    with pytest.raises(InputError, match=r"expected cls_token of shape \[1, 1, 48\], got \[1, 1, 32\]"):
        load_encoder(other, path)
