"""Images stored as JPEG, RGB or planes: the same views, whoever makes them; damage is found, and others refuse them."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.backends import staged_decode
from pipeline.backends.backend import jpeg_source
from pipeline.backends.ffcv import FFCV
from pipeline.backends.in_memory import InMemoryBackend
from pipeline.backends.pixels import read_pixels, to_pixels
from pipeline.backends.select import choose
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.sources.source import Source
from pipeline.spec import Data, View
from pipeline.store.beton import Beton, open_beton
from pipeline.store.file_format import CUSTOM, METADATA_START, SAMPLE, read_layout, stored_bytes
from pipeline.store.sample_names import read_names
from pipeline.views.plan import Plan, ViewSpec
from tests.pipeline.backends.test_backends import CPU, SIZE, SPEC, plan_of, views_of

ROOT, STORES = Path(__file__).parents[3], ("jpeg", "raw", "yuv420")


class Halved(Source):
    """JPEG files of 4:2:0 and odd and even sides, as bytes, in two classes."""

    classes = ("ant", "bee")

    def __len__(self) -> int:
        return 24

    def name(self, i: int) -> str:
        return f"{i:03d}.jpg"

    def read(self, i: int) -> tuple[bytes, int]:
        chance = np.random.default_rng(i)
        rough = Image.fromarray(chance.integers(0, 256, (7, 7, 3), np.uint8))
        size = (int(chance.integers(33, 70)), int(chance.integers(33, 70))) if i else (3, 51)
        out = io.BytesIO()
        rough.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=92, subsampling=2)
        return out.getvalue(), i % 2


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Beton]:
    folder = Path(tmp_path_factory.mktemp("stores"))
    for store in STORES:
        convert(Halved(), folder / f"{store}.beton", Options(side=None, store=store))
    return {store: open_beton(folder / f"{store}.beton", verify=True) for store in STORES}


def filtered(name: str) -> ViewSpec:
    views = {key: (View(**{**vars(view), "filter": name}), stream) for key, (view, stream) in SPEC.views.items()}
    return ViewSpec(views, SIZE, SPEC.mask, SPEC.patch)


def test_bytes_are_those_of_the_store_and_nothing_is_lost_of_a_halved_jpeg(stores):
    ids = np.arange(24)
    assert [stores[store].store for store in STORES] == list(STORES)
    for store in STORES[1:]:
        beton = stores[store]
        assert np.array_equal(beton.sizes[ids], stored_bytes(store, beton.heights[ids], beton.widths[ids]))
        assert beton.manifest.kinds == {"JPEG": {"decoded": 24}}
        assert beton.manifest.measured_decode
    for i in ids:
        jpeg, raw, planes = (read_pixels(stores[store], i) for store in STORES)
        assert np.array_equal(jpeg, raw)
        assert np.array_equal(jpeg, planes)
        assert np.asarray(Image.open(io.BytesIO(bytes(stores["jpeg"].jpeg(i))))).shape == jpeg.shape


@pytest.mark.parametrize("name", ["area", "bicubic"])
@pytest.mark.parametrize("on", ["cpu", "device"])
def test_views_do_not_depend_on_the_store_or_on_who_keeps_the_pixels(stores, on, name):
    expected = None
    for store in STORES:
        plan = plan_of(stores[store], np.arange(24), filtered(name))
        for backend in (FFCV, InMemoryBackend):
            views = views_of(backend(stores[store], SIZE, CPU, on, 2), plan)
            expected = expected or views
            assert all(np.array_equal(*pair) for pair in zip(views, expected, strict=True)), (store, backend)


def test_only_the_shown_part_is_turned_into_rgb_and_a_small_one_is_right(stores):
    plan = plan_of(stores["jpeg"], np.arange(24), filtered("bicubic"))
    cut = plan.params._replace(boxes=np.tile(np.array([1, 1, 2, 2], np.int32), (2, 24, 1)))
    plan = Plan(plan.ids, plan.names, plan.size, cut, plan.visible, plan.hidden)
    views = [views_of(FFCV(stores[store], SIZE, CPU, "cpu", 1), plan) for store in ("jpeg", "yuv420")]
    assert all(np.array_equal(*pair) for pair in zip(*views, strict=True))


def test_planes_of_other_sources_are_rgb_with_halved_chroma(tmp_path):
    """To the grey level as Pillow's own JPEG of quality 100 shows them, whose planes are nearly not quantised."""
    folder, chance = tmp_path / "photographs", np.random.default_rng(1)
    folder.mkdir()
    rough = Image.fromarray(chance.integers(0, 256, (9, 9, 3), np.uint8)).resize((75, 61), Image.Resampling.BICUBIC)
    rough.save(folder / "a.png")
    rough.convert("L").save(folder / "b.png")
    convert(folder, tmp_path / "train.beton", Options(side=None, store="yuv420"))
    beton = open_beton(tmp_path / "train.beton")
    assert beton.manifest.kinds == {"PNG": {"re-encoded": 2}}
    colours, grey = (read_pixels(beton, read_names(beton).index(name)) for name in ("a.png", "b.png"))
    assert np.array_equal(grey, np.asarray(rough.convert("L").convert("RGB")))
    out = io.BytesIO()
    rough.save(out, "JPEG", quality=100, subsampling=2)
    assert np.abs(colours.astype(int) - np.asarray(Image.open(out))).mean() < 0.6


def test_png_in_raw_comes_back_to_the_bit_and_small_images_keep_their_colours(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    for i, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f"{i}.png")
    convert(tmp_path, tmp_path / "train.beton", Options(side=None, store="raw"))
    beton = open_beton(tmp_path / "train.beton")
    came = {read_pixels(beton, i).tobytes() for i in range(5)}
    assert came == {each.tobytes() for each in pixels}
    assert beton.manifest.kinds == {"PNG": {"decoded": 5}}


def test_larger_images_are_made_smaller_without_a_second_jpeg(tmp_path, stores):
    made = {store: tmp_path / f"{store}.beton" for store in STORES[1:]}
    for store, path in made.items():
        convert(Halved(), path, Options(side=40, store=store))
        beton = open_beton(path)
        assert beton.manifest.side["max"] == 40
        assert beton.manifest.n_resized > 15
    raw, planes = (open_beton(path) for path in made.values())
    apart = np.abs(read_pixels(raw, 0).astype(int) - read_pixels(planes, 0))
    assert apart.mean() < 8  # of 40 pixels, whose colours change from one to the next


@pytest.mark.parametrize("store", STORES[1:])
def test_a_flipped_bit_and_a_cut_file_are_found(stores, tmp_path, store):
    whole = stores[store]
    path = tmp_path / "train.beton"
    content = bytearray(whole.path.read_bytes())
    content[int(whole.offsets[3]) + 5] ^= 4
    for name in ("", ".json", ".names"):
        Path(f"{path}{name}").write_bytes(Path(f"{whole.path}{name}").read_bytes())
    path.write_bytes(content)
    open_beton(path)  # the index is whole, and a pixel cannot be told from another
    with pytest.raises(InputError, match="bytes changed in chunk 0"):
        open_beton(path, verify=True)
    path.write_bytes(content[:-100])
    with pytest.raises(InputError, match="truncated"):
        open_beton(path)


@pytest.mark.parametrize("store", STORES[1:])
def test_a_row_that_says_what_cannot_be_is_refused(stores, tmp_path, store):
    """Compiled code reads as many bytes as the sides say: a size that does not fit them must not reach it."""
    beton, path = stores[store], tmp_path / "train.beton"
    content = bytearray(beton.path.read_bytes())
    rows = np.frombuffer(content, SAMPLE, offset=METADATA_START, count=24)
    rows["image"]["mode"][7] = 0
    path.write_bytes(content)
    Path(f"{path}.json").write_bytes(Path(f"{beton.path}.json").read_bytes())
    with pytest.raises(InputError, match=f"expected {store} samples"):
        open_beton(path)
    wider = type(beton.widths)(beton.widths[:] + 1)
    with pytest.raises(InputError, match="the index is wrong about image 2"):
        Beton(**{**{name: getattr(beton, name) for name in beton.__dataclass_fields__}, "widths": wider}).where(
            np.array([2])
        )
    assert to_pixels(np.zeros(10, np.uint8), 5, 7, store) is None


def test_jpeg_is_asked_of_jpeg_only(stores):
    for store in STORES[1:]:
        with pytest.raises(InputError, match=f"holds no JPEG: its images are stored as {store}"):
            stores[store].jpeg(0)
        with pytest.raises(InputError, match=f"holds no JPEG but {store}, which needs no decoder; set data.backend"):
            jpeg_source(stores[store], np.arange(2))
        with pytest.raises(
            InputError, match=f"data.backend dali decodes JPEG, .* holds {store}; set data.backend ffcv"
        ):
            choose(Data(backend="dali"), stores[store], CPU)
        chosen = choose(Data(memory_mb=0), stores[store], torch.device("cuda"))
        assert (chosen.backend, chosen.why) == ("ffcv", f"the images are stored as {store}, which needs no decoder")
        assert choose(Data(), stores[store], CPU).backend == "memory"
    assert len(jpeg_source(stores["jpeg"], np.arange(2)).sizes) == 2


@pytest.mark.parametrize("option", ["reencode", "keep_metadata"])
def test_options_of_jpeg_are_refused_elsewhere(tmp_path, option):
    with pytest.raises(InputError, match=rf"--{option.replace('_', '-')} is for --store jpeg, got --store raw"):
        convert(Halved(), tmp_path / "a.beton", Options(store="raw", **{option: True}))
    assert not list(tmp_path.iterdir())


FFCV_READS = """
import sys
import numpy as np
from ffcv.reader import Reader
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
from ffcv.loader import Loader, OrderOption

for store in sys.argv[2:]:
    pipelines = {"image": [CenterCropRGBImageDecoder((16, 16), 1)], "label": [IntDecoder()]}
    options = {"num_workers": 1, "order": OrderOption.SEQUENTIAL, "pipelines": pipelines, "os_cache": True}
    loader = Loader(f"{sys.argv[1]}/{store}.beton", 24, **options)
    ((images, labels),) = [(images.copy(), labels.copy()) for images, labels in loader]
    np.savez(f"{sys.argv[1]}/{store}.npz", images=images, labels=labels)
"""


@pytest.mark.slow
def test_stock_ffcv_reads_raw_as_it_reads_jpeg_and_refuses_planes(stores, tmp_path):
    pytest.importorskip("ffcv", reason="stock FFCV is the oracle")
    for store in STORES:
        (tmp_path / f"{store}.beton").symlink_to(stores[store].path)
    assert STORES[-1] == "yuv420"  # so that the others are read before FFCV refuses it
    command = [sys.executable, "-W", "ignore", "-c", FFCV_READS, str(tmp_path), *STORES]
    own = os.environ | {"NUMBA_DISABLE_JIT": "1"}  # its pipelines as plain Python: compiling them takes 10 s
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=own)
    assert done.returncode != 0
    assert "Must specify a custom_field entry for custom field image" in done.stderr
    assert not (tmp_path / "yuv420.npz").exists()
    found = {store: np.load(tmp_path / f"{store}.npz") for store in STORES[:-1]}
    assert np.array_equal(found["raw"]["images"], found["jpeg"]["images"])
    assert sorted(found["raw"]["labels"].ravel()) == [0] * 12 + [1] * 12


def test_planes_are_of_a_field_that_ffcv_leaves_to_others(stores):
    content = stores["yuv420"].path.read_bytes()
    assert content[read_layout(stores["yuv420"].path).metadata_end - 24 * SAMPLE.itemsize - 2 * 1041] == CUSTOM == 255


def test_stored_planes_are_planes_also_where_jpegs_must_arrive_as_rgb(stores, monkeypatch):
    plan = plan_of(stores["yuv420"], np.arange(24), filtered("bicubic"))
    expected = views_of(FFCV(stores["jpeg"], SIZE, CPU, "device", 2), plan)
    monkeypatch.setattr(staged_decode, "takes_planes", lambda _: False)
    for store in STORES:
        views = views_of(FFCV(stores[store], SIZE, CPU, "device", 2), plan)
        assert all(np.array_equal(*pair) for pair in zip(views, expected, strict=True)), store
