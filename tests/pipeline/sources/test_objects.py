"""Objects as sources: each image keeps its own label, and what cannot be served is refused in one line."""

import io
import sqlite3
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageDraw
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, ToTensor

from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.labels.splits import known_labels
from pipeline.sources.objects import Dataset, from_dataset
from pipeline.sources.source import WrongItem
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import read_names

CLASSES = tuple(f"class{i:02d}" for i in range(20))
SIDE = 16


def grey(shade: int) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (shade, shade, shade))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def assert_each_image_has_its_label(dataset, tmp_path, n: int, workers: int = 8) -> None:
    """Item i is an image of grey i % 20 * 12, labelled i % 20."""
    convert(dataset, tmp_path / "a.beton", Options(side=None, workers=workers))
    beton = open_beton(tmp_path / "a.beton")
    assert beton.n == n
    labels = [int(label) for label in known_labels(beton, None)]
    shades = [int(np.asarray(Image.open(io.BytesIO(beton.jpeg(i)))).mean().round()) for i in range(n)]
    assert [round(shade / 12) for shade in shades] == labels
    assert [int(name) % 20 for name in read_names(beton)] == labels


class OneFile(TorchDataset):
    """Fixed-size records behind one file handle, as many data sets keep them."""

    classes = CLASSES
    n = 600

    def __init__(self, path) -> None:
        records = [encoded(grey(12 * (i % 20)), "BMP") for i in range(self.n)]
        self.size = len(records[0])
        path.write_bytes(b"".join(records))
        self.file = path.open("rb")

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int):
        self.file.seek(i * self.size)
        return self.image(), i % 20

    def image(self):
        return self.file.read(self.size)


class Lazy(OneFile):
    """Gives an image that is decoded when somebody looks at it, from a handle that has moved on by then."""

    def image(self):
        start = self.file.tell()

        class Window(io.RawIOBase):
            at = 0

            def readable(_):
                return True

            def seekable(_):
                return True

            def seek(window, offset, whence=0):
                window.at = offset + (0, window.at, self.size)[whence]
                return window.at

            def tell(window):
                return window.at

            def readinto(window, target):
                self.file.seek(start + window.at)
                n = self.file.readinto(memoryview(target)[: max(0, self.size - window.at)])
                window.at += n
                return n

        return Image.open(Window())


@pytest.mark.parametrize("kind", [OneFile, Lazy])
def test_a_data_set_with_one_file_handle_keeps_its_labels(kind, tmp_path):
    dataset = kind(tmp_path / "records")
    with dataset.file:
        assert_each_image_has_its_label(dataset, tmp_path, 600)


class Reused:
    """Writes each item over the one before."""

    classes = CLASSES

    def __init__(self, kind: str) -> None:
        self.array, self.kind = np.zeros((SIDE, SIDE, 3), np.uint8), kind
        self.canvas = Image.new("RGB", (SIDE, SIDE))

    def __len__(self) -> int:
        return 300

    def __getitem__(self, i: int):
        self.array[:] = 12 * (i % 20)
        ImageDraw.Draw(self.canvas).rectangle((0, 0, SIDE, SIDE), fill=(12 * (i % 20),) * 3)
        return (self.array if self.kind == "array" else self.canvas), i % 20


@pytest.mark.parametrize("kind", ["array", "canvas"])
def test_a_data_set_that_uses_its_memory_again_keeps_its_labels(kind, tmp_path):
    assert_each_image_has_its_label(Reused(kind), tmp_path, 300)


def test_a_data_set_that_belongs_to_a_thread_is_asked_by_that_one(tmp_path):
    class Table:
        classes = CLASSES

        def __init__(self) -> None:
            self.rows = sqlite3.connect(":memory:")  # raises in any other thread
            self.rows.execute("create table images (id integer, image blob)")
            self.rows.executemany(
                "insert into images values (?, ?)", [(i, encoded(grey(12 * (i % 20)))) for i in range(40)]
            )

        def __len__(self) -> int:
            return 40

        def __getitem__(self, i: int):
            assert threading.current_thread() is threading.main_thread()
            return self.rows.execute("select image from images where id = ?", (i,)).fetchone()[0], i % 20

    assert_each_image_has_its_label(Table(), tmp_path, 40)


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        path = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(grey(40 * i)))
    return tmp_path / "photos"


class Swapped(ImageFolder):
    def __getitem__(self, i: int):
        image, label = super().__getitem__(i)
        return image, 1 - label


def made(folder):
    """ImageFolders that give something else than their files and the labels of these."""
    return {
        "target_transform": ImageFolder(folder, target_transform=lambda label: 1 - label),
        "__getitem__": Swapped(folder),
        "loader": ImageFolder(folder, loader=lambda path: grey(7)),
        "transform": ImageFolder(folder, transform=CenterCrop(8)),
    }


@pytest.mark.parametrize("what", ["target_transform", "__getitem__", "loader", "transform"])
def test_what_an_image_folder_is_given_is_not_passed_over(folder, what):
    dataset = made(folder)[what]
    source = from_dataset(dataset)
    assert not source.concurrent
    for i in range(6):
        image, label = source.read(i)
        assert (np.asarray(image) == np.asarray(dataset[i][0])).all()
        assert label == dataset[i][1]
    if what == "target_transform":
        assert any("target_transform" in note for note in source.notes)


def test_the_files_of_a_plain_image_folder_are_taken_as_they_are(folder):
    dataset = ImageFolder(folder)
    for view, ids in (
        (dataset, range(6)),
        (Subset(dataset, [5, 0, 3]), [5, 0, 3]),
        (Subset(Subset(dataset, torch.tensor([4, 2, 1])), [2, 0]), [1, 4]),
        (ConcatDataset([Subset(dataset, [3]), dataset]), [3, *range(6)]),
    ):
        source = from_dataset(view)
        assert source.concurrent
        assert source.classes == ("cat", "dog")
        assert len(source) == len(ids)
        for i, original in enumerate(ids):
            path, label = dataset.samples[original]
            assert source.read(i) == (Path(path).read_bytes(), label)
            assert source.name(i) == str(path).removeprefix(f"{folder}/")


def test_subsets_of_changed_folders_are_not_read_from_their_files(folder):
    source = from_dataset(Subset(made(folder)["__getitem__"], [1, 2]))
    assert [source.read(i)[1] for i in range(2)] == [1 - ImageFolder(folder)[i][1] for i in (1, 2)]


def test_parts_of_other_classes_are_refused(folder):
    other = ImageFolder(folder)
    other.classes = ["dog", "cat"]
    other.class_to_idx = None
    with pytest.raises(InputError, match="same classes in the same order"):
        from_dataset(ConcatDataset([ImageFolder(folder), other]))


class Plain:
    def __init__(self, *items, classes=("a", "b")) -> None:
        self.items, self.classes = items, classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int):
        return self.items[i]


@pytest.mark.parametrize(("label", "expected"), [
    (1, 1), (np.int32(1), 1), (np.array(1), 1), (torch.tensor(1), 1), (np.uint8(1), 1), (True, 1), (np.bool_(False), 0),
    (1.0, 1), (np.float32(0), 0), (torch.tensor(1.0), 1), ("b", 1), (np.str_("a"), 0), (None, -1), (-1, -1),
])  # fmt: skip
def test_labels_of_every_kind_that_say_one_class_are_taken(label, expected):
    assert from_dataset(Plain((grey(1), label))).read(0)[1] == expected


@pytest.mark.parametrize("label", [
    2, -2, 1.5, float("nan"), float("inf"), "c", "1", b"b", [1], (1,), np.array([1]), torch.tensor([0, 1]), {"a": 1},
    1j, object(), np.float32("nan"), 10**30,
])  # fmt: skip
def test_any_other_label_ends_the_work_in_one_line_that_names_the_item(label, tmp_path):
    with pytest.raises(WrongItem, match="item 0: expected a label from 0 to 1") as caught:
        from_dataset(Plain((grey(1), label))).read(0)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="item 1: expected a label from 0 to 1"):
        convert(Plain((grey(1), 0), (grey(1), label)), tmp_path / "a.beton", Options(max_bad=1))
    assert not (tmp_path / "a.beton").exists()


def test_a_bool_is_no_class_of_three():
    with pytest.raises(WrongItem, match="got True"):
        from_dataset(Plain((grey(1), True), classes=("a", "b", "c"))).read(0)


def test_a_label_without_class_names_is_not_dropped():
    with pytest.raises(WrongItem, match=r"\.classes"):
        Dataset(1, lambda i: (grey(1), 3), None).read(0)
    assert Dataset(1, lambda i: (grey(1), None), None).read(0)[1] == -1


@pytest.mark.parametrize("item", [
    grey(1), {"image": grey(1), "label": 0}, (grey(1), 0, "more"), (grey(1),), None, (torch.zeros(3, 8, 8), 0),
    (torch.zeros(8, 8, 3, dtype=torch.uint8), 0), ("photo.jpg", 0), ([[1]], 0),
])  # fmt: skip
def test_an_item_that_is_no_image_with_a_label_ends_the_work(item):
    with pytest.raises(WrongItem, match="item 0: expected") as caught:
        from_dataset(Plain(item)).read(0)
    assert "\n" not in str(caught.value)


def test_an_image_that_is_missing_is_rejected_by_its_name(tmp_path):
    manifest = convert(Plain((grey(1), 0), (None, 1), (grey(2), 1)), tmp_path / "a.beton", Options(max_bad=0.5))
    assert manifest.rejected == (("1", "no image"),)


class Stream(IterableDataset):
    classes = ("a",)

    def __iter__(self):
        return iter(())

    def __len__(self) -> int:
        return 3


def unsized():
    yield grey(1), 0


def test_what_has_no_items_by_number_is_refused_in_a_line(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / "cat/0.png")
    with tarfile.open(tmp_path / "a.tar") as tar:
        for given in (tar, Stream(), unsized(), iter([]), DataLoader(ImageFolder(folder)), object(), {grey}):
            with pytest.raises(InputError, match="expected a data set with a length and items by number") as caught:
                from_dataset(given)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("given", "message"), [
    ({"train": 1, "test": 2}, "expected one data set"),
    (Plain(), "expected images, found none"),
    (Plain((1, 2), classes=None), r"has no \.classes"),
    ([(grey(1), 0)], r"has no \.classes"),
    (TensorDataset(torch.zeros(2, 3, 8, 8)), r"has no \.classes"),
    (np.zeros((2, 8, 8, 3), np.uint8), r"has no \.classes"),
    (Plain((1, 2), classes=10), "expected a list of names in label order"),
    (Plain((1, 2), classes="ab"), "expected a list of names in label order"),
    (Plain((1, 2), classes={"b": 1, "a": 0}), "expected a list of names in label order"),
    (Plain((1, 2), classes=()), "expected a list of names in label order"),
    (Plain((1, 2), classes=("a", "a")), "twice"),
])  # fmt: skip
def test_an_object_that_does_not_say_what_it_holds_is_refused(given, message):
    with pytest.raises(InputError, match=message) as caught:
        from_dataset(given)
    assert "\n" not in str(caught.value)


def test_class_names_come_in_every_list():
    for classes in (["a", "b"], np.array(["a", "b"])):
        assert from_dataset(Plain((grey(1), 0), classes=classes)).classes == ("a", "b")
    assert from_dataset(Plain((grey(1), 0), classes=[("tench", "Tinca"), ("crane",)])).classes == (
        "tench, Tinca",
        "crane",
    )


def test_names_in_another_order_than_labels_are_refused():
    dataset = Plain((grey(1), 0))
    dataset.class_to_idx = {"a": 1, "b": 0}
    with pytest.raises(InputError, match="class_to_idx gives 'a' label 1"):
        from_dataset(dataset)


def test_a_transform_to_tensors_is_refused(folder):
    with pytest.raises(WrongItem, match="transform to tensors"):
        from_dataset(ImageFolder(folder, transform=ToTensor())).read(0)


def test_torchvision_data_sets_in_memory_keep_their_images_and_labels():
    fake = torchvision.datasets.FakeData(5, (3, 8, 8), num_classes=2)
    fake.classes = ["a", "b"]
    source = from_dataset(fake)
    for i in range(5):
        image, label = source.read(i)
        assert (np.asarray(image) == np.asarray(fake[i][0])).all()
        assert label == int(fake[i][1])


def test_torch_is_not_needed_to_read_an_object(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.data", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets.folder", None)
    assert from_dataset(Plain((grey(1), 1))).read(0)[1] == 1
