"""Hugging Face data sets: every label is kept, or the column is refused by its name."""

from types import SimpleNamespace

import pytest

from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.sources.objects import from_dataset
from tests.pipeline.sources.test_objects import encoded, grey


class Feature(SimpleNamespace):
    pass


def feature(kind: str, **fields) -> Feature:
    """Hugging Face's features are known by the names of their classes."""
    return type(kind, (Feature,), {})(**fields)


class ImageFeature:
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class Table:
    """Hugging Face's data set, as far as it is used: columns and rows, formats, undecoded images."""

    def __init__(self, columns: dict[str, list], features: dict, kind: str | None = None) -> None:
        self.columns, self.features, self.format = columns, features, {"type": kind}

    def __len__(self) -> int:
        return len(self.columns["image"])

    def __getitem__(self, key):
        return (
            self.columns[key] if isinstance(key, str) else {name: column[key] for name, column in self.columns.items()}
        )

    def with_format(self, kind: None) -> "Table":
        return Table(self.columns, self.features, kind)

    def cast_column(self, name: str, image) -> "Table":
        assert name == "image"
        assert not image.decode
        return self


def table(images: int = 3, form: str | None = None, **columns) -> Table:
    """Each column is a feature and values."""
    stored = [{"bytes": b"%d" % i, "path": None} for i in range(images)]
    features = {"image": type("Image", (ImageFeature,), {})(), **{name: each[0] for name, each in columns.items()}}
    return Table({"image": stored, **{name: each[1] for name, each in columns.items()}}, features, form)


def value(dtype: str) -> Feature:
    return feature("Value", dtype=dtype)


@pytest.mark.parametrize(("column", "values", "classes", "labels"), [
    (feature("ClassLabel", names=["x", "y"]), [1, None, 0], ("x", "y"), [1, -1, 0]),
    (feature("ClassLabel", names=["x", "y"]), [1, -1, 0], ("x", "y"), [1, -1, 0]),
    (value("int64"), [0, 2, 1], ("0", "1", "2"), [0, 2, 1]),
    (value("int64"), [1, 2, 1], ("1", "2"), [0, 1, 0]),
    (value("uint8"), [10, 9, None], ("9", "10"), [1, 0, -1]),
    (value("int64"), [0, 1, -1], ("0", "1"), [0, 1, -1]),
    (value("string"), ["dog", "cat", None], ("cat", "dog"), [1, 0, -1]),
    (value("large_string"), ["b", "b", "a"], ("a", "b"), [1, 1, 0]),
    (value("bool"), [True, False, None], ("False", "True"), [1, 0, -1]),
    (value("null"), [None, None, None], None, [-1, -1, -1]),
])  # fmt: skip
def test_a_hugging_face_column_of_labels_keeps_every_label(column, values, classes, labels):
    source = from_dataset(table(label=(column, values)))
    assert source.classes == classes
    assert [source.read(i) for i in range(3)] == [(b"%d" % i, label) for i, label in enumerate(labels)]


@pytest.mark.parametrize(("columns", "message"), [
    ({"label": (feature("List", feature=value("int64")), [[1]] * 3)}, "column label: expected .* got List"),
    ({"label": (feature("Sequence"), [[1]] * 3)}, "column label: expected .* got Sequence"),
    ({"label": (value("float32"), [1.0] * 3)}, "column label: expected .* got float32"),
    ({"label": (value("int64"), [1, -1, 1])}, "column label: among -1, 1, -1 could be a class|-1 could be a class"),
    ({"label": (value("int64"), [-3, 0, 1])}, "column label: expected class numbers from 0 or 1, got -3"),
    ({"diagnosis": (value("string"), ["a"] * 3)}, r"none of the columns diagnosis \(string\) is known to be the label"),
    ({"caption": (value("string"), ["a"] * 3), "n": (value("int64"), [1] * 3)}, r"caption \(string\), n \(int64\)"),
    ({"fine": (feature("ClassLabel", names=["x"]), [0] * 3), "coarse": (feature("ClassLabel", names=["x"]), [0] * 3)},
     "the label could be fine or coarse"),
    ({"label": (value("int64"), [0] * 3), "kind": (feature("ClassLabel", names=["x"]), [0] * 3)},
     "the label could be label or kind"),
    ({"more": (type("Image", (ImageFeature,), {})(), [0] * 3)}, "expected one Image column"),
])  # fmt: skip
def test_a_column_that_could_be_something_else_is_refused_with_its_name(columns, message):
    with pytest.raises(InputError, match=message) as caught:
        from_dataset(table(**columns))
    assert "\n" not in str(caught.value)


def test_hugging_face_images_without_labels_have_none():
    source = from_dataset(table())
    assert (source.classes, source.read(1)) == (None, (b"1", -1))


@pytest.mark.parametrize("missing", [None, {"bytes": None, "path": None}])
def test_a_null_image_is_rejected_by_its_name(missing, tmp_path):
    given = table(3, label=(value("int64"), [0, 1, 1]))
    given.columns["image"] = [{"bytes": encoded(grey(9)), "path": None}] * 2 + [missing]
    manifest = convert(given, tmp_path / "a.beton", Options(max_bad=0.5))
    assert manifest.rejected == (("2", "no image: the column is null here"),)
    assert manifest.class_counts == (1, 1)


def test_an_empty_hugging_face_set_and_one_with_a_transform_are_refused():
    with pytest.raises(InputError, match="found none"):
        from_dataset(table(0))
    with pytest.raises(InputError, match="set_transform"):
        from_dataset(table(form="custom"))


def test_the_real_library_agrees_with_its_likeness(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "x.png").write_bytes(encoded(grey(9)))
    images = [str(tmp_path / "x.png")] * 3
    for column, values, labels in (
        (datasets.ClassLabel(names=["x", "y"]), [1, None, 0], [1, -1, 0]),
        (datasets.Value("int64"), [1, 2, 1], [0, 1, 0]),
        (datasets.Value("string"), ["b", "a", None], [1, 0, -1]),
    ):
        features = datasets.Features({"image": datasets.Image(), "label": column})
        given = datasets.Dataset.from_dict({"image": images, "label": values}, features=features)
        source = from_dataset(given.with_format("torch"))
        assert [source.read(i) for i in range(3)] == [((tmp_path / "x.png").read_bytes(), label) for label in labels]
    with pytest.raises(InputError, match="set_transform"):
        from_dataset(given.with_transform(lambda rows: rows))
    with pytest.raises(InputError, match="expected one data set"):
        from_dataset(datasets.DatasetDict(train=given))
    with pytest.raises(InputError, match="items by number"):
        from_dataset(given.to_iterable_dataset())
    with pytest.raises(InputError, match="found none"):
        from_dataset(given.select([]))
