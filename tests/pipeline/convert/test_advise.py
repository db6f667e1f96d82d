"""What another side or quality would cost: bytes are those that a conversion would store."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.convert import advise
from pipeline.convert.advise import Choice
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.sources.encode import prepare
from pipeline.sources.source import Source

ROOT = Path(__file__).parents[3]


class Photographs(Source):
    """Noisy images of one size without labels; number 1 is broken."""

    classes = None

    def __init__(self, side: int, n: int = 6) -> None:
        self.side, self.n = side, n

    def __len__(self) -> int:
        return self.n

    def name(self, i: int) -> str:
        return f"{i}.png"

    def read(self, i: int) -> tuple[Image.Image, int]:
        if i == 1:
            raise InputError("broken")
        rough = np.random.default_rng(i).integers(0, 256, (40, 30, 3), np.uint8)
        return Image.fromarray(rough).resize((self.side, self.side * 3 // 4)), -1


def test_bytes_are_what_a_conversion_would_store():
    found, tried = advise.costs(Photographs(360), Choice(300, 85), 0, 2, 60.0)
    assert tried == 5  # the broken one is passed over
    assert [each.choice[:3] for each in found if each.choice.store == "jpeg"] == [
        (256, 80, False), (256, 90, False), (300, 85, True), (300, 85, False), (320, 80, False), (320, 90, False),
        (None, 85, False),
    ]  # fmt: skip
    for each in found:
        images = [Photographs(360).read(i)[0] for i in (0, 2, 3, 4, 5)]
        sizes = [len(prepare(image, *each.choice).data) for image in images]
        assert each.kb == pytest.approx(sum(sizes) / 5 / 1e3)
        assert each.images_per_core_s > 0
        assert each.rgb_per_core_s > 0
    pixels = {(each.choice.store, each.choice.side): each.kb for each in found if each.choice.store != "jpeg"}
    assert pixels == pytest.approx({
        **{("raw", side): 3 * side * side * 0.75 / 1e3 for side in (256, 300, 320)},
        **{("yuv420", side): 1.5 * side * side * 0.75 / 1e3 for side in (256, 300, 320)},
    }, rel=0.01)  # fmt: skip


def test_the_table_marks_what_was_asked_for_and_counts_the_whole_set():
    found = [
        advise.Cost(Choice(256, 90, True), 20.0, 5000.0, 5000.0),
        advise.Cost(Choice(None, 90), 110.0, 900.0, 900.0),
        advise.Cost(Choice(500, 90, store="yuv420"), 281.25, 30000.0, 6000.0),
    ]
    lines = advise.table(found, 40, 1_281_167, Choice(None, 90)).splitlines()
    assert lines[0] == "what a store, a side and a quality cost, tried on 40 of the images:"
    assert " ".join(lines[2].split()) == "--side 256 --quality 90 --reencode 20.0 26 GB 5,000 5,000 82"
    assert " ".join(lines[3].split()) == "--side None --quality 90 110.0 141 GB 900 900 451 <- as asked"
    assert " ".join(lines[4].split()) == "--store yuv420 --side 500 281.2 360 GB 30,000 6,000 1,153"
    assert "a GPU at 4,100 images/s" in lines[5]
    assert "5.0 MB" in advise.table(found, 1, 250, Choice(256, 90))


def test_of_no_image_nothing_is_measured():
    assert advise.advice(Photographs(360, n=0), Choice(500, 90), 0, 1, 60.0).startswith("there is no image")


def test_encoding_anew_and_other_stores_are_choices_where_no_side_is():
    found, _ = advise.costs(Photographs(200), Choice(500, 90), 0, 1, 60.0)
    assert [each.choice.store for each in found] == ["jpeg", "jpeg", "raw", "yuv420"]
    assert [each.choice[:3] for each in found if each.choice.store == "jpeg"] == [(500, 90, True), (None, 90, False)]


def test_time_is_limited(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(advise.time, "perf_counter", lambda: float(next(clock)))
    _, tried = advise.costs(Photographs(360), Choice(500, 90), 0, 1, 2.5)
    assert tried in (1, 2)  # read at 1 and 2 s of 2.5; the broken one may have been among them


def test_the_command_advises_without_writing(tmp_path):
    source, out = tmp_path / "photographs", tmp_path / "out.beton"
    source.mkdir()
    for i in (0, 2, 3):
        Photographs(360).read(i)[0].save(source / f"{i}.png")
    words = [sys.executable, "-m", "pipeline.convert", str(source), str(out)]
    said = subprocess.run([*words, "--advise"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search("tried on [123] of the images", said)  # in 2.5 s: of a busy machine fewer
    assert not out.exists()
    nowhere = subprocess.run(words[:-1], cwd=ROOT, capture_output=True, text=True)
    assert (nowhere.returncode, "expected the file to write" in nowhere.stderr) == (2, True)
    convert(Photographs(360), out, Options(max_bad=1.0))  # and one that is there already stays
    assert subprocess.run([*words, "--advise"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
