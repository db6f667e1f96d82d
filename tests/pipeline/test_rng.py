import numpy as np
import pytest
import torch

from pipeline import rng

WORD = 2**64


def finalise(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def splitmix(state: int, n: int) -> list[int]:
    """The textbook generator, with a state, in unbounded integers."""
    out = []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) % WORD
        out.append(finalise(state))
    return out


def key_of(*parts: int) -> int:
    key = 0
    for part in parts:
        key = splitmix(key ^ part % WORD, 1)[0]
    return key


def chi_square(counts: np.ndarray) -> float:
    """Distance from flat in standard deviations of the chi-square with that many cells."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return abs(((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def test_a_published_splitmix_sequence_comes_out():
    assert [hex(x) for x in splitmix(1234567, 2)] == ["0x599ed017fb08fc85", "0x2c73f08458540fa5"]
    first = rng.uniforms(np.array([1234567], np.uint64), 2)
    np.testing.assert_array_equal(first[0], [x // 2**11 / 2**53 for x in splitmix(1234567, 2)])


def test_keys_follow_the_written_definition_in_big_integers():
    passes, ids = np.array([0, 3, 2**40]), np.array([5, 0, 1281166])
    got = rng.keys(-7, passes, ids, rng.STRONG)
    assert got.dtype == np.uint64
    assert [int(k) for k in got] == [key_of(-7, int(p), int(i), rng.STRONG) for p, i in zip(passes, ids, strict=True)]


def test_torchs_words_are_those_of_the_written_definition():
    words = [0, 1, 1234567, 2**63 - 1, 2**63, 2**63 + 5, WORD - 1]
    signed = torch.tensor([word - WORD if word >= 2**63 else word for word in words])
    assert [word % WORD for word in rng.mix_i64(signed).tolist()] == [splitmix(word, 1)[0] for word in words]
    for bits in (1, 11, 31):
        assert [word % WORD for word in rng.shifted_i64(signed, bits).tolist()] == [word >> bits for word in words]


def test_uniforms_continue_where_the_counter_says():
    keys = rng.keys(1, 0, np.arange(5), rng.WEAK)
    whole = rng.uniforms(keys, 20)
    np.testing.assert_array_equal(rng.uniforms(keys, 8, first=12), whole[:, 12:])
    np.testing.assert_array_equal(whole[3], [x // 2**11 / 2**53 for x in splitmix(int(keys[3]), 20)])
    assert whole.min() >= 0
    assert whole.max() < 1


def test_order_and_batch_of_the_ids_change_nothing():
    ids = np.arange(100)
    order = np.random.default_rng(0).permutation(100)
    whole = rng.normals(rng.keys(2, 1, ids, rng.MASK), 4)
    np.testing.assert_array_equal(rng.normals(rng.keys(2, 1, order, rng.MASK), 4), whole[order])
    alone = np.concatenate([rng.normals(rng.keys(2, 1, ids[i : i + 1], rng.MASK), 4) for i in ids])
    np.testing.assert_array_equal(alone, whole)


@pytest.mark.parametrize("axis", ["ids", "passes", "counter", "seed", "tag"])
def test_numbers_are_flat_and_neighbours_are_independent_along(axis: str):
    n = 200_000
    many = np.arange(n)
    base = rng.keys(0, 0, np.array([0]), rng.WEAK)
    drawn = {
        "ids": lambda: rng.uniforms(rng.keys(0, 0, many, rng.WEAK), 1)[:, 0],
        "passes": lambda: rng.uniforms(rng.keys(0, many, np.zeros(n, np.int64), rng.WEAK), 1)[:, 0],
        "counter": lambda: rng.uniforms(base, n)[0],
        "seed": lambda: np.array([rng.uniforms(rng.keys(s, 0, many[:200], 1), 1)[:, 0] for s in range(500)]).T.ravel(),
        "tag": lambda: np.array([rng.uniforms(rng.derive(base, t), 1)[0, 0] for t in range(5000)]),
    }[axis]()
    assert chi_square(np.bincount((drawn * 64).astype(int), minlength=64)) < 5
    pairs = (drawn[:-1] * 16).astype(int) * 16 + (drawn[1:] * 16).astype(int)
    assert chi_square(np.bincount(pairs[::2], minlength=256)) < 5


def test_streams_and_derived_keys_do_not_correlate():
    ids = np.arange(100_000)
    first, second = (rng.keys(3, 0, ids, stream) for stream in (rng.WEAK, rng.STRONG))
    columns = np.stack([rng.uniforms(k, 1)[:, 0] for k in (first, second, rng.derive(first, 1), rng.derive(first, 2))])
    correlations = np.corrcoef(columns)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(len(ids))


def test_normals_have_the_moments_of_the_standard_normal():
    drawn = rng.normals(rng.keys(0, 0, np.arange(50_000), rng.WEAK), 4)
    assert np.isfinite(drawn).all()
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert (drawn**power).mean() == pytest.approx(moment, abs=5 * np.sqrt(spread / drawn.size))
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 5 / np.sqrt(len(drawn))


def test_several_streams_or_tags_at_once_are_those_one_after_another():
    passes, ids = np.array([0, 3, 3]), np.array([5, 5, 9])
    streams, tags = (rng.WEAK, rng.MASK), (1, 4, 0xC07)
    apart = [rng.keys(7, passes, ids, stream) for stream in streams]
    np.testing.assert_array_equal(rng.keys(7, passes, ids, streams), apart)
    np.testing.assert_array_equal(rng.derive(apart[0], tags), [rng.derive(apart[0], tag) for tag in tags])
