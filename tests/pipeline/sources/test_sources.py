import io
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision
from PIL import Image

from pipeline.errors import InputError
from pipeline.sources.find import find
from pipeline.sources.objects import from_dataset


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
