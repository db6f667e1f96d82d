"""Sets of images and masks: what is wrong is said by name before training; views are functions of seed and image."""

import os
import re
import struct
import unicodedata
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from pipeline import rng
from pipeline.batch import IGNORED, Batch, Dense
from pipeline.dense.cut import PADDING, cut, evaluation_view, jittered, padded, resized_sides
from pipeline.dense.dataset import DenseLoader, PixelDataset
from pipeline.dense.pixels import open_pixels
from pipeline.dense.train_data import open_dense_train_data
from pipeline.errors import InputError
from pipeline.sampling.sampler import Sampler
from pipeline.spec import Data, Needs, PixelLabels

NAMES = ("sky", "road", "car")
LABELS = PixelLabels(names=NAMES, short_side=24, long_side=64)


def write_set(root, name="train", n=4, *, images="images", masks="masks", low=0, high=3, size=(40, 30)):
    """So many images of random colours, and their masks with classes from `low` to `high` - 1."""
    rng = np.random.default_rng(n + len(name))
    for folder in (images, masks):
        (root / folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(n):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(root / images / name / f"{number}.jpg")
        Image.fromarray(rng.integers(low, high, size[::-1], np.uint8)).save(root / masks / name / f"{number}.png")
    return root


@pytest.fixture
def root(tmp_path):
    return write_set(tmp_path)


def opened(root, labels=LABELS, name="train"):
    return open_pixels(Data(root=str(root), threads=1), labels, name)


def test_a_set_is_read_as_pillow_reads_it(root):
    found = opened(root)
    assert (found.n, found.names, found.classes) == (4, ("0", "1", "2", "3"), NAMES)
    image, classes = found.read(2)
    mask = np.array(Image.open(root / "masks/train/2.png"))
    assert np.array_equal(classes.numpy(), mask)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.array(Image.open(root / "images/train/2.jpg")))
    every = np.concatenate([np.array(Image.open(path)).ravel() for path in (root / "masks/train").glob("*.png")])
    assert found.counts.tolist() == np.bincount(every, minlength=3).tolist()
    assert found.notes() == []


def test_ade20ks_folders_table_of_classes_and_zero_are_read(tmp_path):
    write_set(tmp_path, "training", masks="annotations", high=4)
    rows = "Idx\tRatio\tName", "1\t0.1\twall", "2\t0.1\tbuilding, edifice", "3\t0.1\tsky"
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows))
    labels = PixelLabels(masks="annotations/{set}", classes="objectInfo150.txt", zero_ignored=True)
    found = opened(tmp_path, labels, "training")
    assert found.classes == ("wall", "building, edifice", "sky")
    mask = np.array(Image.open(tmp_path / "annotations/training/1.png")).astype(int)
    assert np.array_equal(found.read(1)[1].numpy(), np.where(mask == 0, IGNORED, mask - 1))


def test_a_palette_16_bits_a_list_and_other_endings_are_read(root):
    mask = Image.open(root / "masks/train/0.png")
    turned = mask.copy()
    turned.putpalette([9, 9, 9] * 256)  # all one colour: the numbers are the classes
    turned.save(root / "masks/train/0.png")
    Image.fromarray(np.array(Image.open(root / "masks/train/1.png")).astype(np.uint16)).save(root / "masks/train/1.png")
    Image.open(root / "images/train/2.jpg").save(root / "images/train/2.png")
    (root / "images/train/2.jpg").unlink()
    (root / "train.txt").write_text("2\n0\n")
    found = opened(root, name="train.txt")
    assert found.names == ("0", "2")
    (root / "train.txt").write_text("2.png\n\n0.jpg")
    assert opened(root, name="train.txt").names == ("0", "2")
    assert np.array_equal(found.read(0)[1].numpy(), np.array(mask))
    assert opened(root).n == 4


def test_digests_change_with_any_file_and_with_how_masks_are_read(root):
    before = opened(root).digest
    assert opened(root).digest == before
    assert opened(root, PixelLabels(names=NAMES, ignored=0)).digest != before
    pixels = np.array(Image.open(root / "masks/train/3.png"))
    pixels[0, 0] = (pixels[0, 0] + 1) % 3
    Image.fromarray(pixels).save(root / "masks/train/3.png")
    assert opened(root).digest != before


def damaged(root, what):
    images, masks = root / "images/train", root / "masks/train"
    if what == "no mask":
        (masks / "1.png").unlink()
    elif what == "another size":
        Image.fromarray(np.zeros((30, 39), np.uint8)).save(masks / "2.png")
    elif what == "a class beyond":
        Image.fromarray(np.full((30, 40), 3, np.uint8)).save(masks / "0.png")
    elif what == "colours":
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(masks / "0.png")
    elif what == "no images":
        for path in images.glob("*"):
            path.unlink()
    elif what == "no folder":
        images.rename(root / "images/other")
    elif what == "no masks":
        masks.rename(root / "masks/other")
    elif what == "all ignored":
        for path in masks.glob("*"):
            Image.fromarray(np.full((30, 40), 255, np.uint8)).save(path)
    elif what == "a torn mask":
        (masks / "0.png").write_bytes((masks / "0.png").read_bytes()[:60])
    elif what == "no image":
        (images / "0.jpg").write_bytes(b"text")
    elif what == "16 bits":
        Image.fromarray(np.zeros((30, 40), np.uint16)).save(images / "4.png")
        Image.fromarray(np.zeros((30, 40), np.uint8)).save(masks / "4.png")
    elif what == "two of a name":
        Image.open(images / "0.jpg").save(images / "0.png")
    elif what == "a mask that is called otherwise":
        (masks / "1.png").rename(masks / "1_mask.png")
    elif what == "a header that ends":
        (images / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(12)) + chunk(b"IEND", b""))
        (masks / "4.png").write_bytes((masks / "0.png").read_bytes())
    elif what == "a FIFO":
        os.mkfifo(images / "4.jpg")
    elif what == "EXIF and an upright mask":
        turned(images / "2.jpg", 6)
        Image.fromarray(np.zeros((40, 30), np.uint8)).save(masks / "2.png")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def turned(path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    image = Image.open(path).copy()
    image.save(path, exif=exif)


def grey(values, bits):
    """A PNG of so many bits a pixel, as its standard has it: no other code of ours or of Pillow's writes it."""
    packed = np.packbits(((values[..., None] >> np.arange(bits)[::-1]) & 1).reshape(len(values), -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed.astype(np.uint8))
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(("bits", "classes"), [(1, 2), (2, 3), (4, 16), (8, 200)])
def test_grey_masks_of_any_depth_hold_their_numbers(root, bits, classes):
    values = np.random.default_rng(bits).integers(0, classes, (30, 40), np.uint8)
    (root / "masks/train/0.png").write_bytes(grey(values, bits))
    found = opened(root, PixelLabels(names=tuple(map(str, range(max(classes, 3))))))
    assert np.array_equal(found.read(0)[1].numpy(), values)


def test_masks_are_found_in_capitals_in_either_form_of_unicode_and_below_links(root):
    for folder, suffix, form in (("images", "jpg", "NFD"), ("masks", "png", "NFC")):
        place = root / folder / "train"
        (place / f"1.{suffix}").rename(place / f"{unicodedata.normalize(form, 'é')}.{suffix}")
        elsewhere = root / "elsewhere" / folder
        elsewhere.mkdir(parents=True)
        (place / f"2.{suffix}").rename(elsewhere / f"2.{suffix}")
        (place / "linked").symlink_to(elsewhere)
        (elsewhere / "back").symlink_to(place)
    (root / "masks/train/0.png").rename(root / "masks/train/0.PNG")
    found = opened(root)
    assert found.names == ("0", "3", unicodedata.normalize("NFD", "é"), "linked/2")
    assert found.notes() == []


def test_how_a_set_was_read_is_said(root):
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    turned(root / "images/train/1.jpg", 3)
    (root / "train.txt").write_text("1\n0\n1\n")
    labels = PixelLabels(images="images/train", masks="masks/train")
    classes, again, exif = opened(root, labels, "train.txt").notes()
    assert classes == f"3 classes, as {root}/classes.txt names them: sky, road, car"
    assert again.endswith("1 line again of an image that the list has; each image is used once")
    assert exif.startswith(f"turned by EXIF in {root}/train.txt: 1 image, ")
    assert exif.endswith(": 1")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no mask", r"images/train/1\.jpg: expected its mask .*masks/train/1\.png, found none"),
        ("another size", r"masks/train/2\.png: expected the size of its image, 40 x 30, got 39 x 30"),
        ("a class beyond", r"masks/train/0\.png: holds class 3, expected 0 to 2, as the list has 3 classes"),
        ("colours", r"masks/train/0\.png: expected a mask of one channel, .*got RGB"),
        ("no images", r"images/train: expected images \(.*\), found none"),
        ("no folder", r"images/train: expected a folder of images, found none"),
        ("no masks", r"masks/train: expected a folder of masks, found none"),
        ("all ignored", r"masks/train: expected pixels with a class, all of 4 masks are ignored"),
        ("a torn mask", r"masks/train/0\.png: expected a mask, got a file that does not decode"),
        ("no image", r"images/train/0\.jpg: expected an image, got a file that does not open"),
        ("16 bits", r"images/train/4\.png: expected an image of 8 bits, got I;16"),
        ("two of a name", r"0\.png: expected one image called 0, found 0\.jpg, too"),
        ("a mask that is called otherwise", r"1\.png, found none \(there is 1_mask\.png: a mask is PNG"),
        ("a header that ends", r"4\.png: expected an image, got a file that does not open \(Truncated IHDR chunk\)"),
        ("a FIFO", r"images/train/4\.jpg: a FIFO, expected a regular file"),
        ("EXIF and an upright mask", r"2\.png: expected the size of its image, 40 x 30, got 30 x 40; .* EXIF turns"),
    ],
)
def test_what_is_wrong_is_said_by_name_in_one_line(root, what, said):
    damaged(root, what)
    with pytest.raises(InputError, match=said) as error:
        opened(root)
    assert "\n" not in str(error.value)


def test_wrong_lists_of_classes_and_of_images_are_refused(root):
    for text, said in (
        ("a\n", "2 to 255 classes, got 1"),
        ("a\nb\na\n", "different names, got a twice"),
        ("# names\na\nb\n", "got # names; take the line out"),
    ):
        (root / "classes.txt").write_text(text)
        with pytest.raises(InputError, match=re.escape(said)):
            opened(root, PixelLabels())
    (root / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"classes\.txt: expected the names of the classes, one a line"):
        opened(root, PixelLabels())
    (root / "some.txt").write_text("0\nnone\n")
    with pytest.raises(InputError, match="lists none, of which"):
        opened(root, PixelLabels(names=NAMES, images="images/train", masks="masks/train"), "some.txt")
    (root / "some.txt").write_text("\n")
    with pytest.raises(InputError, match=r"some\.txt: expected names of images, a line each, found none"):
        opened(root, PixelLabels(names=NAMES, images="images/train", masks="masks/train"), "some.txt")


def test_masks_without_an_image_and_classes_without_a_pixel_are_said(root):
    (root / "images/train/3.jpg").unlink()
    first, second = opened(root, PixelLabels(names=(*NAMES, "bus"))).notes()
    assert first.startswith("1 mask of ")
    assert first.endswith(": 3")
    assert second.endswith("is of class bus")


def test_settings_of_beton_files_are_refused(root):
    for flags, said in (({"split": "5-per-class"}, "data.split is"), ({"sizes": (8, 16)}, "data.sizes grows")):
        with pytest.raises(InputError, match=said):
            open_dense_train_data(Data(root=str(root), train="train", size=16, **flags), Needs(pixel_labels=LABELS))


def test_sides_are_those_of_mmcvs_rescale():
    ade = PixelLabels()
    assert resized_sides(512, 683, ade) == (512, 683)
    assert resized_sides(300, 400, ade) == (512, 683)
    assert resized_sides(400, 300, ade, 0.5) == (341, 256)
    assert resized_sides(100, 1000, ade) == (205, 2048)  # the long side's limit
    image = tv_tensors.Image(torch.zeros(3, 30, 40, dtype=torch.uint8))
    assert evaluation_view(image, LABELS).shape == (3, 24, 32)


def test_a_view_moves_image_and_mask_together_and_is_a_function_of_its_key(root):
    ramp = np.tile(np.arange(40, dtype=np.uint8), (30, 1))  # each pixel's class is its column, and so is its colour
    names = tuple(map(str, range(40)))
    labels = PixelLabels(names=names, short_side=30, long_side=80, scale=(1.0, 1.0), most=1.0, jitter=False)
    image = tv_tensors.Image(torch.from_numpy(np.stack([ramp] * 3)))
    seen = set()
    for passes in range(12):
        key = rng.keys(0, passes, 3, rng.DENSE)
        view, classes = cut(image, tv_tensors.Mask(torch.from_numpy(ramp)), labels, (20, 50), key)
        assert view.shape == (3, 20, 50)
        assert torch.equal(view[0][classes != IGNORED], classes[classes != IGNORED])
        assert (classes[:, 40:] == IGNORED).all()
        assert view[:, 0, 45].tolist() == list(PADDING)
        seen.add(int(classes[0, 0]))
        again, _ = cut(image, tv_tensors.Mask(torch.from_numpy(ramp)), labels, (20, 50), key)
        assert torch.equal(view, again)
    assert seen == {0, 39}  # mirrored, and not


def test_crops_of_one_class_are_drawn_again():
    classes = torch.zeros(8, 80, dtype=torch.uint8)
    classes[:, 70:] = 1  # few crops of 8 x 8 hold both
    image = tv_tensors.Image(torch.zeros(3, 8, 80, dtype=torch.uint8))
    both = {}
    for most in (0.75, 1.0):
        labels = PixelLabels(names=("a", "b"), short_side=8, long_side=80, scale=(1.0, 1.0), most=most, jitter=False)
        views = [cut(image, tv_tensors.Mask(classes), labels, 8, rng.keys(0, p, 0, rng.DENSE))[1] for p in range(40)]
        both[most] = sum(len(view.unique()) > 1 for view in views)
    assert both[0.75] > 2 * both[1.0]


def test_colours_change_and_stay_levels():
    image = torch.randint(256, (3, 9, 9), dtype=torch.uint8)
    off = np.full(9, 0.9)
    assert torch.equal(jittered(image, off), image)
    brighter = off.copy()
    brighter[:2] = 0.1, 1.0
    assert torch.equal(jittered(image, brighter), (image.int() + 32).clamp(0, 255).to(torch.uint8))
    contrast = off.copy()
    contrast[2:4] = 0.1, 0.0
    assert torch.equal(jittered(image, contrast), (image.float() * 0.5).to(torch.uint8))
    every = np.array([0.1, 0.3, 0.1, 0.8, 0.1, 0.2, 0.1, 0.9, 0.2])
    assert jittered(image, every).dtype == torch.uint8
    assert not torch.equal(jittered(image, every), jittered(image, np.append(every[:8], 0.7)))
    assert padded(image, (4, 4), PADDING).shape == image.shape


def test_batches_are_those_of_the_dataset_at_any_start_and_number_of_ranks(root):
    dataset = PixelDataset(opened(root), (16, 20), seed=5)
    sampler = Sampler(5, range(4), None, 4, 0)
    assert len(dataset) == 4

    def batch(step, **place):
        with DenseLoader(dataset, sampler, torch.device("cpu"), step, threads=1, **place) as batches:
            return next(batches)

    whole = batch(3)
    samples, _ = sampler.at(3)
    images, classes = zip(
        *(dataset[sample] for sample in zip(*map(np.ndarray.tolist, samples), strict=True)), strict=True
    )
    assert torch.equal(whole.dense.images, torch.stack(images))
    assert torch.equal(whole.dense.classes, torch.stack(classes))
    assert whole.dense.ids.tolist() == samples.ids.tolist()
    assert whole.parts.keys() == {"dense"}
    parts = [batch(3, chunks=2, first_chunk=rank) for rank in range(2)]
    assert torch.equal(torch.cat([part.dense.images for part in parts]), whole.dense.images)
    with DenseLoader(dataset, sampler, torch.device("cpu"), threads=2, micro=2, chunks=2) as batches:
        early = [next(batches) for _ in range(8)]
    assert torch.equal(torch.cat([each.dense.classes for each in early[6:]]), whole.dense.classes)


def test_an_image_that_is_gone_while_training_is_named_and_wrong_batches_are_refused(root):
    dataset = PixelDataset(opened(root), 16, seed=0)
    (root / "images/train/2.jpg").unlink()
    with (
        DenseLoader(dataset, Sampler(0, range(4), None, 4, 0), torch.device("cpu"), threads=1) as batches,
        pytest.raises(InputError, match=r"2\.jpg: expected an image"),
    ):
        next(batches)
    ids, images = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"batch\.dense\.classes: expected torch\.uint8 \[2, 4, 4\]"):
        Batch(0, None, None, Dense(ids, images, torch.zeros(2, 4, 5, dtype=torch.uint8))).check()
