"""Corrupted batches: every image under every corruption, whatever the batches and threads."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.corruptions.corrupt import corrupt
from pipeline.evaluation.corruptions.stream import AHEAD, Begun, CorruptionSettings, CorruptionSpec, _finish, stream
from tests.pretended import Watch, pretended_gpu

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (21, 16, 16, 3), np.uint8)).permute(0, 3, 1, 2)
IDS = np.arange(100, 121)
SPECS = [CorruptionSpec("gaussian_noise", 2), CorruptionSpec("motion_blur", 4), CorruptionSpec("frost", 1)]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("batch", "threads"), [(21, 1), (8, 2), (1, 3)])
def test_images_do_not_depend_on_batches_and_threads(batch, threads):
    found = {}
    for each in stream(IMAGES.split(batch), IDS, SPECS, CPU, CorruptionSettings(seed=3, threads=threads)):
        for i, image in enumerate(each.images):
            found[each.spec, each.first + i] = image.permute(1, 2, 0).numpy()
    assert len(found) == 21 * 4
    for (spec, i), image in found.items():
        plain = IMAGES[i].permute(1, 2, 0).numpy()
        expected = plain if spec is None else corrupt(plain, *spec, int(IDS[i]), 3)
        assert np.array_equal(image, expected), (spec, i)


@pytest.mark.parametrize("specs", [SPECS, []])
def test_batches_are_read_no_further_ahead_the_longer_it_runs(specs):
    read = []
    clean = (read.append(i) or IMAGES[:1] for i in range(12))
    for used, _ in enumerate(stream(clean, IDS, specs, CPU, CorruptionSettings(threads=1))):
        assert len(read) <= (used + AHEAD) // (1 + len(specs)) + 1


def test_an_error_in_a_thread_arrives():
    with pytest.raises(Exception, match="no corruption is called 'rain'"):
        list(stream([IMAGES], IDS, [CorruptionSpec("rain", 1)], CPU, CorruptionSettings(threads=1)))


def test_what_is_not_corrupted_crosses_from_pinned_memory_too(monkeypatch):
    with pretended_gpu(monkeypatch), Watch() as watch:
        each = _finish(Begun(None, 0, torch.zeros(5, 16, 16, 3, dtype=torch.uint8), []), torch.device("cuda"))
    assert (each.images.device.type, each.images.shape) == ("cuda", (5, 3, 16, 16))
    assert watch.unpinned == watch.waits == {}
