"""Image files as they come: shown as the converter and the loader would show them, and the broken ones named."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.convert import Options, convert
from pipeline.errors import InputError
from pipeline.files import find_images, sweep_files
from pipeline.jpeg_header import plain_size
from pipeline.open import open_backend, open_data, sweep
from pipeline.spec import Data, View

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


def shown(paths: list[Path], batch: int = 4) -> tuple[list[str], torch.Tensor, dict[str, str]]:
    parts = list(sweep_files(paths, DATA, CPU, batch))
    names = [path.name for part in parts for path in part.paths]
    rejected = {path.name: why for part in parts for path, why in part.rejected}
    return names, torch.cat([part.images for part in parts]), rejected


def test_files_are_shown_as_the_loader_shows_them_from_a_converted_folder(tmp_path):
    """Sizes grow, so that memory for the largest image has to follow while smaller ones are still decoded."""
    folder = tmp_path / "all" / "things"
    folder.mkdir(parents=True)
    for i in range(11):
        (folder / f"{i:02d}.jpg").write_bytes(jpeg(picture(20 + 17 * i, 120 - 9 * i, i)))
    convert(tmp_path / "all", tmp_path / "train.beton", Options(side=None))
    data = Data(root=str(tmp_path), **{k: getattr(DATA, k) for k in ("size", "threads", "evaluate")})
    beton = open_data(data, "train.beton")
    backend = open_backend(data, beton, CPU)
    expected = torch.cat(list(sweep(data, backend, np.arange(11), 11)))
    backend.close()
    names, images, rejected = shown(find_images([folder]))
    assert names == [f"{i:02d}.jpg" for i in range(11)]
    assert not rejected
    order = [(image == expected.unbind()[i]).all().item() for image in images for i in range(11)]
    assert np.array(order).reshape(11, 11).sum(1).tolist() == [1] * 11  # the converter shuffles


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
    assert of(jpeg(image)) == of(jpeg(image, progressive=True)) == (60, 80)
    assert of(turned(image)) is None
    assert of(jpeg(image.convert("L"))) is None
    assert of(jpeg(image.convert("CMYK"))) is None
    assert of(jpeg(image)[:100]) is None
    assert of(b"") is None


def test_paths_that_are_not_there_and_folders_without_images_are_said(tmp_path):
    with pytest.raises(InputError, match="found nothing"):
        find_images([tmp_path / "x"])
    with pytest.raises(InputError, match="found none"):
        find_images([tmp_path])
    (tmp_path / "a.jpg").write_bytes(b"")
    assert find_images([tmp_path, tmp_path / "a.jpg"]) == [tmp_path / "a.jpg"] * 2
