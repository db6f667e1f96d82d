"""Images that grow while a run trains: it works for every method, and a run that was stopped ends on the same bits."""

import pytest

import models.encoder.vit
from models.encoder.patches import gather_patches
from pipeline.errors import InputError
from tests.conftest import rows, same, weights
from tests.test_train import LOW, RECIPES

GROWING = ["--data.sizes", "8", "16"]  # of 12 steps, six each; 4 and 16 patches


@pytest.fixture
def seen(monkeypatch):
    """The sides of the images that go through the encoder."""
    sides = []

    def noting(images, *others):
        sides.append(images.shape[-1])
        return gather_patches(images, *others)

    monkeypatch.setattr(models.encoder.vit, "gather_patches", noting)
    return sides


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_on_growing_images_and_is_evaluated_on_full_ones(recipe, tiny, tmp_path, seen, capsys):
    flags = [LOW] if recipe.startswith(("semi", "fix")) else []
    assert tiny(recipe, tmp_path, *flags, *GROWING, "--run.stop-step=6") == 75
    assert set(seen) == {8}
    seen.clear()
    assert tiny(recipe, tmp_path, *flags, *GROWING, report=True) == 0
    assert set(seen) == {16}
    assert "images of 8 pixels from step 0, 16 pixels from step 6" in capsys.readouterr().out
    assert {row["evaluation"] for row in rows(tmp_path) if "evaluation" in row} == {"val", "test"}
    fixed = tmp_path / "fixed"
    assert tiny(recipe, fixed, *flags, "--run.stop-step=6") == 75
    assert rows(fixed)[0]["loss"] != rows(tmp_path)[0]["loss"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return tmp_path_factory.mktemp("straight")


@pytest.mark.parametrize("stop", [3, 4, 7])
def test_stopping_before_between_and_after_sizes_changes_nothing(stop, tiny, tmp_path, straight):
    """Learned positions, three sizes, micro-batches, drop-path and an evaluation on the way; equal, not close."""
    flags = [LOW, "--data.sizes", "8", "12", "16", "--run.device-images=16", "--encoder.drop-path=0.3"]
    flags.append("--run.evaluate-steps=5")
    if not (straight / "last.pt").exists():
        assert tiny("semi_mae:digits", straight, *flags) == 0
    assert tiny("semi_mae:digits", tmp_path, *flags, f"--run.stop-step={stop}") == 75
    assert tiny("semi_mae:digits", tmp_path, *flags) == 0
    assert same(weights(tmp_path), weights(straight))
    assert rows(tmp_path) == rows(straight)


def test_one_size_all_along_is_no_size_at_all(tiny, tmp_path):
    assert tiny("mae:digits", tmp_path / "one", "--data.sizes", "16", "16") == 0
    assert tiny("mae:digits", tmp_path / "none") == 0
    assert same(weights(tmp_path / "one"), weights(tmp_path / "none"))
    assert rows(tmp_path / "one") == rows(tmp_path / "none")


def test_a_run_does_not_go_on_with_other_sizes(tiny, tmp_path):
    assert tiny("mae:digits", tmp_path, *GROWING, "--run.stop-step=4") == 75
    with pytest.raises(InputError, match=r"begun with data.sizes 8 16, now it is None"):
        tiny("mae:digits", tmp_path)
