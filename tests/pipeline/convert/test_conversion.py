import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.convert.__main__ import main
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.labels.splits import known_labels, splits
from pipeline.sources.encode import prepare
from pipeline.sources.objects import Dataset
from pipeline.store.beton import open_beton
from pipeline.store.manifest import manifest_path
from pipeline.store.sample_names import read_names
from tests.pipeline.conftest import damaged, image, left

ROOT = Path(__file__).parents[3]
PHOTOS = ROOT.parent / "shared/data/imagenet500_jpeg.tar"


def test_originals_that_pass_are_stored_byte_for_byte(tree, tmp_path):
    manifest = convert(tree, tmp_path / "train.beton")
    beton = open_beton(tmp_path / "train.beton", verify=True)
    labels = known_labels(beton, None)
    for i, name in enumerate(read_names(beton)):
        assert name.startswith(f"class{labels[i]}/")
        original = (tree / name).read_bytes()
        assert (bytes(beton.jpeg(i)) == original) == name.endswith(".jpg")
    assert (manifest.n, manifest.class_counts, manifest.n_unlabelled) == (30, (10, 10, 10), 0)
    assert (manifest.n_passed_through, manifest.n_re_encoded, manifest.n_resized) == (27, 3, 0)
    assert manifest == beton.manifest
    assert manifest.stored_kb["mean"] == pytest.approx(beton.sizes[:].mean() / 1e3, abs=1e-3)
    assert manifest.side == {"min": 32, "mean": 32, "max": 32}
    assert manifest.kinds == {"JPEG": {"passed through": 27}, "PNG": {"re-encoded": 3}}
    assert not manifest.measured_decode
    assert left(tmp_path) == {"train.beton", "train.beton.json", "train.beton.names"}


def test_order_depends_on_the_seed_and_nothing_else(tree, tmp_path):
    digests = []
    for i, options in enumerate((Options(workers=1), Options(workers=7), Options(seed=1))):
        digests.append(convert(tree, tmp_path / f"{i}.beton", options).digest)
    assert digests[0] == digests[1] != digests[2]
    assert (tmp_path / "0.beton").read_bytes() == (tmp_path / "1.beton").read_bytes()
    names = [read_names(open_beton(tmp_path / f"{i}.beton")) for i in (0, 2)]
    assert sorted(names[0]) == sorted(names[1])
    assert names[0] not in (names[1], sorted(names[0]))


def test_side_quality_and_reencode_reach_the_encoder(tree, tmp_path):
    manifest = convert(tree, tmp_path / "a.beton", Options(side=16, quality=50, reencode=True))
    beton = open_beton(tmp_path / "a.beton")
    assert (manifest.n_resized, manifest.side["max"]) == (30, 16)
    name = read_names(beton)[0]
    assert bytes(beton.jpeg(0)) == prepare((tree / name).read_bytes(), 16, 50, True).data
    assert convert(tree, tmp_path / "b.beton", Options(reencode=True)).n_re_encoded == 30


def test_enough_samples_are_timed(tmp_path):
    manifest = convert(Dataset(200, lambda i: (image(i), None), None), tmp_path / "a.beton")
    assert manifest.measured_decode
    assert manifest.decode_images_per_s > 100
    assert (manifest.classes, manifest.n_unlabelled) == (None, 200)


def test_rejected_files_are_listed_with_their_reason(tree, tmp_path):
    manifest = convert(damaged(tree), tmp_path / "a.beton", Options(max_bad=0.2))
    beton = open_beton(tmp_path / "a.beton", verify=True)
    reasons = dict(manifest.rejected)
    assert reasons.keys() == {"class0/0.jpg", "class1/11.jpg", "class2/gone.jpg"}
    assert (manifest.ignored, beton.manifest.ignored) == ({".txt": 1}, {".txt": 1})
    assert (reasons["class1/11.jpg"], reasons["class2/gone.jpg"]) == (
        "empty file", "a link to nothing, expected a regular file"
    )  # fmt: skip
    assert "truncated" in reasons["class0/0.jpg"].lower()
    assert (beton.n, manifest.class_counts) == (28, (9, 9, 10))
    assert not reasons.keys() & set(read_names(beton))


def test_too_many_rejections_leave_nothing_behind(tree, tmp_path):
    with pytest.raises(InputError, match=r"files rejected, expected --max-bad 0\.05 at most \(class"):
        convert(damaged(tree), tmp_path / "a.beton", Options(max_bad=0.05))
    assert left(tmp_path) == set()
    convert(tree, tmp_path / "a.beton", Options(max_bad=3 / 31))  # exactly: what is no image does not count


def test_of_a_small_source_every_rejected_file_is_named_and_of_a_large_one_ten(tree, tmp_path):
    """The work ends where the tenth is met: 30 of 30 would be rejected, and 1 of 31 may be."""
    with pytest.raises(InputError, match=r"^3 of \d+ files rejected") as few:
        convert(damaged(tree), tmp_path / "a.beton")
    assert all(name in str(few.value) for name in ("class0/0.jpg", "class1/11.jpg", "class2/gone.jpg"))
    for path in tree.glob("*/*.jpg"):
        path.unlink(missing_ok=True)
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"^10 of \d+ files rejected") as many:
        convert(tree, tmp_path / "a.beton", Options(max_bad=0.05))
    assert str(many.value).count("empty file") == 10


def test_a_source_without_one_good_image_is_refused(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no image is left of 1: a\.jpg: not an image"):
        convert(tmp_path / "s", tmp_path / "a.beton", Options(max_bad=1))


def test_an_existing_file_is_only_replaced_when_asked(tree, tmp_path):
    first = convert(tree, tmp_path / "a.beton", Options(split=(0.5,)))
    with pytest.raises(InputError, match="exists"):
        convert(tree, tmp_path / "a.beton")
    second = convert(tree, tmp_path / "a.beton", Options(seed=1, overwrite=True))
    assert open_beton(tmp_path / "a.beton", verify=True).digest == second.digest != first.digest


@pytest.mark.parametrize(("options", "message"), [
    (Options(side=0), "--side"), (Options(quality=101), "--quality"), (Options(max_bad=1.5), "--max-bad"),
    (Options(workers=0), "--workers"), (Options(split=(0.0,)), "fraction"), (Options(per_class=(0,)), "per class"),
    (Options(seed=-1), "--seed"),
])  # fmt: skip
def test_options_out_of_range_are_refused_before_work_starts(tree, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        convert(tree, tmp_path / "a.beton", options)
    assert left(tmp_path) == set()


def test_names_labels_and_splits_that_cannot_be_are_refused(tree, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.beton"):
        convert(tree, tmp_path / "a.ffcv")
    with pytest.raises(InputError, match="splits need labels"):
        convert(tree / "class0", tmp_path / "a.beton", Options(split=(0.1,)))
    with pytest.raises(InputError, match="expected a label from 0 to 0"):
        convert(Dataset(3, lambda i: (image(i), i), ("a",)), tmp_path / "a.beton")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        convert(tree, tmp_path / "file/a.beton")
    (tmp_path / "b.beton").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        convert(tree, tmp_path / "b.beton", Options(overwrite=True))
    assert left(tmp_path) == {"file"}


def test_an_error_in_a_data_set_ends_the_conversion_and_leaves_nothing(tmp_path):
    def item(i: int):
        if i == 5:
            raise RuntimeError("disk on fire")
        return image(i), 0

    with pytest.raises(RuntimeError, match="on fire"):
        convert(Dataset(50, item, ("a",)), tmp_path / "a.beton")
    assert left(tmp_path) == set()


def test_a_sample_that_comes_back_damaged_ends_the_conversion(tree, tmp_path, monkeypatch):
    from pipeline.convert import conversion as module

    def write(path, samples, capacity, store):
        written = original(path, samples, capacity, store)
        with path.open("r+b") as file:
            file.seek(int(written.table["offset"][7]) + 2)
            file.write(b"\0" * 40)
        return written

    original = module.write
    monkeypatch.setattr(module, "write", write)
    with pytest.raises(InputError, match="sample 7 came back damaged"):
        convert(tree, tmp_path / "a.beton")
    assert left(tmp_path) == set()


def test_two_conversions_do_not_write_one_file(tree, tmp_path):
    def item(i: int):
        if i == 0:
            with pytest.raises(InputError, match="being written by another process"):
                convert(tree, tmp_path / "a.beton")
        return image(i), 0

    convert(Dataset(3, item, ("a",)), tmp_path / "a.beton")
    assert open_beton(tmp_path / "a.beton", verify=True).n == 3


def test_the_command_line_converts_and_says_what_it_did(tree, tmp_path, monkeypatch, capsys):
    arguments = [
        str(damaged(tree)),
        str(tmp_path / "t.beton"),
        "--side",
        "16",
        "--split",
        "0.2",
        "0.5",
        "--max-bad",
        "0.5",
    ]
    more = str(shutil.copytree(tree / "class0", tmp_path / "more"))
    monkeypatch.setattr("sys.argv", ["convert", *arguments, "--per-class", "1", "--unlabelled", more])
    main()
    said = capsys.readouterr().out
    beton = open_beton(tmp_path / "t.beton")
    assert splits(beton) == ["0.20", "0.50", "1-per-class"]
    assert (beton.manifest.n_unlabelled, beton.manifest.arguments["side"]) == (9, 16)
    for part in ("37 images", "class0 (9), class1 (9), class2 (10)", "28 images with a label, 9 without one",
                 "4 of 41 images", " JPEG (", " PNG (", "1 other file: 1 .txt", "0.20: 6 labels", "0.50: 13 labels",
                 "1-per-class: 3 labels", "from the mean size"):  # fmt: skip
        assert part in said
    assert sum(how["resized"] for how in beton.manifest.kinds.values()) == 37
    assert json.loads(manifest_path(beton.path).read_text())["versions"].keys() >= {"shotcrete", "numpy"}


def test_the_command_line_ends_with_one_line_on_wrong_input(tmp_path):
    command = [sys.executable, "-m", "pipeline.convert", str(tmp_path / "absent"), str(tmp_path / "a.beton")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(not PHOTOS.exists(), reason="the sample of real photographs is not here")
def test_real_photographs_convert(tmp_path):
    import tarfile

    with tarfile.open(PHOTOS) as tar:
        blobs = [tar.extractfile(member).read() for member in tar.getmembers()[:25] if member.isfile()]
    manifest = convert(Dataset(len(blobs), lambda i: (blobs[i], None), None), tmp_path / "a.beton")
    assert manifest.n == len(blobs)
    assert manifest.side["max"] <= 500
    beton = open_beton(tmp_path / "a.beton")
    for i in range(beton.n):
        assert Image.open(io.BytesIO(beton.jpeg(i))).mode == "RGB"
    assert os.path.getsize(beton.path) == manifest.bytes
