"""The slowest of many ranks: in closed form, by enumeration, by simulation, and on ranks that really wait for it.

As a script this file measures on gloo ranks:  python tests/models/bench/test_stragglers.py wait|count RANKS STEPS

wait   DDP's steps, in which each view that passes is slept for: a core is not needed to sleep, so 8 ranks may share 2
count  pseudo-labels that pass on each rank of a semi_mae:digits run, against the same ones dealt at random
"""

import contextlib
import io
import itertools
import json
import os
import sys
import tempfile
import time
from math import ceil, comb
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn

from models.bench import communication, stragglers
from models.bench.flops import GroupCost, classifier_flops, encoder_flops
from models.distributed.process_group import settle
from pipeline.errors import InputError
from tests.processes import PRELOAD

IMAGES, RATE, SAME_S, VIEW_S = 14, 0.5, 0.01, 0.004


def passes(ranks, steps):
    """How many pass: [steps, ranks]."""
    return np.random.default_rng(0).binomial(IMAGES, RATE, (steps, ranks))


def waiting(rank, ranks, steps, folder, times=1):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    model, noted = nn.parallel.DistributedDataParallel(nn.Linear(8, 8)), []
    for passed in [0, *passes(ranks, steps)[:, rank]]:
        loss = model(torch.ones(1, 8)).sum()
        time.sleep(times * (SAME_S + VIEW_S * passed))
        arrived = time.monotonic()
        loss.backward()
        noted.append((arrived, time.monotonic()))
    Path(folder, f"{rank}.json").write_text(json.dumps(noted))
    settle()
    dist.destroy_process_group()


def counting(rank, ranks, steps, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29433"}
    import train
    from models.reporting.pseudo_label_stats import PseudoLabelCounts

    found, count = [], PseudoLabelCounts.count

    def noted(self, stats, world):
        found.extend(int(each.passed.sum()) for each in stats)
        count(self, stats, world)

    PseudoLabelCounts.count = noted
    flags = [f"--run.folder={folder}/run", f"--run.stop-step={steps}", "--run.device=cpu"]
    sys.argv = ["train.py", "semi_mae:digits", *flags]
    with contextlib.redirect_stdout(io.StringIO()):
        train.main()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def on_ranks(what, ranks, steps, *more):
    """What each rank noted of each step: [ranks, steps, ...]."""
    with tempfile.TemporaryDirectory() as folder:
        processes.get_context("forkserver").set_forkserver_preload(PRELOAD)  # the one that other tests have started
        processes.start_processes(what, (ranks, steps, folder, *more), ranks, start_method="forkserver")
        return np.array([json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)])


def test_ranks_under_ddp_wait_for_the_one_with_the_most():
    arrived, went_on = np.moveaxis(on_ranks(waiting, 3, 12), 2, 0)
    assert (went_on >= arrived.max(0)).all()
    ahead = arrived.max(0) - arrived.min(0)
    assert np.median(ahead) > VIEW_S  # ranks did arrive at different times


@pytest.mark.parametrize(("images", "rate", "ranks", "sharing"), [(3, 0.2, 3, 1), (4, 0.9, 2, 1), (2, 0.4, 6, 3)])
def test_the_most_of_all_ranks_is_that_of_every_outcome_counted_one_by_one(images, rate, ranks, sharing):
    expected = 0.0
    for outcome in itertools.product(range(images + 1), repeat=ranks):
        chance = np.prod([comb(images, k) * rate**k * (1 - rate) ** (images - k) for k in outcome])
        nodes = [outcome[start : start + sharing] for start in range(0, ranks, sharing)]
        expected += chance * max(ceil(sum(node) / sharing) for node in nodes)
    assert stragglers.expected_most(images, rate, ranks, sharing=sharing) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.05])
@pytest.mark.parametrize(("images", "rate", "ranks"), [(64, 0.2, 8), (64, 0.4, 512), (256, 0.5, 64)])
def test_simulation_and_closed_form_agree(images, rate, ranks, correlation):
    mean, error = stragglers.simulated_most(images, rate, ranks, 60, correlation)
    assert error < 0.03 * images
    assert abs(mean - stragglers.expected_most(images, rate, ranks, correlation)) < 4.5 * error + 1e-9


def test_correlated_ranks_have_the_variance_of_their_correlation():
    chances, k = stragglers.probabilities(40, 0.3, 0.1), np.arange(41)
    assert chances.sum() == pytest.approx(1)
    assert (chances * k).sum() == pytest.approx(12)
    assert (chances * (k - 12) ** 2).sum() == pytest.approx(40 * 0.3 * 0.7 * (1 + 39 * 0.1))


def test_what_makes_one_image_easier_than_another_makes_no_rank_slower():
    """Every image of every rank has a chance of its own, from 0 to 1: the mean alone counts."""
    draws = np.random.default_rng(0)
    most = [(draws.random((8, 64)) < draws.beta(0.2, 0.3, (8, 64))).sum(1).max() for _ in range(400)]
    assert abs(np.mean(most) - stragglers.expected_most(64, 0.4, 8)) < 4.5 * np.std(most) / 20


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_without_chance_there_is_no_straggler(rate):
    assert stragglers.expected_most(64, rate, 512) == pytest.approx(64 * rate)


def test_what_a_quota_leaves_out_is_the_sum_over_all_that_may_pass():
    views, lost = stragglers.cut(20, 0.3, deviations=1.0)
    over = sum(max(0, k - views) * comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(21))
    assert views == 8  # 6 + sqrt(4.2)
    assert lost == pytest.approx(over / 6)
    assert stragglers.cut(20, 0.3, deviations=99.0) == (20, 0.0)


def test_twice_the_views_cost_their_share_of_the_step():
    assert stragglers.cost(views=14, images=14, rate=0.5, flops=(30.0, 10.0)) == pytest.approx(70 / 100)


def test_a_view_costs_the_step_what_its_closed_form_counts():
    """By the whole step's count (which tests hold to torch's), at two pass rates."""
    method, options = (
        communication.networks("vit_small_patch16_224")["Semi-MAE"],
        communication.Options(labelled=2, unlabelled=14),
    )
    same, view = stragglers.step_and_view("vit_small_patch16_224", 14)
    assert sum(communication.step_flops(method, options)) == pytest.approx(same + 7 * view)
    expected = encoder_flops(method.encoder, [GroupCost(1, 196, keep=1)]) + classifier_flops(method.encoder, 1)
    assert view == expected


def test_the_command_prints_a_line_for_each_case(monkeypatch, capsys):
    flags = ["--unlabelled", "14", "--ranks", "2", "64", "--pass-rates", "0.5", "--steps", "5"]
    monkeypatch.setattr("sys.argv", ["stragglers", *flags])
    stragglers.main()
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split("|")[1:4] for line in lines] == [
        [f" 14, {n} ", " 0.5 ", f" {c} "] for c in ("0", "0.05") for n in (2, 64)
    ]


@pytest.mark.parametrize(("flags", "said"), [
    (["--ranks", "12"], "expected up to 8 or whole nodes of 8"),
    (["--steps", "0"], "--steps is 0, expected at least 1"),
    (["--pass-rates", "1"], "--pass_rates is 1, expected between 0 and 1"),
    (["--unlabelled", "6"], "--unlabelled is 6, expected at least 7"),
])  # fmt: skip
def test_flags_out_of_their_bounds_are_refused(monkeypatch, flags, said):
    monkeypatch.setattr("sys.argv", ["stragglers", *flags])
    with pytest.raises(InputError, match=said):
        stragglers.main()


def measure(what, ranks, steps):
    """Lines for docs/scale.md."""
    if what == "wait":
        ends = on_ranks(waiting, ranks, steps, 10)[..., 1].max(0)
        each = 10 * (SAME_S + VIEW_S * passes(ranks, steps))
        said = {"a step": np.diff(ends).mean(), "slowest": each.max(1).mean(), "mean": each.mean()}
        said["closed form"] = 10 * (SAME_S + VIEW_S * stragglers.expected_most(IMAGES, RATE, ranks))
        print(f"{ranks} ranks, ms:", ", ".join(f"{name} {1000 * value:.1f}" for name, value in said.items()))
        return
    passed = on_ranks(counting, ranks, steps).T
    passed = passed[passed.sum(1) > 0]
    images, draws = 112 // ranks, np.random.default_rng(0)  # of the recipe's 112 unlabelled
    dealt = np.array([[draws.multivariate_hypergeometric([images] * ranks, row.sum()).max() for row in passed]
                      for _ in range(50)])  # fmt: skip
    print(f"{ranks} ranks, {len(passed)} steps of {images} images a rank: {passed.mean():.2f} pass, most "
          f"{passed.max(1).mean():.2f}; dealt at random {dealt.mean():.2f} ± {dealt.mean(1).std():.2f}")  # fmt: skip


if __name__ == "__main__":
    measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
