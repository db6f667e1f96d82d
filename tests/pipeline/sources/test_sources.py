import io
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision
from PIL import Image

from pipeline.errors import InputError
from pipeline.sources.find import find
from pipeline.sources.objects import from_dataset
from pipeline.sources.tables import from_csv


def jpeg(shade: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(out, "JPEG")
    return out.getvalue()


def lay(root, *names: str) -> None:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))


def content(source) -> dict[str, int]:
    return {source.name(i): source.read(i)[1] for i in range(len(source))}


def test_class_folders_agree_with_torchvision(tmp_path):
    lay(tmp_path, "dog/2.jpg", "dog/deep/1.JPEG", "Cat/a.png", "ant/x.jpg")
    oracle, source = torchvision.datasets.ImageFolder(tmp_path), find(tmp_path)
    assert source.classes == tuple(oracle.classes)
    assert sorted((str(source.root / name), label) for name, label in content(source).items()) == sorted(oracle.samples)
    assert source.read(0)[0] == (tmp_path / source.name(0)).read_bytes()


def test_a_flat_folder_has_no_labels(tmp_path):
    lay(tmp_path, "b.jpg", "a.png")
    assert find(tmp_path).classes is None
    assert content(find(tmp_path)) == {"a.png": -1, "b.jpg": -1}


def test_unlabelled_images_follow_the_labelled(tmp_path):
    lay(tmp_path, "l/dog/1.jpg", "l/cat/1.jpg", "u/1.jpg", "u/deep/2.jpg", "u/x.txt")
    source = find(tmp_path / "l", tmp_path / "u")
    assert content(source) == {"cat/1.jpg": 0, "dog/1.jpg": 1, "unlabelled/1.jpg": -1, "unlabelled/deep/2.jpg": -1}
    assert [name for name, _ in source.rejected] == ["x.txt"]


@pytest.mark.parametrize(("names", "message"), [
    (["1.jpg", "dog/1.jpg"], "beside class folders"), (["train/dog/1.jpg", "val/dog/1.jpg"], "not classes"),
    (["dog/1.jpg", "cat/1.txt"], "found none"), (["x.txt"], "found none"),
])  # fmt: skip
def test_a_folder_that_means_nothing_or_two_things_is_refused(tmp_path, names, message):
    lay(tmp_path, *names)
    with pytest.raises(InputError, match=message):
        find(tmp_path)


def test_missing_and_empty_folders_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="found no"):
            find(path)
    lay(tmp_path, "l/a/1.jpg")
    with pytest.raises(InputError, match="found none"):
        find(tmp_path / "l", tmp_path / "absent")
    with pytest.raises(InputError, match="together with a folder"):
        find([], tmp_path / "l")


@pytest.mark.parametrize(("text", "classes", "labels"), [
    ("path,label\na.jpg,dog\nb.jpg,cat\nc.jpg,\n", ("cat", "dog"), [1, 0, -1]),
    ("a.jpg,2\nb.jpg,0,more\nc.jpg,-1", ("0", "1", "2"), [2, 0, -1]),
    ("a.jpg\nb.jpg\n\nc.jpg\n", None, [-1, -1, -1]),
    ("\ufeffFilename , label\n a.jpg , dog \nb.jpg,7\nc.jpg", ("7", "dog"), [1, 0, -1]),
])  # fmt: skip
def test_csv_rows_become_labels(tmp_path, text, classes, labels):
    lay(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    source = find(tmp_path / "list.csv")
    assert source.classes == classes
    assert content(source) == dict(zip(["a.jpg", "b.jpg", "c.jpg"], labels, strict=True))


@pytest.mark.parametrize(("text", "message"), [
    (b"a.jpg,1\na.jpg,2", "twice"), (b"a.jpg,99999999", "class numbers"), (b"path,label\n", "found none"),
    (b"a.jpg,-5\nb.jpg,2", "class numbers from 0, got -5"),
    (b"\xff\xd8\xff\xe0", "UTF-8"),
])  # fmt: skip
def test_wrong_csvs_are_refused(tmp_path, text, message):
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(InputError, match=message):
        from_csv(tmp_path / "list.csv")


def test_torchvision_data_sets_give_images_and_files_give_bytes(tmp_path):
    fake = torchvision.datasets.FakeData(5, (3, 8, 8), num_classes=3)
    with pytest.raises(InputError, match="has no"):
        from_dataset(fake)
    fake.classes = ["a", "b", "c"]
    source = from_dataset(fake)
    assert [source.read(i)[1] for i in range(5)] == [int(fake[i][1]) for i in range(5)]
    assert source.read(2)[0].tobytes() == fake[2][0].tobytes()
    lay(tmp_path, "dog/1.jpg", "cat/2.jpg")
    source = from_dataset(torchvision.datasets.ImageFolder(tmp_path))
    assert source.read(1) == ((tmp_path / "dog/1.jpg").read_bytes(), 1)
    assert source.classes == ("cat", "dog")


def test_a_data_set_with_a_transform_to_tensors_is_refused():
    fake = torchvision.datasets.FakeData(2, (3, 8, 8), transform=torchvision.transforms.ToTensor())
    fake.classes = ["a"]
    with pytest.raises(InputError, match="transform"):
        from_dataset(fake).read(0)


class Image_:  # Hugging Face's feature is recognised by its class name
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class HuggingFace:
    def __init__(self, rows: list[dict], **features) -> None:
        self.rows, self.features = rows, features

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict:
        return self.rows[i]

    def with_format(self, kind: None) -> "HuggingFace":
        return self

    def cast_column(self, name: str, feature) -> "HuggingFace":
        assert not feature.decode
        return self


def test_hugging_face_data_sets_give_bytes(tmp_path):
    feature = type("Image", (Image_,), {})
    label = type("ClassLabel", (SimpleNamespace,), {})
    (tmp_path / "x.jpg").write_bytes(jpeg(9))
    rows = [
        {"img": {"bytes": b"1", "path": None}, "y": 1},
        {"img": {"bytes": None, "path": tmp_path / "x.jpg"}, "y": None},
    ]
    source = from_dataset(HuggingFace(rows, img=feature(), y=label(names=["no", "yes"])))
    assert source.classes == ("no", "yes")
    assert [source.read(i) for i in range(2)] == [(b"1", 1), (jpeg(9), -1)]
    assert from_dataset(HuggingFace(rows, img=feature())).read(0) == (b"1", -1)
    with pytest.raises(InputError, match="expected one Image"):
        from_dataset(HuggingFace(rows, img=feature(), more=feature()))


def test_what_is_no_data_set_is_refused():
    with pytest.raises(InputError, match="data set"):
        from_dataset(iter([]))
    assert len(find(from_dataset(SimpleNamespaceSet()))) == 1


class SimpleNamespaceSet:
    classes = ("a",)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int):
        return np.zeros((8, 8, 3), np.uint8), 0
