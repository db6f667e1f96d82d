import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from timm.scheduler import CosineLRScheduler

from models.config.extensions import Extension
from models.config.recipe import Optim
from models.methods.presets import in1k
from models.optim.schedule import Pools, RunLength, describe_extension, learning_rate, run_length
from pipeline.errors import InputError

SEMIFORMER = Pools(labelled=128_116, unlabelled=1_281_167, labelled_batch=104, unlabelled_batch=760)


def test_a_labelled_epoch_has_semiformers_1231_steps() -> None:
    assert run_length(Optim(epochs=1, warmup_epochs=0, epoch_unit="labelled"), SEMIFORMER).total_steps == 1231


def test_a_labels_only_epoch_takes_full_batches_of_labelled_images() -> None:
    optim = Optim(epochs=2, warmup_epochs=0, labels_only_epochs=1, epoch_unit="labelled")
    run = run_length(optim, SEMIFORMER)
    assert (run.labels_only_steps, run.total_steps) == (148, 148 + 1231)
    assert [run.labels_only(step) for step in (0, 147, 148)] == [True, True, False]


def test_an_unlabelled_epoch_is_a_pass_over_the_unlabelled_pool() -> None:
    pools = Pools(labelled=0, unlabelled=1_281_167, labelled_batch=0, unlabelled_batch=4096)
    run = run_length(Optim(epochs=800, warmup_epochs=40), pools)
    assert (run.total_steps, run.warmup_steps) == (800 * 1_281_167 // 4096, 40 * 1_281_167 // 4096)


def test_small_recipes_count_in_steps() -> None:
    optim = Optim(epochs=300, warmup_epochs=20, labels_only_epochs=50, epoch_unit="step")
    assert run_length(optim, SEMIFORMER) == RunLength(300, 20, 50, 1.0, 1.0)


def test_the_warmup_may_end_in_either_phase() -> None:
    pools = Pools(labelled=100, unlabelled=700, labelled_batch=5, unlabelled_batch=35)
    optim = Optim(epochs=10, warmup_epochs=2, labels_only_epochs=4, epoch_unit="labelled")
    assert run_length(optim, pools).warmup_steps == 2 * 100 / 40
    optim = Optim(epochs=10, warmup_epochs=6, labels_only_epochs=4, epoch_unit="labelled")
    assert run_length(optim, pools).warmup_steps == 4 * 100 / 40 + 2 * 100 / 5


@given(some.integers(1, 500), some.integers(1, 40), some.integers(1, 20), some.integers(0, 20))
def test_epochs_done_reach_the_recipes_epochs(images: int, share: int, epochs: int, labels_only: int) -> None:
    optim = Optim(epochs=labels_only + epochs, warmup_epochs=0, labels_only_epochs=labels_only, epoch_unit="labelled")
    pools = Pools(images, 10, share, 7 * share)
    if labels_only * images // (8 * share) + epochs * images // share == 0:
        return
    run = run_length(optim, pools)
    slack = 8 * share / images + share / images  # a step of each phase may have been dropped
    assert optim.epochs - slack <= run.epoch(run.total_steps) <= optim.epochs + 1e-6
    assert run.epoch(0) == 0


def timms_rates(optim: Optim, run: RunLength, peak: float, final: float) -> list[float]:
    return timms_cosine(run.total_steps, run.warmup_steps, (0.0, peak, final))


def timms_cosine(steps: int, warmup: int, rates: tuple[float, float, float]) -> list[float]:
    """Linearly from the first rate to the second, then half a cosine to the third."""
    first, peak, final = rates
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = CosineLRScheduler(
        dummy,
        t_initial=steps - warmup,
        lr_min=final,
        warmup_t=warmup,
        warmup_lr_init=first,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    found = []
    for step in range(steps):
        scheduler.step_update(step)
        found.append(dummy.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(("warmup", "labels_only"), [(0, 0), (5, 0), (5, 20), (30, 20)])
def test_the_rate_is_timms_cosine_after_a_linear_warmup(warmup: int, labels_only: int) -> None:
    optim = Optim(
        lr=1e-3, final_lr=1e-5, epochs=100, warmup_epochs=warmup, labels_only_epochs=labels_only, epoch_unit="step"
    )
    run = run_length(optim, SEMIFORMER)
    ours = [learning_rate(step, run, optim, SEMIFORMER.batch) for step in range(run.total_steps)]
    assert ours == pytest.approx(timms_rates(optim, run, 1e-3, 1e-5), rel=1e-9, abs=1e-15)
    assert max(ours) == ours[warmup] == 1e-3


TWO_PHASES = Optim(
    lr=1e-3, final_lr=1e-5, epochs=12, warmup_epochs=3, labels_only_epochs=4, epoch_unit="labelled", warmup_lr=1e-6
)
EIGHTH = Pools(labelled=80, unlabelled=700, labelled_batch=5, unlabelled_batch=35)
"""An epoch has 2 steps on labels alone, and then 16: 4 * 2 + 8 * 16 steps in all."""


def by_timm(optim: Optim, at: Sequence[float]) -> list[float]:
    """timm's scheduler, stepped to each of these epochs in turn."""
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=optim.lr)
    scheduler = CosineLRScheduler(
        dummy,
        t_initial=optim.epochs - (optim.warmup_epochs if optim.warmup_prefix else 0),
        lr_min=optim.final_lr,
        warmup_t=optim.warmup_epochs,
        warmup_lr_init=optim.warmup_lr,
        warmup_prefix=optim.warmup_prefix,
    )
    found = []
    for epoch in at:
        scheduler.step(epoch)
        found.append(dummy.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("warmup", [0, 3, 6])  # it ends in either phase
def test_the_rate_by_whole_epochs_is_timms_scheduler_stepped_as_each_begins(warmup: int, prefix: bool) -> None:
    optim = replace(TWO_PHASES, schedule_by="whole_epoch", warmup_epochs=warmup, warmup_prefix=prefix)
    run = run_length(optim, EIGHTH)
    loop = [(epoch, step) for epoch in range(12) for step in range(2 if epoch < 4 else 16)]
    assert run.total_steps == len(loop)
    ours = [learning_rate(step, run, optim, EIGHTH.batch) for step in range(run.total_steps)]
    assert ours == pytest.approx(by_timm(optim, [epoch for epoch, _ in loop]), rel=1e-12)


@pytest.mark.parametrize("prefix", [True, False])
def test_the_rate_by_epochs_is_timms_scheduler_stepped_to_the_part_of_an_epoch_that_is_done(prefix: bool) -> None:
    optim = replace(TWO_PHASES, schedule_by="epoch", warmup_prefix=prefix)
    run = run_length(optim, EIGHTH)
    done = [step / 2 for step in range(8)] + [4 + step / 16 for step in range(128)]
    ours = [learning_rate(step, run, optim, EIGHTH.batch) for step in range(run.total_steps)]
    assert ours == pytest.approx(by_timm(optim, done), rel=1e-12)


def test_by_epochs_is_by_steps_where_all_epochs_are_of_one_length() -> None:
    optim = replace(TWO_PHASES, labels_only_epochs=0)
    run = run_length(optim, EIGHTH)
    steps = range(run.total_steps)
    by_step, by_epoch = (
        [learning_rate(step, run, replace(optim, schedule_by=by), EIGHTH.batch) for step in steps]
        for by in ("step", "epoch")
    )
    assert by_epoch == pytest.approx(by_step, rel=1e-12)


def test_half_way_through_semi_mae_on_imagenet_the_rate_by_steps_is_22_percent_higher_than_by_epochs() -> None:
    optim, data = in1k.semiformer_optim(), in1k.data_10pct()
    pools = Pools(128_116, 1_281_167, data.batch // 8, data.batch * 7 // 8)
    run = run_length(optim, pools)
    half = round(100 * run.labels_only_epoch_steps + 250 * run.epoch_steps) + 10  # 10 steps into epoch 350 of 700
    theirs, ours = (
        learning_rate(half, run, replace(optim, schedule_by=by), data.batch) for by in ("whole_epoch", "step")
    )
    done = (100 / 8 + 250) / (100 / 8 + 600)  # in epochs of 1,232 steps: 3/7
    by_hand = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * done)) / 2
    assert (theirs, ours) == pytest.approx(((1e-3 + 1e-5) / 2, by_hand), rel=1e-4)
    assert ours / theirs == pytest.approx(1.22, abs=0.005)


def test_a_rate_in_steps_falls_with_the_whole_epoch_as_torchs_multi_step() -> None:
    optim = replace(
        TWO_PHASES, schedule="steps", drop_epochs=(2, 5.5), drop_factor=0.5, warmup_epochs=0, schedule_by="whole_epoch"
    )
    run = run_length(optim, EIGHTH)
    rates = [learning_rate(step, run, optim, EIGHTH.batch) for step in range(run.total_steps)]
    by_hand = [1e-3] * 4 + [5e-4] * (4 + 2 * 16) + [2.5e-4] * (6 * 16)  # 5.5 is reached as epoch 6 begins
    assert rates == pytest.approx(by_hand)
    optim = replace(optim, schedule_by="epoch")
    rates = [learning_rate(step, run, optim, EIGHTH.batch) for step in range(run.total_steps)]
    assert rates == pytest.approx([1e-3] * 4 + [5e-4] * (4 + 16 + 8) + [2.5e-4] * (8 + 6 * 16))


@pytest.mark.parametrize("by", ["epoch", "whole_epoch"])
def test_an_extension_of_a_rate_by_epochs_warms_up_over_the_same_share_of_its_epochs(by: str) -> None:
    optim = replace(TWO_PHASES, schedule_by=by)
    run, longer = (run_length(optim, EIGHTH, asked) for asked in ([], [Extension(4, "rewarm")]))
    assert (longer.extensions[0].steps, longer.extensions[0].warmup_steps) == (4 * 16, 16)  # 3 of 12 epochs: 1 of 4
    rates = [learning_rate(step, longer, optim, EIGHTH.batch) for step in range(longer.total_steps)]
    own = [learning_rate(step, run, optim, EIGHTH.batch) for step in range(run.total_steps)]
    assert rates[: run.total_steps] == own  # to the bit
    assert rates[run.total_steps :] == pytest.approx(timms_cosine(64, 16, (own[-1], 1e-3, 1e-5)), rel=1e-9)


def test_the_rate_scales_with_the_batch_only_where_asked() -> None:
    scaled = Optim(lr=1.5e-4, lr_batch=256, final_lr=1e-6, epochs=10, warmup_epochs=0, epoch_unit="step")
    run = run_length(scaled, SEMIFORMER)
    assert learning_rate(0, run, scaled, 4096) == pytest.approx(2.4e-3)
    assert learning_rate(10, run, scaled, 4096) == pytest.approx(1.6e-5)
    warmed = replace(scaled, warmup_epochs=5, warmup_lr=1e-6)
    assert learning_rate(0, run_length(warmed, SEMIFORMER), warmed, 4096) == pytest.approx(1.6e-5)
    absolute = Optim(lr=1.5e-4, epochs=10, warmup_epochs=0, epoch_unit="step")
    assert learning_rate(0, run, absolute, 4096) == 1.5e-4


BY_HAND = {  # 8 images, 2 a step: 4 steps an epoch; warm-up over 1 epoch, tenths from epochs 3 and 4.5 of 6
    0: 0.0, 1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0, 11: 1.0, 12: 0.1, 17: 0.1, 18: 0.01, 23: 0.01,
}  # fmt: skip


def test_a_rate_in_steps_is_the_table_worked_out_by_hand() -> None:
    optim = Optim(lr=1.0, schedule="steps", drop_epochs=(3, 4.5), epochs=6, warmup_epochs=1)
    run = run_length(optim, Pools(0, 8, 0, 2))
    assert (run.total_steps, run.drop_steps) == (24, (12, 18))
    assert {step: learning_rate(step, run, optim, 2) for step in BY_HAND} == pytest.approx(BY_HAND)
    floored = replace(optim, final_lr=0.05)
    assert [learning_rate(step, run, floored, 2) for step in (4, 12, 18)] == pytest.approx([1.0, 0.1, 0.05])


def test_simmims_rate_falls_to_a_tenth_at_epoch_700_of_800_and_is_torchs_multi_step() -> None:
    optim = Optim(lr=1e-4, lr_batch=512, schedule="steps", drop_epochs=(700,), epochs=800, warmup_epochs=10)
    run = run_length(optim, Pools(0, 1_281_167, 0, 2048))  # 625.57 steps an epoch
    assert (run.warmup_steps, run.drop_steps, run.total_steps) == (6255, (437_898,), 500_455)
    assert [learning_rate(s, run, optim, 2048) for s in (6255, 437_897, 437_898)] == pytest.approx([4e-4, 4e-4, 4e-5])
    short = Optim(lr=1e-2, schedule="steps", drop_epochs=(5, 9), drop_factor=0.5, epochs=12, warmup_epochs=0)
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    theirs, rates = torch.optim.lr_scheduler.MultiStepLR(dummy, [5, 9], 0.5), []
    for _ in range(12):
        rates.append(dummy.param_groups[0]["lr"])
        dummy.step()
        theirs.step()
    run = run_length(replace(short, epoch_unit="step"), SEMIFORMER)
    assert [learning_rate(step, run, short, 1) for step in range(12)] == pytest.approx(rates)


def test_a_fall_counts_its_epochs_through_both_phases() -> None:
    pools = Pools(labelled=100, unlabelled=700, labelled_batch=5, unlabelled_batch=35)
    optim = Optim(epochs=10, warmup_epochs=0, labels_only_epochs=4, epoch_unit="labelled", drop_epochs=(2, 6))
    assert run_length(optim, pools).drop_steps == (2 * 100 // 40, 4 * 100 // 40 + 2 * 100 // 5)


EXTENDED = Optim(lr=1e-3, final_lr=1e-5, epochs=100, warmup_epochs=10, labels_only_epochs=20, epoch_unit="step")


def test_an_extension_re_warms_from_the_last_rate_and_is_timms_cosine_again() -> None:
    run = run_length(EXTENDED, SEMIFORMER)
    longer = run_length(EXTENDED, SEMIFORMER, [Extension(40, "rewarm"), Extension(20, "rewarm", 4e-4)])
    assert (longer.own_steps, longer.total_steps, longer.ends) == (100, 160, (100, 140, 160))
    assert (longer.labels_only_steps, longer.warmup_steps) == (run.labels_only_steps, run.warmup_steps)
    rates = [learning_rate(step, longer, EXTENDED, SEMIFORMER.batch) for step in range(160)]
    assert rates[:100] == [learning_rate(step, run, EXTENDED, SEMIFORMER.batch) for step in range(100)]  # to the bit
    first, second = timms_cosine(40, 4, (rates[99], 1e-3, 1e-5)), timms_cosine(20, 2, (rates[139], 4e-4, 1e-5))
    assert rates[100:140] == pytest.approx(first, rel=1e-9)
    assert rates[140:] == pytest.approx(second, rel=1e-9)
    assert rates[100] == rates[99]
    assert max(rates[100:140]) == rates[104] == 1e-3


def test_a_constant_extension_goes_on_at_the_last_rate_or_at_its_own() -> None:
    optim = replace(EXTENDED, lr_batch=256)
    longer = run_length(optim, SEMIFORMER, [Extension(5, "constant"), Extension(5, "constant", 1e-4)])
    rates = [learning_rate(step, longer, optim, 512) for step in range(110)]
    assert rates[100:105] == [rates[99]] * 5
    assert rates[105:] == [2e-4] * 5  # scaled as the run's own


def test_an_extension_of_a_rate_in_steps_drops_at_the_same_shares_of_its_length() -> None:
    optim = Optim(lr=1.0, schedule="steps", drop_epochs=(3, 4.5), epochs=6, warmup_epochs=1, epoch_unit="unlabelled")
    longer = run_length(optim, Pools(0, 8, 0, 2), [Extension(3, "rewarm")])  # 24 steps, then 12
    rates = [learning_rate(step, longer, optim, 2) for step in range(36)]
    by_hand = [0.01, 0.01 + 0.99 / 2, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    assert rates[24:] == pytest.approx(by_hand)


def test_an_extensions_epochs_are_passes_as_the_runs_own() -> None:
    pools = Pools(labelled=100, unlabelled=700, labelled_batch=5, unlabelled_batch=35)
    optim = Optim(epochs=10, warmup_epochs=0, labels_only_epochs=4, epoch_unit="labelled")
    longer = run_length(optim, pools, [Extension(1.5, "rewarm")])
    assert longer.total_steps - longer.own_steps == 1.5 * 100 / 5
    assert longer.epoch(longer.total_steps) == 11.5
    with pytest.raises(InputError, match=r"run\.extend 0\.01 is less than one step of 40 images"):
        run_length(optim, pools, [Extension(0.01, "rewarm")])


def test_an_extension_is_described_with_its_first_step_and_its_rates() -> None:
    three = [Extension(40, "rewarm"), Extension(10, "constant"), Extension(10, "constant", 1e-4)]
    longer = run_length(EXTENDED, SEMIFORMER, three)
    said = [describe_extension(number, longer, EXTENDED, SEMIFORMER.batch) for number in range(3)]
    last = [learning_rate(step, longer, EXTENDED, SEMIFORMER.batch) for step in (99, 139)]
    assert said[0] == (
        f"extended by 40 steps, from step 100: re-warmed over 4 steps from {last[0]:.3g} to 0.001, then half a cosine "
        f"down to {last[1]:.3g}"
    )
    assert said[1].startswith("extended by 10 steps, from step 140: a constant rate of 1.19e-05")
    assert not said[2].endswith("sets another")  # a tenth of the peak
    ends_at_0 = replace(EXTENDED, final_lr=0.0)
    low = describe_extension(0, run_length(ends_at_0, SEMIFORMER, three[1:]), ends_at_0, SEMIFORMER.batch)
    assert low.endswith("next to nothing; --run.extend-lr sets another")


@pytest.mark.parametrize(
    ("optim", "pools", "message"),
    [
        (Optim(epoch_unit="unlabelled"), Pools(100, 0, 8, 0), "epoch_unit is unlabelled"),
        (Optim(epoch_unit="labelled"), Pools(0, 100, 0, 8), "epoch_unit is labelled"),
        (Optim(labels_only_epochs=9), Pools(0, 100, 0, 8), "no labelled images"),
        (Optim(epochs=0.01, warmup_epochs=0), Pools(0, 100, 0, 8), "less than one step"),
    ],
)
def test_what_cannot_be_a_run_is_refused_in_one_line(optim: Optim, pools: Pools, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run_length(optim, pools)
    assert "\n" not in str(caught.value)
