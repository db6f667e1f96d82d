"""Sound JPEGs are kept whatever libjpeg says of their headers, damaged ones are refused, metadata is dropped."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.backends.libffcv import decode
from pipeline.errors import InputError
from pipeline.sources.encode import Decoding, prepare
from pipeline.sources.jpeg_segments import strip
from pipeline.store.jpeg_header import is_sound, plain_size
from tests.pipeline.sources.test_encode import photo, pixels, refused, stored


def noise(mode: str) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).convert(mode)


def patched(blob: bytes, at: int, value: int) -> bytes:
    return blob[:at] + bytes([value]) + blob[at + 1 :]


def end_of_spectrum(blob: bytes) -> int:
    """Where the first scan says which coefficient is its last."""
    scan = blob.index(b"\xff\xda")
    return scan + int.from_bytes(blob[scan + 2 : scan + 4])


WARNED = {
    "coefficients 0 to 0": lambda blob: patched(blob, end_of_spectrum(blob), 0),
    "JFIF 2.1": lambda blob: patched(blob, blob.index(b"JFIF") + 5, 2),
    "both": lambda blob: WARNED["JFIF 2.1"](WARNED["coefficients 0 to 0"](blob)),
    "padding": lambda blob: blob[:-2] + bytes(9) + blob[-2:],
    "padding and metadata": lambda blob: WARNED["padding"](blob[:2] + b"\xff\xfe\0\x06film" + blob[2:]) + b"film",
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", WARNED)
def test_a_file_that_libjpeg_warns_of_but_decodes_is_encoded_again(kind, mode):
    sound = stored(Image.fromarray(photo(48, 64)).convert(mode), quality=95)
    blob = WARNED[kind](sound)
    data = np.frombuffer(blob, np.uint8)
    assert decode(data, 48, 64) is None
    assert kind.startswith("padding") or plain_size(data) is None  # predict leaves it to prepare, too
    came = prepare(blob, None, 95, False)
    assert came.how == "re-encoded"
    assert np.abs(pixels(came).astype(float) - np.asarray(Image.open(io.BytesIO(sound)).convert("RGB"))).mean() < 2


def test_a_colour_transform_that_adobe_does_not_know_is_taken_for_the_usual_one():
    image = Image.fromarray(photo(48, 64))
    for mode, wrong in (("RGB", 7), ("CMYK", 9)):
        sound = stored(image.convert(mode), quality=95, keep_rgb=mode == "RGB")
        blob = patched(sound, sound.index(b"Adobe") + 11, wrong)
        came = prepare(blob, None, 95, False)
        expected = np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))
        assert came.how == "re-encoded"
        assert np.abs(pixels(came).astype(float) - expected).mean() < 2


@pytest.mark.parametrize("kind", WARNED)
def test_a_file_that_libjpeg_warns_of_is_refused_if_it_is_cut_too(kind):
    """An end marker behind the cut makes Pillow fill the rest with grey, without a word."""
    blob = WARNED[kind](stored(photo(48, 64), quality=95))
    start = strip(blob).data.index(b"\xff\xda") + 14
    for cut in range(start, len(strip(blob).data) - 30, 41):
        broken = blob[: cut + len(blob) - len(strip(blob).data)] + b"\xff\xd9"
        assert refused(broken), cut
        assert refused(blob[:cut]), cut


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_file_with_an_end_marker_is_refused(mode, progressive):
    """Inside each scan. Between two of a progressive file an end marker makes a whole file, of a coarser image."""
    blob, cuts = stored(noise(mode), progressive=progressive), 0
    for scan in re.finditer(rb"\xff\xda\0(.)", blob, re.DOTALL):
        start = scan.start() + 2 + scan[1][0]
        end = re.compile(rb"\xff[^\0\xd0-\xd7]").search(blob, start).start()
        for cut in range(start + 1, end - 8, max(1, (end - start) // 20)):
            assert refused(blob[:cut] + b"\xff\xd9"), cut
            cuts += 1
    assert cuts > 15


def test_left_over_bytes_that_are_no_padding_are_damage():
    blob = stored(photo(48, 64))
    assert refused(blob[:-2] + bytes(range(1, 30)) + blob[-2:])


def test_the_reason_is_libjpegs_own():
    blob = stored(noise("RGB"))
    with pytest.raises(InputError, match="corrupt or truncated JPEG: Corrupt JPEG data: premature end of data segment"):
        prepare(blob[: len(blob) // 2] + b"\xff\xd9", None, 90, False)


def test_a_header_that_another_back_ends_check_refuses_is_encoded_again():
    """Settings of arithmetic coding in a file without it: libjpeg passes over them, the check before DALI does not."""
    sound = stored(photo(48, 64))
    blob = sound[:2] + b"\xff\xcc\0\x04\0\x10" + sound[2:]
    assert not is_sound(np.frombuffer(blob, np.uint8), 48, 64)
    assert decode(np.frombuffer(blob, np.uint8), 48, 64) is not None
    assert prepare(blob, None, 90, False).how == "re-encoded"


PLACE = b"48.8583N 2.2944E"


def photographed() -> bytes:
    """A photograph as a phone keeps it: EXIF with a place, a comment, and a film behind the image."""
    exif = Image.Exif()
    exif[0x010F] = PLACE.decode()
    return stored(photo(96, 144), exif=exif, comment=PLACE) + b"\0\0\0\x18ftypmp42" + bytes(3_000_000)


def test_what_decoding_does_not_need_is_dropped_unless_it_is_to_be_kept():
    blob = photographed()
    came = prepare(blob, None, 90, False)
    assert came.how == "passed through"
    assert PLACE not in came.data
    assert len(came.data) < 20_000
    assert (pixels(came) == np.asarray(Image.open(io.BytesIO(blob)))).all()
    kept = prepare(blob, None, 90, False, Decoding(keep_metadata=True))
    assert (kept.data, kept.how) == (blob, "passed through")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_what_is_encoded_here_carries_no_metadata(kind):
    exif = Image.Exif()
    exif[0x010F] = PLACE.decode()
    text = {"JPEG": {"comment": PLACE}, "GIF": {"comment": PLACE}}.get(kind, {})
    blob = stored(photo(48, 64), kind, exif=exif, icc_profile=PLACE * 9, **text)
    for decoding in (Decoding(), Decoding(keep_metadata=True)):
        came = prepare(blob, 32, 90, True, decoding)
        assert PLACE not in came.data
        assert not Image.open(io.BytesIO(came.data)).info.keys() & {"exif", "comment", "icc_profile", "xmp"}
