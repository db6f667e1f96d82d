"""Starting from positions of another grid: which grid a source's are of, and what is said where it does not tell."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from models.checkpoint import save_load
from models.pretrained import load_encoder
from models.pretrained.grids import grid_of_config, grid_of_recipe
from pipeline.errors import InputError
from tests.models.pretrained.test_load_into import method

PATCH = 8
GRIDS = [(4, 2), (2, 4), (4, 4), (8, 2), (3, 5)]


def of_grid(position: str, grid: tuple[int, int]):
    return method(position, size=(PATCH * grid[0], PATCH * grid[1]))


def saved(folder, held, grid: tuple[int, int] | None):
    """A checkpoint whose recipe tells the grid, or one without a recipe."""
    state = {"method": {f"encoder.{name}": t for name, t in held.encoder.state_dict().items()}}
    if grid:
        recipe = {"name": "a", "data": {"size": [PATCH * side for side in grid]}, "encoder": {"patch": PATCH}}
        state |= {"recipe": recipe, "step": 1}
    folder.mkdir(exist_ok=True)
    save_load.save(folder, state)
    return folder / "last.pt"


def resized(table: torch.Tensor, before: tuple[int, int], after: tuple[int, int]) -> torch.Tensor:
    """Rows [h w, C] as a picture of a grid, resized to another bicubically, with antialiasing."""
    picture = table.T.reshape(1, -1, *before)
    return F.interpolate(picture, size=after, mode="bicubic", antialias=True)[0].flatten(1).T


@pytest.mark.parametrize("before", GRIDS)
@pytest.mark.parametrize("after", GRIDS)
def test_learned_positions_of_a_run_go_to_any_grid(tmp_path, before, after):
    """4 x 2 and 2 x 4 have tables of one shape, as 4 x 4 and 8 x 2 have: the recipe tells them apart."""
    source, target = of_grid("learned", before), of_grid("learned", after)
    said = load_encoder(target, saved(tmp_path, source, before))
    table, held = source.encoder.pos_embed.detach()[0], target.encoder.pos_embed.detach()[0]
    if before == after:
        assert torch.equal(held, table)
        assert "resampled" not in said
        return
    assert f"positions resampled from {before[0]} x {before[1]} to {after[0]} x {after[1]} patches" in said
    assert torch.equal(held[:1], table[:1])  # the class token's
    torch.testing.assert_close(held[1:], resized(table[1:], before, after))


@pytest.mark.parametrize("position", ["bias", "block_bias"])
@pytest.mark.parametrize(("before", "after"), [((4, 2), (2, 4)), ((4, 4), (4, 2)), ((3, 5), (4, 2)), ((4, 2), (4, 2))])
def test_biases_of_a_run_go_to_any_grid(tmp_path, position, before, after):
    source, target = of_grid(position, before), of_grid(position, after)
    said = load_encoder(target, saved(tmp_path, source, before))
    assert ("position biases resampled from" in said) == (before != after)
    held = target.encoder.state_dict()
    for name, table in source.encoder.state_dict().items():
        if name.endswith("bias_table"):
            sides = [tuple(2 * side - 1 for side in grid) for grid in (before, after)]
            expected = table[:-3] if before == after else resized(table[:-3], *sides)
            torch.testing.assert_close(held[name][:-3], expected)
            assert torch.equal(held[name][-3:], table[-3:])


def test_a_source_that_does_not_tell_is_taken_to_be_square_or_as_this_encoder_is_and_that_is_said(tmp_path):
    square, tall, wide, other = (of_grid("learned", grid) for grid in ((4, 4), (8, 2), (2, 4), (4, 2)))
    said = load_encoder(tall, saved(tmp_path / "a", square, None))
    assert "positions resampled from 4 x 4 to 8 x 2 patches" in said
    said = load_encoder(other, saved(tmp_path / "b", wide, None))
    assert "positions taken to be of 4 x 2 patches, which their source does not say" in said
    assert torch.equal(other.encoder.pos_embed, wide.encoder.pos_embed)
    biased, same = of_grid("bias", (2, 4)), of_grid("bias", (4, 2))
    said = load_encoder(same, saved(tmp_path / "c", biased, None))
    assert "position biases taken to be of 4 x 2 patches, which their source does not say" in said
    with pytest.raises(InputError, match=r"expected pos_embed of shape \[1, 16, 32\], got \[1, 9, 32\]"):
        load_encoder(of_grid("learned", (3, 5)), saved(tmp_path / "d", wide, None))


def test_an_exported_folder_tells_its_grid(tmp_path):
    source, target = of_grid("learned", (2, 4)), of_grid("learned", (4, 2))
    save_file(source.encoder.state_dict(), tmp_path / "model.safetensors")
    config = {"model_args": {"img_size": [16, 32], "patch_size": 8}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "positions resampled from 2 x 4 to 4 x 2 patches" in load_encoder(target, tmp_path)
    recipe = {"data": {"size": [16, 32]}, "encoder": {"patch": 8}}
    save_file(source.encoder.state_dict(), tmp_path / "alone.safetensors", metadata={"recipe": json.dumps(recipe)})
    target = of_grid("learned", (4, 2))
    assert "positions resampled from 2 x 4 to 4 x 2 patches" in load_encoder(target, tmp_path / "alone.safetensors")


@pytest.mark.parametrize(("config", "grid"), [
    ({"model_args": {"img_size": 224, "patch_size": 16}}, (14, 14)),
    ({"model_args": {"img_size": [224, 112], "patch_size": [16, 16]}}, (14, 7)),
    ({"image_size": 224, "patch_size": 14}, (16, 16)),
    ({"model_args": {"img_size": [224]}}, None), ({"image_size": "224", "patch_size": 16}, None), ({}, None),
    ({"model_args": {"img_size": 224, "patch_size": 0}}, None),
])  # fmt: skip
def test_what_a_config_says(config, grid):
    assert grid_of_config(config) == grid


@pytest.mark.parametrize("recipe", [None, [], {}, {"data": 3, "encoder": {}}, {"data": {"size": 8}, "encoder": {}}])
def test_a_recipe_that_does_not_say_gives_none(recipe):
    assert grid_of_recipe(recipe) is None
