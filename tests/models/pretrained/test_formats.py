"""Every released format: its file alone tells the encoder, whose features are those of the format's own library."""

from types import SimpleNamespace

import pytest
import torch

from models.config.recipe import Encoder, Recipe, Run
from models.encoder.build import encoder_of
from models.encoder.patches import as_normalised
from models.encoder.vit import FullImages, encode
from models.pretrained import load_encoder
from models.pretrained.architecture import with_encoder_of_start
from pipeline.spec import Data
from tests.models.pretrained import released_files as released


def started(start, size=released.SIZE, encoder=None, **run):
    """The encoder that a file tells, filled from it, and the two lines about it."""
    recipe = Recipe(None, Data(size=size), encoder or Encoder("auto"), run=Run(start=str(start), **run))
    recipe, read = with_encoder_of_start(recipe)
    held = SimpleNamespace(encoder=encoder_of(recipe, classes=7), ema=None, branch=None)
    said = load_encoder(held, str(start), None, recipe.run.start_normalisation)
    return held.encoder.eval(), recipe, read, said


def features(encoder, images):
    with torch.inference_mode():
        return encode(encoder, [FullImages(images, pooled=False)])[0]


@pytest.mark.parametrize("make", released.FORMATS, ids=lambda make: make.__name__)
def test_a_formats_features_are_its_own_librarys(tmp_path, make):
    torch.manual_seed(0)
    made = make(tmp_path)
    encoder, recipe, read, said = started(made.start)
    images = torch.randint(0, 256, (2, 3, released.SIZE, released.SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = made.features(as_normalised(images, made.normalisation))
        found = encode(encoder, [FullImages(images, pooled=False)])[0]
    scale = float(wanted.abs().max())
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < 1e-5 * max(1.0, scale), (read, said)
    assert recipe.encoder.width == released.WIDTH
    assert "new: head.weight, head.bias" in said or "new: fc_norm" in said


@pytest.mark.parametrize("size", [48, (48, 32)])
@pytest.mark.parametrize(
    "make", [released.mae, released.dinov2, released.dinov2_registers, released.open_clip, released.ijepa],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_at_another_size_and_not_square_features_are_those_of_timms_resized_model(tmp_path, make, size):
    made = make(tmp_path)
    encoder, _, _, said = started(made.start, size)
    made.model.set_input_size(size)
    sides = size if isinstance(size, tuple) else (size, size)
    images = torch.randint(0, 256, (2, 3, *sides), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = made.features(as_normalised(images, made.normalisation))
    assert float((features(encoder, images) - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))
    assert f"positions resampled from 4 x 4 to {sides[0] // 8} x {sides[1] // 8} patches" in said


@pytest.mark.parametrize(("make", "pool"), [(released.hf_siglip, "map"), (released.hf_beit, "avg")])
def test_what_a_classifier_reads_is_the_librarys_pooled_output(tmp_path, make, pool):
    made = make(tmp_path)
    encoder, recipe, _, _ = started(made.start)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = made.model(pixel_values=as_normalised(images, made.normalisation)).pooler_output
        tokens = features(encoder, images)
        found = encoder.fc_norm(encoder.pool(tokens))
        if recipe.encoder.fc_norm:  # a norm that the source keeps in its pooler
            assert made.model.pooler.layernorm.weight.equal(encoder.fc_norm.weight)
    assert recipe.encoder.pool == pool
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
