"""What is dropped from a JPEG file changes no pixel; what decides pixels is kept."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.backends import dali_pipe
from pipeline.backends.libffcv import decode
from pipeline.errors import InputError
from pipeline.sources.jpeg_segments import strip

PHOTOS = Path(__file__).parents[4] / "shared/data/imagenet500_jpeg.tar"
GPS = b"48.8583N 2.2944E"


def picture() -> Image.Image:
    rows, columns = np.mgrid[:40, :56]
    return Image.fromarray(np.stack([rows * 6, columns * 4, (rows * columns) % 256], -1).astype(np.uint8))


def jpeg(mode: str = "RGB", **options) -> bytes:
    out = io.BytesIO()
    picture().convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2) + payload


def with_segments(blob: bytes, *segments: bytes) -> bytes:
    return blob[:2] + b"".join(segments) + blob[2:]


def thumbnail() -> bytes:
    """EXIF with a whole small JPEG in it, end marker included, and a place."""
    return segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + GPS + jpeg(quality=20))


def in_pillow(blob: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(blob)))


def in_libffcv(blob: bytes) -> np.ndarray:
    found = decode(np.frombuffer(blob, np.uint8), 40, 56)
    assert found is not None
    return found


KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "full chroma": {"subsampling": 0},
    "restarts": {"restart_marker_blocks": 2},
    "optimised": {"optimize": True, "quality": 97},
    "RGB inside": {"keep_rgb": True},
    "grey": {"mode": "L"},
    "grey progressive": {"mode": "L", "progressive": True},
    "CMYK": {"mode": "CMYK"},
    "CMYK progressive": {"mode": "CMYK", "progressive": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_metadata_keeps_every_byte(kind):
    blob = jpeg(**KINDS[kind])
    stripped = strip(blob)
    assert (stripped.data, stripped.height, stripped.width, stripped.repaired) == (blob, 40, 56, False)
    assert stripped.components == {"grey": 1, "CMYK": 4}.get(kind.split()[0], 3)


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_and_what_follows_the_image_are_dropped_and_the_pixels_stay_to_the_bit(kind):
    plain = jpeg(**KINDS[kind])
    blob = with_segments(
        plain, thumbnail(), segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(3000)), segment(0xFE, b"a comment"),
        segment(0xED, b"Photoshop 3.0\0" + GPS), segment(0xEF, b"\xff\xd8\xff\xd9"),
    ) + b"\0\0\0\x18ftypmp42" + jpeg() + bytes(3_000_000)  # fmt: skip
    stripped = strip(blob)
    assert stripped.data == plain
    assert GPS not in stripped.data
    assert (in_pillow(stripped.data) == in_pillow(blob)).all()
    if not kind.startswith("CMYK"):
        assert (in_libffcv(stripped.data) == in_libffcv(blob)).all()


def test_dali_applies_no_profile_of_colours_either(dali):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    blob = jpeg(icc_profile=profile)
    assert strip(blob).data == jpeg()
    pipe = dali_pipe.Pipe(None, 1, 2)
    pipe.feed([np.frombuffer(each, np.uint8) for each in (blob, strip(blob).data)])
    with_profile, without = dali_pipe.packed(pipe.take()).chunk(2)
    assert with_profile.shape == (40 * 56, 3)
    assert (with_profile == without).all()


def test_metadata_between_the_scans_of_a_progressive_file_is_dropped():
    blob = jpeg(progressive=True)
    second = blob.index(b"\xff\xda", blob.index(b"\xff\xda") + 2)
    assert strip(blob[:second] + thumbnail() + segment(0xFE, GPS) + blob[second:]).data == blob


def test_fill_bytes_and_bytes_between_segments_are_dropped():
    blob = jpeg()
    first = blob.index(b"\xff\xdb")
    assert strip(blob[:first] + b"\xff\xff\xff" + blob[first:]).data == blob
    assert strip(blob[:first] + b"what is this\0\xff\0" + blob[first:]).data == blob


def test_fill_bytes_inside_the_pixels_end_nothing():
    """255 may stand any number of times before a restart marker and before the stuffed 0."""
    blob = jpeg(restart_marker_blocks=1)
    at = blob.index(b"\xff\xd0", blob.index(b"\xff\xda"))
    filled = blob[:at] + b"\xff\xff" + blob[at:]
    assert strip(filled).data == filled
    assert (in_libffcv(filled) == in_libffcv(blob)).all()


def test_the_thumbnail_of_jfif_is_dropped_and_its_density_kept():
    out = io.BytesIO()
    picture().save(out, "JPEG", dpi=(72, 72))
    blob = out.getvalue()
    payload = blob[6:20]
    assert payload.startswith(b"JFIF\0")
    large = blob[:2] + segment(0xE0, payload[:12] + b"\x02\x02" + GPS[:12]) + blob[20:]
    assert strip(large).data == blob
    assert not strip(large).repaired


def test_the_first_image_of_a_file_with_several_is_kept():
    out = io.BytesIO()
    picture().save(out, "MPO", save_all=True, append_images=[picture().rotate(90)])
    stripped = strip(out.getvalue())
    assert (in_pillow(stripped.data) == in_pillow(out.getvalue())).all()
    assert len(stripped.data) < len(out.getvalue()) / 2 + 200
    assert Image.open(io.BytesIO(stripped.data)).format == "JPEG"


@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey", "CMYK", "restarts"])
def test_every_truncation_is_refused_also_behind_a_thumbnail(kind):
    blob = with_segments(jpeg(**KINDS[kind]), thumbnail())
    for cut in [*range(2, len(blob), 7), *range(len(blob) - 30, len(blob))]:
        with pytest.raises(InputError, match=r"truncated|no frame"):
            strip(blob[:cut])


@pytest.mark.skipif(not PHOTOS.exists(), reason="the sample of real photographs is not here")
def test_real_photographs_keep_their_pixels():
    with tarfile.open(PHOTOS) as tar:
        blobs = [tar.extractfile(member).read() for member in tar.getmembers()[:60] if member.isfile()]
    dropped = 0
    for blob in blobs:
        stripped = strip(blob)
        dropped += len(blob) - len(stripped.data)
        assert not stripped.repaired
        assert (in_pillow(stripped.data) == in_pillow(blob)).all()
    assert dropped > 0
