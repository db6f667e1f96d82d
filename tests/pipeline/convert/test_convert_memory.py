"""A worker of a conversion holds no more memory than the help of --max-pixels says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIDE = 2400
MOST = {"turned.jpg": 12, "plain.png": 12, "alpha.png": 20, "grey.png": 20, "colour.webp": 20, "float.tif": 40}
"""Bytes a pixel, by image."""
SLACK = 1.5
"""Bytes a pixel for all that does not grow with the image: some megabytes, of 5.8 million pixels."""
CODE = """
import json, sys
from pathlib import Path
from pipeline.convert.conversion import Options, convert

def most() -> int:
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")).split()[1])

def grown(folder: Path) -> float:
    options = Options(side=256, workers=1, window=(0.0, 1.0) if folder.name.startswith("float") else None)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is held
    before = most()
    convert(folder, folder.with_suffix(".beton"), options)
    return 1024 * (most() - before)

root = Path(sys.argv[1])
grown(root / "first")  # what is loaded once
print(json.dumps({each.name: grown(each) for each in sorted(root.glob("*.*")) if each.is_dir()}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not reset a peak of memory")
def test_bytes_a_pixel_are_those_of_the_help(tmp_path):
    blocks = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    pixels = np.kron(blocks, np.ones((SIDE // 24, SIDE // 24, 1), np.uint8))
    colour, turned = Image.fromarray(pixels), Image.Exif()
    turned[0x0112] = 6
    images = {
        "first": colour.resize((64, 64)), "turned.jpg": colour, "plain.png": colour, "colour.webp": colour,
        "alpha.png": colour.convert("RGBA"), "grey.png": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        "float.tif": Image.fromarray(pixels[..., 0].astype(np.float32) / 255),
    }  # fmt: skip
    for name, image in images.items():
        (tmp_path / name).mkdir()
        more = {"exif": turned} if name == "turned.jpg" else {}
        image.save(tmp_path / name / f"a{Path(name).suffix or '.png'}", **more)
    done = subprocess.run([sys.executable, "-c", CODE, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {name: grown / SIDE**2 for name, grown in json.loads(done.stdout.splitlines()[-1]).items()}
    assert found.keys() == MOST.keys()
    assert {name: each for name, each in found.items() if each > MOST[name] + SLACK} == {}
    assert found["float.tif"] > MOST["turned.jpg"] + SLACK  # the figures differ, so they are worth telling apart
