import io
import os
import pickle
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from pipeline.backends.libffcv import decode
from pipeline.convert.conversion import Options, convert
from pipeline.convert.writer import PAGE_BYTES, Sample, write
from pipeline.errors import InputError
from pipeline.labels.splits import known_labels
from pipeline.sources.objects import Dataset
from pipeline.store.__main__ import main
from pipeline.store.beton import open_beton
from pipeline.store.file_format import ALLOCATION, FIELD, HEADER, METADATA_START, SAMPLE
from pipeline.store.integrity import chunks_sha256, index_sha256
from pipeline.store.manifest import identity, manifest_path, read_manifest, to_json

CLASSES = ("a", "b", "c")


def images(n: int, seed: int = 0) -> list[np.ndarray]:
    chance = np.random.default_rng(seed)
    return [chance.integers(0, 256, (8 + i % 5, 8 + i % 7, 3), np.uint8) for i in range(n)]


@pytest.fixture
def beton(tmp_path):
    pixels = images(21)
    convert(Dataset(21, lambda i: (pixels[i], i % 3), CLASSES), tmp_path / "train.beton")
    return tmp_path / "train.beton"


def test_every_sample_is_a_jpeg_of_the_stored_size(beton):
    opened = open_beton(beton, verify=True)
    for i in range(opened.n):
        image = Image.open(io.BytesIO(opened.jpeg(i)))
        assert (image.height, image.width) == (opened.heights[i], opened.widths[i])
    assert (opened.n, len(opened), opened.data.size) == (21, 21, beton.stat().st_size)
    with pytest.raises(ValueError, match="read-only"):
        opened.data[0] = 0


def test_labels_are_no_attribute_of_an_open_file(beton):
    assert not [name for name in dir(open_beton(beton)) if "label" in name]


def test_pickling_opens_the_file_anew(beton):
    text = pickle.dumps(open_beton(beton))
    assert len(text) < 1000
    assert np.array_equal(pickle.loads(text).jpeg(3), open_beton(beton).jpeg(3))


def test_a_file_that_was_replaced_is_not_opened_in_place_of_the_one_that_was_pickled(beton):
    """Else another process would read images that belong to other labels."""
    text, pixels = pickle.dumps(open_beton(beton)), images(21)
    source = Dataset(21, lambda i: (pixels[i], (i + 1) % 3), CLASSES)
    convert(source, beton, Options(overwrite=True))
    with pytest.raises(InputError, match="was replaced by another file while it was in use; start again"):
        pickle.loads(text)


def test_a_forked_process_reads_the_same_bytes(beton):
    opened = open_beton(beton)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads of other tests
        child = os.fork()
    if not child:
        os._exit(int(opened.data.sum()) % 251)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == int(opened.data.sum()) % 251


def test_stock_ffcv_reads_equal_pixels_and_labels(beton):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ffcv's own
        from ffcv.fields.basics import IntDecoder
        from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.reader import Reader

        opened, reader = open_beton(beton), Reader(str(beton))
        assert reader.num_samples == opened.n
        assert np.array_equal(reader.metadata["f1"], known_labels(opened, None)[np.arange(opened.n)])
        for cached in (True, False):
            crop = CenterCropRGBImageDecoder((8, 8), ratio=1)
            pipelines = {"image": [crop], "label": [IntDecoder()]}
            loader = Loader(
                str(beton), batch_size=7, num_workers=1, os_cache=cached, order=OrderOption.SEQUENTIAL,
                pipelines=pipelines, drop_last=False,
            )  # fmt: skip
            came = [(pixels.copy(), labels.copy()) for pixels, labels in loader]
            pixels, labels = (np.concatenate(parts) for parts in zip(*came, strict=True))
            assert np.array_equal(labels[:, 0], known_labels(opened, None)[np.arange(opened.n)])
            for i in np.flatnonzero((opened.heights[:] == 8) & (opened.widths[:] == 8)):
                exact = np.asarray(Image.open(io.BytesIO(opened.jpeg(i))))
                assert np.abs(pixels[i].astype(int) - exact).max() < 8  # libffcv takes libjpeg's fast DCT
                assert np.array_equal(pixels[i], decode(opened.jpeg(i), 8, 8))


def test_no_sample_crosses_a_page_and_pages_grow_for_large_samples(tmp_path):
    sizes = [PAGE_BYTES // 2 + 1, PAGE_BYTES // 2 + 1, 3 * PAGE_BYTES, 5, PAGE_BYTES]
    samples = [Sample(bytes([i + 1]) * size, 1, 1, i) for i, size in enumerate(sizes)]
    written = write(tmp_path / "x", iter(samples), capacity=8)
    page = 4 * PAGE_BYTES
    data = np.memmap(tmp_path / "x", np.uint8, mode="r")
    assert data[:24].view("<u4")[1] == page
    for i, (_, start, size) in enumerate(written.table.tolist()):
        assert start // page == (start + size - 1) // page
        assert size == sizes[i]
        assert (data[start : start + size] == i + 1).all()


def test_more_samples_than_reserved_are_refused(tmp_path):
    samples = [Sample(b"x", 1, 1, 0)] * 3
    assert len(write(tmp_path / "x", samples, capacity=3).table) == 3
    with pytest.raises(InputError, match="at most 2"):
        write(tmp_path / "x", samples, capacity=2)


def test_a_million_images_open_within_a_second(tmp_path):
    convert(Dataset(1, lambda i: (images(1)[0], 0), ("a",)), tmp_path / "one.beton")
    one, n = open_beton(tmp_path / "one.beton"), 1_281_167
    rows, table = np.zeros(n, SAMPLE), np.zeros(n, ALLOCATION)
    start = METADATA_START + rows.nbytes
    rows["image"]["offset"] = table["offset"] = start + np.arange(n)
    rows["image"]["height"] = rows["image"]["width"] = table["size"] = 1
    header = np.array([(2, 2, 1 << 23, n, start + n)], HEADER)
    fields = one.data[HEADER.itemsize :][: 2 * FIELD.itemsize]
    many = np.concatenate([part.view(np.uint8) for part in (header, fields, rows, np.zeros(n, np.uint8), table)])
    many.tofile(tmp_path / "many.beton")
    known = {**vars(read_manifest(one.path)), "n": n, "bytes": many.size, "class_counts": (n,)}
    known["index_sha256"], known["chunk_sha256"] = index_sha256(many, n, start + n), chunks_sha256(many)
    known["digest"] = identity(known["index_sha256"], ("a",), known["names_sha256"], known["chunk_sha256"])
    manifest_path(tmp_path / "many.beton").write_text(to_json(type(one.manifest)(**known)))
    started = time.thread_time()
    assert open_beton(tmp_path / "many.beton").n == n
    assert time.thread_time() - started < 1


@pytest.mark.parametrize("suffix", ["", ".json"])
def test_a_missing_file_or_manifest_is_refused(beton, suffix):
    beton.with_name(beton.name + suffix).unlink()
    with pytest.raises(InputError, match="no such file" if not suffix else "no manifest"):
        open_beton(beton)


def test_a_file_cut_anywhere_is_refused(beton):
    whole = beton.read_bytes()
    for cut in [*range(0, len(whole), 97), *range(len(whole) - 30, len(whole))]:
        beton.write_bytes(whole[:cut])
        with pytest.raises(InputError):
            open_beton(beton)
    for changed in (whole + b"\0", whole + whole[-24:]):
        beton.write_bytes(changed)
        with pytest.raises(InputError):
            open_beton(beton)
    beton.write_bytes(whole)
    open_beton(beton)


def test_a_flipped_bit_in_the_index_is_refused_and_anywhere_else_found_by_verifying(beton):
    whole, opened = beton.read_bytes(), open_beton(beton)
    first, table = METADATA_START + 21 * SAMPLE.itemsize, len(whole) - 21 * ALLOCATION.itemsize
    assert opened.offsets[:].min() == first
    for at in range(0, len(whole), 83):
        beton.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        if at < first or at >= table:
            with pytest.raises(InputError):
                open_beton(beton)
        else:
            open_beton(beton)
        with pytest.raises(InputError):
            open_beton(beton, verify=True)


def test_the_manifest_of_another_file_is_refused(beton, tmp_path):
    others = {"same size": images(21)[::-1], "fewer": images(20), "more": images(22)}
    for name, pixels in others.items():
        source = Dataset(len(pixels), lambda i, pixels=pixels: (pixels[i], i % 3), CLASSES)
        other = tmp_path / f"{name}.beton"
        convert(source, other)
        manifest_path(beton).write_bytes(manifest_path(other).read_bytes())
        with pytest.raises(InputError, match="manifest was made for"):
            open_beton(beton)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 0}', '{"format": 1}', '{"format": 1, "colour": 3}'])
def test_a_manifest_of_another_form_is_refused(beton, text):
    manifest_path(beton).write_text(text)
    with pytest.raises(InputError, match=r"manifest|missing or unknown"):
        open_beton(beton)


@pytest.mark.parametrize(("at", "value", "message"), [
    (0, 0, "unfinished"), (0, 3, "version 2"), (2, 1, "RGBImageField, IntField"), (24, 255, "RGBImageField, IntField"),
    (24 + 1041, 0, "RGBImageField, IntField"),
])  # fmt: skip
def test_other_fields_and_versions_are_refused(beton, at, value, message):
    changed = bytearray(beton.read_bytes())
    changed[at] = value
    beton.write_bytes(changed)
    with pytest.raises(InputError, match=message):
        open_beton(beton)


def test_a_file_without_a_header_is_unfinished(beton):
    changed = bytearray(beton.read_bytes())
    changed[:24] = bytes(24)
    beton.write_bytes(changed)
    with pytest.raises(InputError, match="unfinished"):
        open_beton(beton)


def test_the_command_line_checks_every_chunk(beton, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["beton", str(beton)])
    main()
    assert "every chunk holds" in capsys.readouterr().out
    changed = bytearray(beton.read_bytes())
    changed[open_beton(beton).offsets[0] + 99] ^= 1
    beton.write_bytes(changed)
    with pytest.raises(InputError, match="bytes changed in chunk 0"):
        main()
    monkeypatch.setattr("sys.argv", ["beton"])
    with pytest.raises(InputError, match="expected"):
        main()


def test_the_digest_does_not_depend_on_place_or_threads(beton, tmp_path):
    digest = open_beton(beton).digest
    pixels = images(21)
    convert(Dataset(21, lambda i: (pixels[i], i % 3), CLASSES), tmp_path / "else" / "b.beton", Options(workers=1))
    assert open_beton(tmp_path / "else" / "b.beton").digest == digest
