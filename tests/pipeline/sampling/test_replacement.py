"""The replacement of an image that no longer decodes is a function of the step, of nothing else."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.backends.backend import Undecodable
from pipeline.backends.ffcv import FFCV
from pipeline.backends.in_memory import InMemoryBackend
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep
from pipeline.loader import Loader
from pipeline.sampling.replacement import Replacements
from pipeline.sampling.sampler import Sampler
from pipeline.store.beton import Beton
from pipeline.store.sample_names import read_names
from tests.pipeline.test_loader import CPU, data_of, equal, spec_of, tensors

POOL = 40


def sampler_of(batch: int = 8, labels_only_steps: int = 0) -> Sampler:
    return Sampler(3, np.arange(POOL), np.arange(POOL), batch, batch, labels_only_steps)


def known(beton: Beton, *ids: int) -> Replacements:
    replacements = Replacements()
    error = Undecodable(beton, np.array(ids))
    replacements.add(error.ids, error, error.named)
    return replacements


def replaced_at(replacements: Replacements, sampler: Sampler, step: int, chunk: int = 0, chunks: int = 1):
    return replacements.replace(sampler.at(step, chunk, chunks)[0], lambda k: sampler.at(step + k, chunk, chunks)[0])


def damaged(beton: Beton, *ids: int, kept: float = 0.05) -> Beton:
    """The same file with the bytes of some images zeroed, all but their first few."""
    broken = np.array(beton.data)
    for i in ids:
        broken[beton.offsets[i] + int(kept * beton.sizes[i]) : beton.offsets[i] + beton.sizes[i]] = 0
    return replace(beton, data=broken)


def test_the_image_at_the_same_place_of_the_next_step_steps_in_or_the_one_after(beton):
    sampler = sampler_of()
    first, second, third = (sampler.at(step)[0] for step in (5, 6, 7))
    replacements = known(beton, first.ids[2], second.ids[2])
    found, n = replaced_at(replacements, sampler, 5)
    assert n == 1
    assert (found.ids[2], found.passes[2]) == (third.ids[2], third.passes[2])
    others = np.arange(8) != 2
    assert np.array_equal(found.ids[others], first.ids[others])
    assert np.array_equal(found.passes[others], first.passes[others])


def test_a_batch_of_decodable_images_is_left_alone(beton):
    sampler = sampler_of()
    samples = sampler.at(0)[0]
    found, n = replaced_at(known(beton, POOL + 1), sampler, 0)
    assert n == 0
    assert np.array_equal(found.ids, samples.ids)


@pytest.mark.parametrize("chunks", [2, 4, 8])
def test_every_world_size_replaces_by_the_same_images(beton, chunks):
    sampler = sampler_of()
    replacements = known(beton, sampler.at(5)[0].ids[1])
    whole, _ = replaced_at(replacements, sampler, 5)
    parts = [replaced_at(replacements, sampler, 5, chunk, chunks)[0] for chunk in range(chunks)]
    assert np.array_equal(np.concatenate([part.ids for part in parts]), whole.ids)
    assert np.array_equal(np.concatenate([part.passes for part in parts]), whole.passes)


def test_a_slice_of_one_image_goes_on_and_so_does_one_before_a_shorter_step(beton):
    sampler = sampler_of(labels_only_steps=2)
    alone, n = replaced_at(known(beton, *sampler.at(5, 3, 8)[0].ids), sampler, 5, 3, 8)
    assert n == len(alone.ids) == 1
    before = sampler.at(1)[0]  # 16 labelled images, the last step of labels only; then 8
    found, n = replaced_at(known(beton, before.ids[12]), sampler, 1)
    assert n == 1
    assert found.ids[12] == sampler.at(2)[0].ids[4]


def test_more_than_a_tenth_is_refused_in_one_line_and_a_tenth_is_not(beton):
    sampler = sampler_of(batch=20)
    ids = sampler.at(0)[0].ids
    assert replaced_at(known(beton, *ids[:2]), sampler, 0)[1] == 2
    with pytest.raises(InputError, match="3 of 20 images of a batch do not decode") as refused:
        replaced_at(known(beton, *ids[:3]), sampler, 0)
    assert "\n" not in str(refused.value)


def test_nothing_to_put_in_its_place_is_refused(beton):
    sampler = Sampler(3, np.array([7]), None, 2, 0)
    with pytest.raises(InputError, match="next 100 steps"):
        replaced_at(known(beton, 7), sampler, 0)


def run(beton: Beton, kind: type, n: int = 6, step: int = 0, **data):
    """Batches of a back-end, and how many images were replaced in them."""
    with Loader(spec_of(data_of(beton, **data)), kind(beton, 16, CPU, "cpu", 2), CPU, step) as loader:
        return [next(loader) for _ in range(n)], loader.replaced


def shown(batches: list) -> dict[str, torch.Tensor]:
    each = [tensors(batch) for batch in batches]
    return {name: torch.cat([part[name] for part in each]) for name in each[0]}


def test_training_goes_on_without_the_image_which_is_named_once(beton, capsys):
    before = set(threading.enumerate())
    whole, none = run(beton, FFCV)
    labelled = int(whole[0].labelled.ids[0])
    gone = {labelled, 31}
    batches, replaced = run(damaged(beton, *gone), FFCV)
    assert set(threading.enumerate()) <= before
    usual, found = shown(whole), shown(batches)
    kept = {name: ~np.isin(usual[f"{name}.ids"], list(gone)) for name in ("labelled", "unlabelled")}
    assert none == 0
    assert replaced == sum((~mask).sum() for mask in kept.values()) > 0
    for name, mask in kept.items():
        assert not gone & set(found[f"{name}.ids"].tolist())
        assert torch.equal(found[f"{name}.ids"][mask], usual[f"{name}.ids"][mask])
    assert torch.equal(found["unlabelled.weak"][kept["unlabelled"]], usual["unlabelled.weak"][kept["unlabelled"]])
    names = read_names(beton)
    said = capsys.readouterr().err.splitlines()
    assert sorted(line for line in said if "takes its place" in line) == sorted(
        f"warning: {beton.path}: image {i} ({names[i]}) no longer decodes; another image takes its place" for i in gone
    )


def test_labels_stay_with_their_images(beton):
    first = run(beton, FFCV, 1)[0][0].labelled.ids
    batches, replaced = run(damaged(beton, int(first[0])), FFCV)
    names = read_names(beton)
    assert replaced
    for batch in batches:
        assert batch.labelled.labels.tolist() == [int(names[i][:3]) % 3 for i in batch.labelled.ids]


@pytest.mark.parametrize("kind", [FFCV, InMemoryBackend])
def test_every_back_end_and_every_start_shows_the_same_images_instead(beton, kind):
    broken = damaged(beton, 10, 31)
    reference, replaced = run(broken, FFCV)
    assert replaced
    from_zero, again = run(broken, kind)
    assert again == replaced
    assert equal(shown(from_zero), shown(reference))
    for start in (1, 4):
        resumed, _ = run(broken, kind, 2, start)
        assert equal(shown(resumed), shown(reference[start : start + 2]))


def test_an_evaluation_refuses(beton):
    with pytest.raises(InputError, match=r"image 31 \(0..\.png\) no longer decodes"):
        list(sweep(data_of(beton), damaged(beton, 31), CPU, np.arange(beton.n), 16))
