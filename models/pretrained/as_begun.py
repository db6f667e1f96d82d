"""Find the encoder of a run that goes on: of the weights that it starts from, or as the run was begun.

recipe, line = with_encoder(resolve("finetune:few", ["--run.start", "dinov2.pth"]))
"""

from dataclasses import replace

from models.config.recipe import Encoder, Recipe
from models.config.resolve import named
from models.load import restore_recipe
from models.pretrained.architecture import with_encoder_of_start
from models.records.json_file import read_object
from models.records.run_folder import RECIPE, folder_of
from pipeline.errors import InputError

KEPT = "pool", "fc_norm", "drop_path", "attention", "checkpointing"
"""Fields that a recipe has beside what auto reads."""


def with_encoder(recipe: Recipe) -> tuple[Recipe, str | None]:
    """Replace an encoder named auto by that of run.start, or, where this cannot be read any more, by the one in
    recipe.json of the run that was begun from it; -> the recipe, and a line about what was read.

    Raises InputError as `with_encoder_of_start` does, where no such run was begun.
    """
    try:
        return with_encoder_of_start(recipe)
    except InputError:
        begun = _begun(recipe)
        if begun is None:
            raise
    usual = named(recipe.name).encoder
    asked = {name: own for name in KEPT if (own := getattr(recipe.encoder, name)) != getattr(usual, name)}
    line = f"{recipe.run.start} cannot be read any more: encoder as in {folder_of(recipe) / RECIPE}"
    return replace(recipe, encoder=replace(begun, **asked)), line


def _begun(recipe: Recipe) -> Encoder | None:
    """The encoder with which a run from the same start was begun in the recipe's folder; None without one."""
    path = folder_of(recipe) / RECIPE
    if not path.exists():
        return None
    saved = restore_recipe(read_object(path, "restore it"), path)
    return saved.encoder if saved.run.start == recipe.run.start and saved.name == recipe.name else None
