"""What a run on image files is judged by and shows, by what its set holds: classes of pixels, or boxes of objects.

validator = open_dense_validator(recipe, "val", train_set, world)
view_sheet(found, recipe, 8).save("views.png")
"""

from PIL import Image

from models.config.recipe import Recipe
from models.distributed.process_group import World
from models.evaluate import box_pictures, dense_pictures
from models.evaluate.box_validator import BoxValidator
from models.evaluate.dense_validator import DenseValidator
from models.evaluate.set_validator import SetValidator
from models.method import Method
from models.methods.detect import Detect
from models.methods.segment import Segment
from models.reporting.render import Picture
from pipeline.dense.boxes import BoxSet
from pipeline.dense.pixels import PixelSet
from pipeline.dense.train_data import DenseSet
from pipeline.train_data import AnyTrainData


def open_dense_validator(recipe: Recipe, name: str, train: DenseSet, world: World) -> SetValidator:
    """Open a set of the recipe's folder to evaluate on, of the kind of the training set. Raises InputError as the
    validators do."""
    if isinstance(train, BoxSet):
        return BoxValidator(recipe, name, train, world)
    return DenseValidator(recipe, name, train, world)


def view_sheet(found: DenseSet, recipe: Recipe, n: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Draw training images with what is known of them, and their first views; -> the sheet, and its columns' names."""
    if isinstance(found, BoxSet):
        return box_pictures.view_sheet(found, recipe, n), box_pictures.COLUMNS
    return dense_pictures.view_sheet(found, recipe, n), dense_pictures.COLUMNS


def pictures(recipe: Recipe, method: Method, train_data: AnyTrainData, val: SetValidator, n: int) -> list[Picture]:
    """Show what a recipe makes of training images, and what its method predicts for images of the set `val`."""
    train = train_data.source
    if isinstance(train, BoxSet):
        assert isinstance(method, Detect)
        assert isinstance(val, BoxValidator)
        made = box_pictures.prediction_picture(method, val.found, n)
        return [box_pictures.view_picture(train, recipe, n), made]
    assert isinstance(train, PixelSet)
    assert isinstance(method, Segment)
    assert isinstance(val, DenseValidator)
    made = dense_pictures.prediction_picture(method, val.found, n, val.batch)
    return [dense_pictures.view_picture(train, recipe, n), made]
