"""What counts as an image in a folder, and what becomes of the rest."""

import pytest
from PIL import Image

from pipeline.convert.conversion import Options, convert
from pipeline.sources.find import find
from tests.pipeline.sources.test_sources import content, lay


def test_hidden_files_are_skipped_and_other_files_ignored(tmp_path):
    lay(tmp_path, "dog/1.jpg", "dog/.DS_Store", ".git/1.jpg", "dog/.hidden/1.jpg")
    for name in ("dog/notes.TXT", "dog/deep/Thumbs.db", "README.txt", "Makefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    (tmp_path / "dog/broken.md").symlink_to("nowhere")
    source = find(tmp_path)
    assert content(source) == {"dog/1.jpg": 0}
    assert source.ignored == {".txt": 2, ".db": 1, ".md": 1, "no suffix": 1}
    assert source.rejected == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF"])
def test_an_image_with_another_files_name_is_rejected(tmp_path, kind):
    lay(tmp_path, "dog/1.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "dog/image.txt", kind)
    source = find(tmp_path)
    assert source.rejected == (("dog/image.txt", "an image by its content, but not by its name"),)
    assert not source.ignored


def test_files_that_are_no_images_do_not_count_as_bad(tree, tmp_path):
    for i in range(9):
        (tree / f"class0/{i}.txt").write_text("a caption")
    (tree / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    manifest = convert(tree, tmp_path / "a.beton", Options(max_bad=0))
    assert (manifest.n, manifest.rejected, manifest.ignored) == (30, (), {".txt": 9, ".db": 1})
