"""Losses against slow loops in float64."""

import statistics

import pytest
import torch
import torch.nn.functional as F

from models.encoder.patches import IMAGENET
from models.losses import pixel_loss, pseudo_label_loss
from pipeline.errors import InputError

DOUBLE = torch.float64


def slow_pixel_loss(predicted, images, ids, patch, normalise):
    across, errors = images.shape[3] // patch, []
    for n in range(ids.shape[0]):
        for m, index in enumerate(ids[n].tolist()):
            top, left = index // across * patch, index % across * patch
            target = [
                (images[n, c, top + y, left + x].item() / 255 - IMAGENET.mean[c]) / IMAGENET.std[c]
                for y in range(patch)
                for x in range(patch)
                for c in range(3)
            ]
            if normalise:
                mean, variance = statistics.fmean(target), statistics.variance(target)  # unbiased
                target = [(value - mean) / (variance + 1e-6) ** 0.5 for value in target]
            errors += [(p - t) ** 2 for p, t in zip(predicted[n, m].tolist(), target, strict=True)]
    return statistics.fmean(errors)


@pytest.mark.parametrize("normalise", [False, True])
def test_pixel_loss_equals_a_loop_over_pixels(normalise):
    images = torch.randint(256, (2, 3, 6, 9), dtype=torch.uint8)
    ids = torch.tensor([[0, 4, 5], [1, 2, 3]])
    predicted = torch.randn(2, 3, 27, dtype=DOUBLE)
    expected = slow_pixel_loss(predicted, images, ids, 3, normalise)
    assert pixel_loss(predicted, images, ids, 3, normalise=normalise).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("normalise", "absolute"), [(True, False), (False, True)])
def test_a_compiled_pixel_loss_is_the_same_in_one_graph_whatever_the_number_of_images(normalise, absolute):
    graphs = []
    torch._dynamo.reset()

    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    for n in (4, 6, 5):
        torch.manual_seed(n)
        images, ids = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8), torch.rand(n, 4).argsort(1)[:, :3]
        drawn, results = torch.randn(n, 3, 48), []
        for compiler in (None, counting):
            predicted = drawn.clone().requires_grad_()
            loss = pixel_loss(predicted, images, ids, 4, normalise=normalise, absolute=absolute, compiler=compiler)
            loss.backward()
            results.append((loss, predicted.grad))
        torch.testing.assert_close(*results)
    assert len(graphs) == 2  # of a fixed number, then of any


def test_pixel_loss_reads_no_other_patch():
    images = torch.randint(256, (1, 3, 4, 4), dtype=torch.uint8)
    ids, predicted = torch.tensor([[0, 3]]), torch.randn(1, 2, 12)
    loss = pixel_loss(predicted, images, ids, 2, normalise=True)
    images[:, :, :2, 2:] = 0  # patch 1
    assert torch.equal(pixel_loss(predicted, images, ids, 2, normalise=True), loss)
    images[:, :, :2, :2] = torch.arange(4, dtype=torch.uint8).view(2, 2)  # patch 0
    assert not torch.equal(pixel_loss(predicted, images, ids, 2, normalise=True), loss)


def test_pixel_loss_of_nothing_hidden_is_refused():
    with pytest.raises(InputError, match="no patch is hidden"):
        pixel_loss(
            torch.zeros(1, 0, 12), torch.zeros(1, 3, 4, 4), torch.zeros(1, 0, dtype=torch.int64), 2, normalise=True
        )


def test_half_precision_predictions_are_compared_in_f32():
    images, ids = torch.randint(256, (1, 3, 4, 4), dtype=torch.uint8), torch.tensor([[0, 3]])
    predicted = torch.randn(1, 2, 12, dtype=torch.bfloat16)
    loss = pixel_loss(predicted, images, ids, 2, normalise=False)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, pixel_loss(predicted.float(), images, ids, 2, normalise=False))
    assert pseudo_label_loss(torch.randn(2, 3).bfloat16(), torch.tensor([0, 1]), 2).dtype == torch.float32


def test_pseudo_labels_are_averaged_over_all_that_might_have_passed():
    logits, targets = torch.randn(7, 5, dtype=DOUBLE, requires_grad=True), torch.randint(5, (7,))
    passed = torch.tensor([1, 0, 1, 1, 0, 0, 0], dtype=torch.bool)
    expected = (F.cross_entropy(logits, targets, reduction="none") * passed).mean()
    loss = pseudo_label_loss(logits[passed], targets[passed], 7)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_no_pseudo_label_at_all_is_a_zero_that_still_has_gradients():
    logits = torch.randn(0, 5, requires_grad=True)
    loss = pseudo_label_loss(logits, torch.empty(0, dtype=torch.int64), 7)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.shape == (0, 5)
    with pytest.raises(InputError, match="there are 0"):
        pseudo_label_loss(logits, torch.empty(0, dtype=torch.int64), 0)
