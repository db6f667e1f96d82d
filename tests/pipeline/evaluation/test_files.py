"""Image files as they come: shown as the converter and the loader would show them, and the broken ones named."""

import io
import os
import struct
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.backends import staging_buffers
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.evaluation import files
from pipeline.evaluation.files import find_images, sweep_files
from pipeline.evaluation.sweep import sweep
from pipeline.open import open_data
from pipeline.sources.encode import Decoding
from pipeline.spec import Data, View
from pipeline.store.beton import open_beton
from pipeline.store.jpeg_header import plain_size
from pipeline.store.sample_names import read_names

CPU = torch.device("cpu")
DATA = Data(size=32, threads=2, evaluate=View(crop="centre", short_side=1.25, flip=False))


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **{"quality": 95} | options)
    return out.getvalue()


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees to the right"
    return jpeg(image.transpose(Image.Transpose.ROTATE_90), exif=exif)


def shown(
    paths: list[Path], batch: int = 4, data: Data = DATA, device: torch.device = CPU
) -> tuple[list[str], torch.Tensor, dict[str, str]]:
    parts = list(sweep_files(paths, data, device, batch))
    names = [path.name for part in parts for path in part.paths]
    rejected = {path.name: why for part in parts for path, why in part.rejected}
    return names, torch.cat([part.images for part in parts]), rejected


def refuse(*_, **__):
    raise AssertionError("views are made elsewhere")


@pytest.mark.parametrize(("views_on", "size"), [("cpu", 32), ("device", 32), ("cpu", (32, 20)), ("device", (16, 40))])
def test_files_are_shown_as_the_loader_shows_them_from_a_converted_folder(views_on, size, tmp_path, monkeypatch):
    """Sizes grow, so that memory for the largest image has to follow while smaller ones are still decoded."""
    monkeypatch.setattr(files, "ROOM", 2000)
    folder = tmp_path / "all" / "things"
    folder.mkdir(parents=True)
    for i in range(11):
        (folder / f"{i:02d}.jpg").write_bytes(jpeg(picture(20 + 17 * i, 120 - 9 * i, i)))
    convert(tmp_path / "all", tmp_path / "train.beton", Options(side=None))
    data = replace(DATA, root=str(tmp_path), views_on=views_on, size=size)
    beton = open_data(data, "train.beton")
    expected = torch.cat(list(sweep(data, beton, CPU, np.arange(11), 11)))
    monkeypatch.setattr(files.cpu_views if views_on == "device" else files.staged_decode, "start_views", refuse)
    names, images, rejected = shown(find_images([folder]), data=data)
    assert names == [f"{i:02d}.jpg" for i in range(11)]
    assert not rejected
    order = [(image == expected.unbind()[i]).all().item() for image in images for i in range(11)]
    assert np.array(order).reshape(11, 11).sum(1).tolist() == [1] * 11  # the converter shuffles


@pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)], ids=str)
def test_views_made_on_the_device_are_those_of_the_cpu_to_a_grey_level(device, tmp_path):
    """Other sums, the same filter; what is no image goes out of the middle of its batch."""
    for i in range(9):
        blob = jpeg(picture(50 + 31 * i, 300 - 20 * i, i))
        (tmp_path / f"{i}.jpg").write_bytes(blob[: len(blob) // 2] + b"\xff\xd9" if i in (2, 6) else blob)
    paths = find_images([tmp_path])
    names, images, rejected = shown(paths, data=replace(DATA, views_on="device"), device=device)
    assert images.device.type == device.type
    assert names == [f"{i}.jpg" for i in range(9) if i not in (2, 6)]
    assert rejected.keys() == {"2.jpg", "6.jpg"}
    by_cpu = shown(paths, data=replace(DATA, views_on="cpu"))[1]
    assert (images.cpu().int() - by_cpu.int()).abs().max() <= 1


def test_turned_grey_transparent_and_other_kinds_are_upright_rgb(tmp_path):
    image = picture(60, 80)
    (tmp_path / "a.jpg").write_bytes(jpeg(image))
    (tmp_path / "b.jpg").write_bytes(turned(image))
    image.save(tmp_path / "c.png")
    image.convert("L").save(tmp_path / "d.jpg", quality=95)
    image.convert("RGBA").save(tmp_path / "e.webp", lossless=True)
    image.convert("CMYK").save(tmp_path / "f.jpg", quality=95)
    names, images, _ = shown(find_images([tmp_path]))
    assert names == ["a.jpg", "b.jpg", "c.png", "d.jpg", "e.webp", "f.jpg"]
    plain = images[0].float()
    for other in (1, 2, 4, 5):
        assert (images[other].float() - plain).abs().mean() < 4, names[other]  # halved chroma; a wrong turn is 60 away
    luma = (plain * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    assert (images[3].float() - luma).abs().mean() < 2
    assert (images[3] == images[3][:1]).all()


def test_colours_are_those_that_the_markers_say(tmp_path):
    """libjpeg goes by JFIF's marker, then Adobe's, then the components' names, in Pillow as here."""
    image = picture(60, 80)
    (tmp_path / "a.jpg").write_bytes(jpeg(image))
    (tmp_path / "b.jpg").write_bytes(jpeg(image, keep_rgb=True))
    (tmp_path / "c.jpg").write_bytes(without(jpeg(image), 0xE0))
    (tmp_path / "d.jpg").write_bytes(without(jpeg(image, keep_rgb=True), 0xEE))
    assert [plain_size(np.frombuffer(path.read_bytes(), np.uint8)) for path in find_images([tmp_path])] == [
        (60, 80)
    ] * 4
    _, images, _ = shown(find_images([tmp_path]))
    assert (images[2] == images[0]).all()
    for other in (1, 3):
        assert (images[other].float() - images[0].float()).abs().mean() < 4


def test_a_header_that_promises_too_many_pixels_is_refused_before_memory_is_taken(tmp_path):
    blob = bytearray(jpeg(picture(60, 80)))
    at = blob.index(b"\xff\xc0") + 5
    blob[at : at + 4] = (30_000).to_bytes(2) * 2
    (tmp_path / "a.jpg").write_bytes(blob)
    (tmp_path / "b.jpg").write_bytes(jpeg(picture(60, 80)))
    names, _, rejected = shown(find_images([tmp_path]))
    assert names == ["b.jpg"]
    assert "pixels" in rejected["a.jpg"]


def test_what_is_no_image_is_named_with_its_reason_and_the_rest_keep_their_order(tmp_path):
    good = jpeg(picture(60, 80))
    files = {"a.jpg": good, "b.jpg": good[:200], "c.jpg": b"", "d.png": b"text", "e.jpg": good,
             "f.jpg": good[: len(good) // 2] + b"\xff\xd9", "g.jpg": good}  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    names, images, rejected = shown(find_images([tmp_path]), batch=3)
    assert names == ["a.jpg", "e.jpg", "g.jpg"]
    assert len(images) == 3
    assert set(rejected) == {"b.jpg", "c.jpg", "d.png", "f.jpg"}
    assert rejected["c.jpg"] == "empty file"


def test_a_whole_batch_without_an_image_is_no_hindrance(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"no")
    (tmp_path / "3.jpg").write_bytes(jpeg(picture(40, 40)))
    names, images, rejected = shown(find_images([tmp_path]), batch=3)
    assert (names, len(images), len(rejected)) == (["3.jpg"], 1, 3)


def test_only_what_the_decoder_takes_as_it_is_has_a_plain_size():
    def of(blob: bytes) -> tuple[int, int] | None:
        return plain_size(np.frombuffer(blob, np.uint8))

    image = picture(60, 80)
    assert of(jpeg(image)) == of(jpeg(image, progressive=True)) == of(jpeg(image.convert("L"))) == (60, 80)
    assert of(turned(image)) is None
    assert of(jpeg(image.convert("CMYK"))) is None
    assert of(jpeg(image)[:100]) is None
    assert of(b"") is None


def exif(orientation: int, order: str, kind: int = 3, count: int = 1) -> bytes:
    """A camera's EXIF segment: its name behind the directory, then the orientation, then a resolution."""
    entries = [struct.pack(order + "HHII", 0x010F, 2, 8, 50)]
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *([orientation, 0] if kind == 3 else [orientation]))
    entries.append(struct.pack(order + "HHI", 0x0112, kind, count) + value)
    entries.append(struct.pack(order + "HHII", 0x0128, 3, 1, 2))
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries)) + b"".join(entries)
    return b"Exif\0\0" + tiff + bytes(4) + b"camera\0\0"


def xmp(orientation: int) -> bytes:
    marker = b":".join([b"http", b"//ns.adobe.com/xap/1.0/"])  # a name, not a place
    return marker + b'\0<x:xmpmeta tiff:Orientation="%d"/>' % orientation


def with_app1(blob: bytes, *payloads: bytes) -> bytes:
    return blob[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(p) + 2) + p for p in payloads) + blob[2:]


def without(blob: bytes, marker: int) -> bytes:
    at = blob.index(bytes([0xFF, marker]))
    return blob[:at] + blob[at + 2 + int.from_bytes(blob[at + 2 : at + 4]) :]


def upright_in_pillow(blob: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(blob)).getexif().get(0x0112, 1) not in range(2, 9)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_what_exif_or_xmp_turns_is_left_to_pillow_and_the_upright_is_not(order, orientation):
    plain = jpeg(picture(16, 24))
    for payloads in ([exif(orientation, order)], [xmp(orientation)], [exif(1, order), xmp(orientation)]):
        blob = with_app1(plain, *payloads)
        taken = plain_size(np.frombuffer(blob, np.uint8)) is not None
        assert upright_in_pillow(blob) or not taken
        if payloads[0].startswith(b"Exif"):  # orientations in XMP alone are rare enough to be left to Pillow
            assert taken == upright_in_pillow(blob)


def test_exif_of_unusual_form_is_left_to_pillow():
    plain = jpeg(picture(16, 24))
    for payloads in (
        [exif(6, "<", kind=4)], [exif(6, "<", count=2)], [exif(1, "<")[:30]], [exif(1, "<")[:12]],
        [b"Exif\0\0II*\0" + b"\xff" * 4], [exif(1, "<"), exif(6, "<")], [b"Exif\0\0"],
    ):  # fmt: skip
        assert plain_size(np.frombuffer(with_app1(plain, *payloads), np.uint8)) is None


def test_whatever_bytes_of_exif_are_broken_a_turned_image_is_never_taken_for_an_upright_one():
    plain, random, taken = jpeg(picture(8, 8)), np.random.default_rng(0), 0
    for _ in range(400):
        broken = bytearray(exif(6, "<>"[random.integers(2)]))
        for at in random.integers(0, len(broken), random.integers(1, 4)):
            broken[at] = random.choice([0, 1, 2, 3, 6, 255, random.integers(256)])
        blob = with_app1(plain, bytes(broken))
        if plain_size(np.frombuffer(blob, np.uint8)) is None:
            continue
        taken += 1
        try:
            assert upright_in_pillow(blob)
        except (SyntaxError, struct.error):  # then nothing says that it is turned
            continue
    assert taken > 10


def test_files_are_shown_and_rejected_as_convert_stores_and_rejects_them(tmp_path):
    """Names of every kind, orders of pixels of every kind, and JPEGs that libjpeg merely warns of."""
    good = jpeg(picture(60, 80))
    blobs = {
        "a.jpg": good, "b": good, "c.jpg_large": good, "d.HEIC": good, "e.avif": stored(picture(60, 80), "AVIF"),
        "f.jpg": warned(good), "g.jpg": turned(picture(60, 80)), "h.jpg": good[:-200], "i.jpg": b"no", "j.jpg": b"",
        "k.tif": stored(picture(60, 80), "TIFF"), "l.jpg": cut(good), "m.JPG": warned(jpeg(picture(31, 33))),
    }  # fmt: skip
    (tmp_path / "in/x").mkdir(parents=True)
    for name, blob in blobs.items():
        (tmp_path / "in/x" / name).write_bytes(blob)
    stored_here = convert(tmp_path / "in", tmp_path / "a.beton", Options(side=None, quality=100, max_bad=1))
    beton = open_beton(tmp_path / "a.beton")
    by_convert = {name.removeprefix("x/"): i for i, name in enumerate(read_names(beton))}
    names, images, rejected = shown(find_images([tmp_path / "in"]), batch=5)
    assert names == sorted(by_convert)
    assert {"a.jpg", "b", "c.jpg_large", "d.HEIC", "f.jpg", "m.JPG"} <= set(names)
    assert rejected == {name.removeprefix("x/"): reason for name, reason in stored_here.rejected}
    assert rejected.keys() == {"h.jpg", "i.jpg", "j.jpg", "l.jpg"}
    data = replace(DATA, root=str(tmp_path))
    ids = np.array([by_convert[name] for name in names])
    expected = torch.cat(list(sweep(data, open_data(data, "a.beton"), CPU, ids, 5)))
    assert (images.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("views_on", ["cpu", "device"])
def test_files_that_only_the_converter_can_decode_keep_their_place(views_on, tmp_path):
    """All of a batch, some, or none; the pixels are Pillow's."""
    for i in range(8):
        blob = jpeg(picture(40 + i, 50, i))
        other = padded(blob) if i in (1, 4) else warned(blob)
        (tmp_path / f"{i}.jpg").write_bytes(other if i in (1, 4, 5, 6, 7) else blob)
        (tmp_path / f"plain{i}.jpg").write_bytes(blob)
    names, images, rejected = shown(find_images([tmp_path]), data=replace(DATA, views_on=views_on))
    assert names == [f"{i}.jpg" for i in range(8)] + [f"plain{i}.jpg" for i in range(8)]
    assert not rejected
    assert (images[:8].float() - images[8:].float()).abs().mean() < 2


def test_files_that_are_decoded_again_do_not_wait_for_buffers_that_the_next_batch_holds(tmp_path, monkeypatch):
    """One buffer for about two images, batches of four, and an image to mend in each."""
    monkeypatch.setattr(files, "ROOM", 1)
    monkeypatch.setattr(staging_buffers, "SLOTS", 1)
    monkeypatch.setattr(staging_buffers, "SLOT_PIXELS", 5000)
    for i in range(16):
        blob = jpeg(picture(40, 50, i))
        (tmp_path / f"{i:02d}.jpg").write_bytes(padded(blob) if i % 4 == 1 else blob)
    found: list[list[str]] = []
    data, paths = replace(DATA, views_on="device"), find_images([tmp_path])
    thread = threading.Thread(target=lambda: found.append(shown(paths, data=data)[0]), daemon=True)
    thread.start()
    thread.join(120)
    assert found == [[path.name for path in paths]]


def test_only_regular_files_are_read_and_a_fifo_does_not_hang(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(picture(60, 80)))
    os.mkfifo(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to("/dev/zero")
    (tmp_path / "d.jpg").symlink_to("nowhere")
    (tmp_path / "e.jpg").touch()
    os.truncate(tmp_path / "e.jpg", 1 << 42)  # sparse: it takes no disk
    names, _, rejected = shown([tmp_path / f"{name}.jpg" for name in "abcde"], batch=2)
    assert names == ["a.jpg"]
    assert rejected == {
        "b.jpg": "a FIFO, expected a regular file", "c.jpg": "a device, expected a regular file",
        "d.jpg": "No such file or directory", "e.jpg": "4,398 GB, expected a file of at most 2 GB",
    }  # fmt: skip


def test_a_window_and_a_limit_of_pixels_are_those_of_the_conversion(tmp_path):
    scan = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(scan).save(tmp_path / "a.png")
    paths = find_images([tmp_path])
    (dark,), (bright,) = (
        torch.cat([part.images for part in sweep_files(paths, DATA, CPU, 1, Decoding(window))])
        for window in (None, (0, 4095))
    )
    assert dark.max() < 20
    assert bright.max() > 200
    ((_, reason),) = next(sweep_files(paths, DATA, CPU, 1, Decoding(max_pixels=1000))).rejected
    assert "64 x 64 pixels" in reason


def stored(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def warned(blob: bytes) -> bytes:
    """A JPEG of a major version of JFIF that libjpeg warns of, and decodes."""
    at = blob.index(b"JFIF\0") + 5
    return blob[:at] + b"\2" + blob[at + 1 :]


def padded(blob: bytes) -> bytes:
    """A JPEG with bytes between the pixels and the end marker, of which libjpeg warns when it has decoded them."""
    return blob[:-2] + bytes(300) + blob[-2:]


def cut(blob: bytes) -> bytes:
    """A JPEG that ends amid its pixels, with an end marker."""
    return blob[: len(blob) // 2] + b"\xff\xd9"


def test_paths_that_are_not_there_and_folders_without_images_are_said(tmp_path):
    with pytest.raises(InputError, match="found nothing"):
        find_images([tmp_path / "x"])
    with pytest.raises(InputError, match="found none"):
        find_images([tmp_path])
    (tmp_path / "a.jpg").write_bytes(b"")
    assert find_images([tmp_path, tmp_path / "a.jpg"]) == [tmp_path / "a.jpg"] * 2
