"""Each threshold against its paper's equations, in slow loops over images and classes; steps come in micro-batches."""

import copy
import math
from statistics import fmean, variance

import pytest
import torch

from models.pseudo_labels.settings import Pseudo
from models.pseudo_labels.thresholds.build import build_threshold
from models.pseudo_labels.thresholds.freematch import FreeMatch
from pipeline.errors import InputError

CLASSES, IMAGES, MOMENTUM, TAU = 4, 12, 0.3, 0.9
DOUBLE = torch.float64


def steps(seed: int = 0) -> list[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """Four steps of two micro-batches: ids (one of them twice in a step), guesses, predictions on labelled images."""
    g = torch.Generator().manual_seed(seed)

    def guesses(n: int) -> torch.Tensor:
        return (3 * torch.randn(n, CLASSES, generator=g, dtype=DOUBLE)).softmax(-1)

    made = []
    for _ in range(4):
        ids = torch.randperm(IMAGES, generator=g)[:10]
        ids[9] = ids[0]
        made.append([(ids[half], guesses(5), guesses(2)) for half in (slice(0, 5), slice(5, 10))])
    return made


def weights_of(kind: str, **settings) -> list[list[float]]:
    """Ours, of each step."""
    threshold = build_threshold(Pseudo(TAU, kind, MOMENTUM, **settings), CLASSES).double()
    threshold.set_dataset_size(IMAGES, IMAGES)
    found = []
    for step in steps():
        found.append([])
        for ids, probabilities, labelled in step:
            found[-1] += threshold.weigh(*probabilities.max(-1)).tolist()
            threshold.observe(ids, probabilities)
            threshold.observe_labelled(labelled)
        threshold.after_step()
    return found


def rows(step) -> list[tuple[int, list[float]]]:
    return [pair for ids, probabilities, _ in step for pair in zip(ids.tolist(), probabilities.tolist(), strict=True)]


def flexmatch() -> list[list[float]]:
    status, found = [-1] * IMAGES, []
    for step in steps():
        count = [sum(s == c for s in status) for c in range(CLASSES)]
        unused = sum(s == -1 for s in status)
        effect = [count[c] / max(max(count), unused) for c in range(CLASSES)]
        bar = [TAU * b / (2 - b) for b in effect]
        found.append([float(max(p) >= bar[p.index(max(p))]) for _, p in rows(step)])
        sure = [(image, p.index(max(p))) for image, p in rows(step) if max(p) >= TAU]
        for image in {image for image, _ in sure}:
            status[image] = max(c for other, c in sure if other == image)
    return found


def freematch() -> list[list[float]]:
    level, prior, found = 1 / CLASSES, [1 / CLASSES] * CLASSES, []
    for step in steps():
        bar = [level * p / max(prior) for p in prior]
        guesses = [p for _, p in rows(step)]
        found.append([float(max(p) >= bar[p.index(max(p))]) for p in guesses])
        level = MOMENTUM * level + (1 - MOMENTUM) * fmean(map(max, guesses))
        prior = [MOMENTUM * prior[c] + (1 - MOMENTUM) * fmean(p[c] for p in guesses) for c in range(CLASSES)]
    return found


def softmatch() -> list[list[float]]:
    mean, spread, found = 1 / CLASSES, 1.0, []
    for step in steps():
        sure = [max(p) for _, p in rows(step)]
        found.append([1.0 if c >= mean else math.exp(-((c - mean) ** 2) / (2 * spread / 4)) for c in sure])
        mean = MOMENTUM * mean + (1 - MOMENTUM) * fmean(sure)
        spread = MOMENTUM * spread + (1 - MOMENTUM) * variance(sure)
    return found


def adamatch() -> list[list[float]]:
    mean, found = None, []
    for step in steps():
        bar = TAU * (1 if mean is None else mean)
        found.append([float(max(p) >= bar) for _, p in rows(step)])
        now = fmean(max(p) for _, _, labelled in step for p in labelled.tolist())
        mean = now if mean is None else MOMENTUM * mean + (1 - MOMENTUM) * now
    return found


def fixed() -> list[list[float]]:
    return [[float(max(p) >= TAU) for _, p in rows(step)] for step in steps()]


@pytest.mark.parametrize("paper", [fixed, flexmatch, freematch, softmatch, adamatch])
def test_weights_are_the_paper_s_over_several_steps(paper):
    ours, theirs = weights_of(paper.__name__), paper()
    for step, expected in zip(ours, theirs, strict=True):
        assert step == pytest.approx(expected, rel=1e-9)
    last = [weight for step in theirs[1:] for weight in step]
    assert min(last) < 1
    assert len(set(last)) > 1


def test_a_guess_at_the_threshold_is_believed():
    threshold = build_threshold(Pseudo(0.5), 2)
    assert threshold.weigh(torch.tensor([0.5, 0.49]), torch.tensor([0, 0])).tolist() == [1.0, 0.0]


def test_fairness_is_the_paper_s_equation():
    threshold = FreeMatch(CLASSES, MOMENTUM, fairness=0.05).double()
    for ids, probabilities, _ in steps()[0]:
        threshold.observe(ids, probabilities)
    threshold.after_step()
    logits = torch.randn(6, CLASSES, dtype=DOUBLE, generator=torch.Generator().manual_seed(3), requires_grad=True)
    weights = torch.tensor([1, 0, 1, 1, 0, 1], dtype=DOUBLE)
    guesses = [p for _, p in rows(steps()[0])]

    def histogram(distributions):
        return [fmean(float(p.index(max(p)) == c) for p in distributions) for c in range(CLASSES)]

    prior = [MOMENTUM / CLASSES + (1 - MOMENTUM) * fmean(p[c] for p in guesses) for c in range(CLASSES)]
    chosen = [MOMENTUM / CLASSES + (1 - MOMENTUM) * h for h in histogram(guesses)]
    passed = [p for p, w in zip(logits.softmax(-1).tolist(), weights.tolist(), strict=True) if w]
    now = [fmean(p[c] for p in passed) / h if h else 0.0 for c, h in enumerate(histogram(passed))]
    before = [p / h for p, h in zip(prior, chosen, strict=True)]
    expected = sum(a / sum(before) * math.log(b / sum(now) + 1e-12) for a, b in zip(before, now, strict=True))
    ours = threshold.extra_loss(logits, weights)
    assert ours.item() == pytest.approx(0.05 * expected, rel=1e-9)
    (gradient,) = torch.autograd.grad(ours, logits)
    assert gradient.isfinite().all()
    assert (gradient[weights == 0] == 0).all()


def test_fairness_of_nothing_is_a_zero_with_finite_gradients_and_off_by_default():
    threshold = FreeMatch(CLASSES, MOMENTUM, fairness=1.0)
    for n in (0, 3):
        logits = torch.randn(n, CLASSES, requires_grad=True)
        loss = threshold.extra_loss(logits, torch.zeros(n))
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.isfinite().all()
    assert FreeMatch(CLASSES, MOMENTUM, fairness=0.0).extra_loss(logits, torch.zeros(3)) is None


def test_flexmatch_wants_to_know_how_many_images_there_are_and_takes_four_bytes_for_each():
    threshold = build_threshold(Pseudo(kind="flexmatch"), CLASSES)
    ids, probabilities, _ = steps()[0][0]
    with pytest.raises(InputError, match="set_dataset_size"):
        threshold.observe(ids, probabilities)
    threshold.set_dataset_size(1000, 900)
    threshold.observe(ids, probabilities)
    assert threshold.status.nbytes == 4000
    assert threshold.counts.tolist() == [0] * CLASSES + [900]


def test_flexmatch_without_a_size_takes_the_one_of_a_checkpoint():
    one, other = (build_threshold(Pseudo(kind="flexmatch"), CLASSES) for _ in range(2))
    one.set_dataset_size(IMAGES, IMAGES)
    one.observe(*steps()[0][0][:2])
    one.after_step()
    for empty in (copy.deepcopy(other), other):
        empty.load_state_dict(one.state_dict())
        assert torch.equal(empty.status, one.status)
    assert (one.status >= 0).any()


def test_flexmatch_counts_what_its_status_says():
    threshold = build_threshold(Pseudo(TAU, "flexmatch"), CLASSES)
    threshold.set_dataset_size(IMAGES, IMAGES)
    for step in steps(1) + steps(2):
        for ids, probabilities, _ in step:
            threshold.observe(ids, probabilities)
        threshold.after_step()
        assert threshold.counts.tolist() == [int((threshold.status == c).sum()) for c in (*range(CLASSES), -1)]


def test_flexmatch_takes_the_higher_class_of_an_image_that_is_twice_in_a_step_in_any_order():
    found = []
    for order in ([0, 1, 2], [2, 1, 0]):
        threshold = build_threshold(Pseudo(TAU, "flexmatch"), CLASSES)
        threshold.set_dataset_size(IMAGES, IMAGES)
        ids, classes = torch.tensor([3, 3, 3])[order], torch.tensor([1, 2, 0])[order]
        for part in (slice(0, 1), slice(1, 3)):  # two micro-batches
            threshold.observe(ids[part], torch.nn.functional.one_hot(classes[part], CLASSES).double())
        threshold.after_step()
        found.append(threshold.status.tolist())
        assert int(threshold.counts.sum()) == IMAGES
    assert found[0] == found[1]
    assert found[0][3] == 2
