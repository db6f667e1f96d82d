"""What counts as an image in a folder, and what becomes of the rest: never a wait, never a traceback."""

import io
import os
import socket
import subprocess
import sys

import pytest
from PIL import Image

from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.evaluation.files import find_files
from pipeline.sources.encode import prepare
from pipeline.sources.find import find
from pipeline.sources.listing import begins_like_an_image, listing
from pipeline.store.beton import open_beton
from pipeline.store.manifest import manifest_path
from pipeline.store.sample_names import read_names
from tests.pipeline.sources.test_sources import content, jpeg, lay


def test_hidden_files_are_counted_and_other_files_ignored(tmp_path):
    lay(tmp_path, "dog/1.jpg", "dog/.DS_Store", ".git/1.jpg", "dog/.hidden/1.jpg")
    for name in ("dog/notes.TXT", "dog/deep/Thumbs.db", "README.txt", "Makefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    (tmp_path / "dog/broken.md").symlink_to("nowhere")
    source = find(tmp_path)
    assert content(source) == {"dog/1.jpg": 0}
    assert source.ignored == {".txt": 2, ".db": 1, ".md": 1, "no suffix": 1, "hidden": 3}
    assert source.rejected == ()


KINDS = "JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "BMP", "PPM", "JPEG2000"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["photo", "photo.jpg_large", "photo.txt", "photo.HEIC"])
def test_an_image_is_taken_whatever_its_name(tmp_path, kind, name):
    lay(tmp_path, "dog/1.jpg")
    Image.new("RGB", (20, 8)).save(tmp_path / "dog" / name, kind)
    source = find(tmp_path)
    assert sorted(content(source)) == ["dog/1.jpg", f"dog/{name}"]
    assert not source.ignored
    assert not source.rejected
    blob = source.read([source.name(i) for i in range(2)].index(f"dog/{name}"))[0]
    assert (prepare(blob, None, 90, False).width, prepare(blob, None, 90, False).height) == (20, 8)
    assert sorted(path.name for path in find_files([tmp_path]).paths) == sorted(["1.jpg", name])


@pytest.mark.parametrize("start", [
    b"", b"RIFF\x24\0\0\0WAVEfmt ", b"\0\0\0\x18ftypmp42", b"\0\0\0\x14ftypqt  ", b"%PDF-1.7", b"PK\x03\x04",
    b"BMW and others (40)", b"P1 is our first paragraph", b"GIF is a format", b"II*", b"Photos of our dogs\n" * 20,
])  # fmt: skip
def test_what_begins_otherwise_is_no_image(tmp_path, start):
    (tmp_path / "file").write_bytes(start)
    assert not begins_like_an_image(tmp_path / "file")


def test_every_image_kind_that_pillow_writes_is_recognised_by_its_beginning(tmp_path):
    for kind in KINDS:
        for mode in ("RGB", "L"):
            out = io.BytesIO()
            Image.new(mode, (33, 17)).save(out, kind)
            (tmp_path / "file").write_bytes(out.getvalue())
            assert begins_like_an_image(tmp_path / "file"), (kind, mode)


@pytest.mark.parametrize(("name", "reason"), [
    ("a.NEF", "a camera's raw file"), ("a.dng", "a camera's raw file"), ("a.jxl", "a JPEG XL image"),
    ("a.dcm", "a DICOM image"),
])  # fmt: skip
def test_images_that_cannot_be_read_are_rejected_and_not_called_no_images(tmp_path, name, reason):
    """A raw file may be a TIFF that begins with a small preview: that must not be taken for the image."""
    lay(tmp_path, "dog/1.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "dog" / name, "TIFF")
    ((rejected, why),) = find(tmp_path).rejected
    assert rejected == f"dog/{name}"
    assert why.startswith(reason)
    (tmp_path / "dog/1.jpg").unlink()
    with pytest.raises(InputError, match=rf"found none, but .*/{name} \({reason}"):
        find_files([tmp_path / "dog"])


def hostile(folder) -> None:
    """Everything in a folder that is neither file nor folder, by names of images and by others."""
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "pipe")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "self").symlink_to("self")
    (folder / "loop").symlink_to(folder)
    (folder / "up").symlink_to("/")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "s.jpg"))


LEFT_OUT = {
    "pipe.jpg": "a FIFO, expected a regular file",
    "zero.jpg": "a device, expected a regular file",
    "gone.jpg": "a link to nothing, expected a regular file",
    "self.jpg": "a link that leads back to itself, expected a regular file",
    "s.jpg": "a socket, expected a regular file",
}


def test_only_regular_files_are_read_and_the_rest_is_named(tmp_path):
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    hostile(tmp_path / "cat")
    source = find(tmp_path)
    assert content(source) == {"cat/1.jpg": 0, "dog/1.jpg": 1}
    assert dict(source.rejected) == {f"cat/{name}": reason for name, reason in LEFT_OUT.items()}
    assert source.notes == (
        "left out: cat/pipe (a FIFO, expected a regular file; 1 in all)",
        "left out: cat/self (a link that leads back to itself, expected a regular file; 1 in all)",
        "left out: cat/loop, cat/up (a link to a folder that it lies in, or that is listed already; 2 in all)",
    )


def test_a_link_to_nothing_that_may_have_been_a_class_is_named(tmp_path):
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "eel").symlink_to("/nowhere")
    (tmp_path / "003.Sooty_Albatross").symlink_to("/nowhere")
    source = find(tmp_path)
    reason = "a link to nothing, which may have been a folder"
    assert source.notes == (f"left out: 003.Sooty_Albatross, eel ({reason}; 2 in all)",)
    assert not source.ignored
    given = find_files([tmp_path])
    left = {(tmp_path / name, reason) for name in ("eel", "003.Sooty_Albatross")}
    assert set(given.rejected) == left


def test_predict_names_a_given_folder_without_images(tmp_path):
    lay(tmp_path, "cat/1.jpg")
    (tmp_path / "eel").mkdir()
    given = find_files([tmp_path / "cat", tmp_path / "eel"])
    assert given.paths == [tmp_path / "cat/1.jpg"]
    assert given.rejected == [(tmp_path / "eel", "a folder without images")]


def test_a_conversion_names_each_of_them_and_ends(tmp_path):
    lay(tmp_path / "in", "cat/1.jpg", "dog/1.jpg")
    hostile(tmp_path / "in/cat")
    command = [sys.executable, "-m", "pipeline.convert", tmp_path / "in", tmp_path / "a.beton"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(f"cat/{name}: {reason}" in line for name, reason in LEFT_OUT.items())
    done = subprocess.run([*command, "--max-bad", "1"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert open_beton(tmp_path / "a.beton").n == 2


def test_predict_lists_what_convert_lists_with_the_same_reasons(tmp_path):
    lay(tmp_path, "cat/1.jpg", "cat/2", "dog/1.JPG", "dog/.hidden.jpg")
    (tmp_path / "dog/notes.txt").write_text("a cat")
    hostile(tmp_path / "cat")
    source, given = find(tmp_path), find_files([tmp_path])
    assert [str(path.relative_to(tmp_path)) for path in given.paths] == list(content(source))
    rejected = {str(path.relative_to(tmp_path)): reason for path, reason in given.rejected}
    assert dict(source.rejected).items() <= rejected.items()
    assert rejected.keys() - dict(source.rejected).keys() == {"cat/pipe", "cat/self", "cat/loop", "cat/up"}
    assert given.ignored == source.ignored == {".txt": 1, "hidden": 1}


def test_names_that_are_no_utf8_are_escaped_once_and_come_through_every_output(tmp_path):
    folder = os.fsencode(tmp_path / "in")
    for name in (b"caf\xe9/1.jpg", b"tea/gr\xfcn\n.jpg", b"tea/\xff\xfe.jpg"):
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(jpeg(len(name)))
    os.mkfifo(folder + b"/tea/p\xee.jpg")
    source = find(tmp_path / "in")
    assert source.classes == (r"caf\xe9", "tea")
    assert content(source) == {r"caf\xe9/1.jpg": 0, r"tea/gr\xfcn\n.jpg": 1, r"tea/\xff\xfe.jpg": 1}
    assert source.rejected == ((r"tea/p\xee.jpg", "a FIFO, expected a regular file"),)
    manifest = convert(source, tmp_path / "a.beton", Options(max_bad=1))
    assert manifest.classes == source.classes
    assert manifest_path(tmp_path / "a.beton").read_bytes().decode("utf-8")
    assert sorted(read_names(open_beton(tmp_path / "a.beton"))) == sorted(content(source))


def test_an_unreadable_folder_below_is_rejected_with_the_reason(tmp_path, monkeypatch):
    lay(tmp_path, "cat/1.jpg", "cat/locked/2.jpg", "dog/1.jpg")
    scan = os.scandir

    def guarded(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert find(tmp_path).rejected == (("cat/locked", "the folder cannot be read: Permission denied"),)
    with pytest.raises(InputError, match="locked: the folder cannot be read: Permission denied"):
        find_files([tmp_path / "cat/locked"])


def test_folders_that_systems_make_are_no_classes(tmp_path):
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/@eaDir/1.jpg/thumb.jpg", "__MACOSX/cat/1.jpg")
    source = find(tmp_path)
    assert source.classes == ("cat", "dog")
    assert content(source) == {"cat/1.jpg": 0, "dog/1.jpg": 1}
    assert source.notes == ("left out: __MACOSX, dog/@eaDir (a folder that a system makes beside images; 2 in all)",)


def test_a_folder_listed_by_two_links_is_listed_once(tmp_path):
    lay(tmp_path, "a/1.jpg")
    (tmp_path / "b").symlink_to("a")
    found = listing(tmp_path)
    assert found.images == ["a/1.jpg"]
    assert found.skipped == [("b", "a link to a folder that it lies in, or that is listed already")]


def test_very_deep_folders_are_listed(tmp_path):
    """1,050 levels: more than Python calls functions within each other, and less than a path may have."""
    before = os.getcwd()
    os.mkdir(tmp_path / "d")
    os.chdir(tmp_path / "d")
    try:
        for _ in range(1050):
            os.mkdir("d")
            os.chdir("d")
        with open("1.jpg", "wb") as file:
            file.write(jpeg())
    finally:
        os.chdir(before)
    assert [name.count("/") for name in listing(tmp_path).images] == [1051]
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # shutil calls itself for each level


def test_a_file_too_large_for_an_image_is_rejected_unread(tmp_path):
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    os.truncate(tmp_path / "dog/1.jpg", 1 << 40)  # sparse: it takes no disk
    source = find(tmp_path)
    with pytest.raises(InputError, match="1,100 GB, expected a file of at most 2 GB"):
        source.read(1)


def test_files_that_are_no_images_do_not_count_as_bad(tree, tmp_path):
    for i in range(9):
        (tree / f"class0/{i}.txt").write_text("a caption")
    (tree / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    manifest = convert(tree, tmp_path / "a.beton", Options(max_bad=0))
    assert (manifest.n, manifest.rejected, manifest.ignored) == (30, (), {".txt": 9, ".db": 1})
