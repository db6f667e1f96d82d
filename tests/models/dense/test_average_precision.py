"""Average precision against a slow loop of its definition, and against values known in closed form."""

import json
import math

import numpy as np
import pytest
import torch

from models.dense.average_precision import average_precision, names_of, record
from models.dense.mask_rcnn import Found
from models.dense.rle import as_json, encode
from pipeline.dense.boxes import Objects
from pipeline.dense.segmentations import rle

THRESHOLDS, RECALLS = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)


def objects(boxes, classes=None, ignored=None, masks=None, areas=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    m, sides = len(boxes), boxes[:, 2:] - boxes[:, :2]
    return Objects(
        boxes,
        np.zeros(m, np.int64) if classes is None else np.array(classes, np.int64),
        np.zeros(m, bool) if ignored is None else np.array(ignored, bool),
        sides.prod(1) if areas is None else np.array(areas, np.float32),
        masks,
    )


def found(boxes, scores, classes=None, masks=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    classes = torch.zeros(len(boxes), dtype=torch.int64) if classes is None else torch.tensor(classes)
    return Found(boxes, classes, torch.tensor(scores, dtype=torch.float32), masks)


def square(side):
    return [np.array([0, 0, side, 0, side, side, 0, side], float)]


def scored(*pairs, classes=1, masks=False, side=(200, 200)):
    return average_precision([record(i, side, t, f) for i, (t, f) in enumerate(pairs)], classes, masks)


def area(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def overlap(one, other):
    return area([*np.maximum(one[:2], other[:2]), *np.minimum(one[2:], other[2:])])


def slow_ap(pairs, number, threshold):
    """Greedy matching by score in each image, then the mean of the best precision at 101 recalls or beyond."""
    marks, known = [], 0
    for truth, guess in pairs:
        boxes, classes, scores = guess.boxes, guess.classes, guess.scores
        own = np.flatnonzero(truth.classes == number)
        known += sum(not truth.ignored[t] for t in own)
        taken = set()
        for d in sorted(np.flatnonzero(classes.numpy() == number), key=lambda d: -scores[d].item()):
            box, best, chosen = boxes[d].double().numpy(), threshold, None
            for t in own:
                held = truth.boxes[t].astype(float)
                iou = overlap(box, held) / (area(box) + area(held) - overlap(box, held))
                if not truth.ignored[t] and t not in taken and iou >= best:
                    best, chosen = iou, t
            if chosen is not None:
                taken.add(chosen)
                marks.append((scores[d].item(), True))
            elif not any(overlap(box, truth.boxes[t].astype(float)) >= threshold * area(box)
                         for t in own if truth.ignored[t]):  # fmt: skip
                marks.append((scores[d].item(), False))
    if not known:
        return math.nan
    marks.sort(key=lambda mark: -mark[0])
    points, right = [], 0
    for seen, (_, hit) in enumerate(marks, 1):
        right += hit
        points.append((right / known, right / seen))
    return np.mean([max([p for r, p in points if r >= level], default=0.0) for level in RECALLS])


def random_pairs(seed, classes):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(4):
        m = rng.integers(0, 6)
        corner = rng.uniform(0, 100, (m, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 90, (m, 2))], 1).astype(np.float32)
        near = np.concatenate([boxes + rng.normal(0, 3, boxes.shape), boxes + rng.normal(0, 8, boxes.shape)])
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        own = rng.integers(0, classes, m)
        guessed = np.where(rng.random(2 * m) < 0.8, np.tile(own, 2), rng.integers(0, classes, 2 * m))
        truth = objects(boxes, own, rng.random(m) < 0.2)
        pairs.append((truth, found(near.tolist(), rng.permutation(2 * m) / 20 + rng.random(), guessed.tolist())))
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_a_slow_loop_computes(seed):
    pairs, classes = random_pairs(seed, 3), 4  # the last class has no object
    scores = scored(*pairs, classes=classes)
    slow = np.array([[slow_ap(pairs, number, t) for t in THRESHOLDS] for number in range(classes)])
    np.testing.assert_allclose(scores.classes["box_ap"], slow.mean(1), atol=1e-12)
    np.testing.assert_allclose(scores.classes["box_ap50"], slow[:, 0], atol=1e-12)
    there = slow[~np.isnan(slow[:, 0])]
    assert 0.05 < there.mean() < 0.95
    got = [scores.values[name] for name in ("box_ap", "box_ap50", "box_ap75")]
    np.testing.assert_allclose(got, [there.mean(), there[:, 0].mean(), there[:, 5].mean()], atol=1e-12)


def test_closed_forms():
    box, half = [0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 50.0, 100.0]
    assert scored((objects([box]), found([box], [0.9]))).values["box_ap"] == pytest.approx(1)
    shifted = [0.0, 0.0, 70.0, 100.0]  # IoU 0.7: found at 0.5, 0.55, 0.6, 0.65 and 0.7
    values = scored((objects([box]), found([shifted], [0.9]))).values
    assert values["box_ap"] == pytest.approx(0.5)
    assert (values["box_ap50"], values["box_ap75"]) == (pytest.approx(1), 0)
    both = objects([box, [110, 110, 190, 190]])
    assert scored((both, found([box], [0.9]))).values["box_ap"] == pytest.approx(51 / 101)  # recalls 0 to 0.5
    twice = scored((objects([box]), found([box, box], [0.9, 0.8])))  # the second one lowers no precision before it
    assert twice.values["box_ap"] == pytest.approx(1)
    wrong_first = scored((objects([box]), found([[150, 150, 160, 160], box], [0.9, 0.8])))
    assert wrong_first.values["box_ap"] == pytest.approx(0.5)
    assert scored((objects([box]), found([half], [0.9]))).values["box_ap"] == pytest.approx(0.1)


def test_sizes_are_of_the_annotations_area():
    small, large = [0.0, 0.0, 20.0, 20.0], [50.0, 50.0, 190.0, 190.0]
    values = scored((objects([small, large]), found([large], [0.9]))).values
    assert values["box_ap_small"] == 0
    assert values["box_ap_large"] == pytest.approx(1)
    assert math.isnan(values["box_ap_medium"])
    thin = objects([large], areas=[500.0])  # its mask is small, as COCO counts it
    assert scored((thin, found([large], [0.9]))).values["box_ap_small"] == pytest.approx(1)


def test_ignored_objects_neither_count_nor_do_detections_within_them():
    box, crowd = [0, 0, 50, 50], [100, 100, 200, 200]
    inside = [[100, 100, 140, 140], [150, 150, 200, 200]]
    truth, all_found = objects([box, crowd], ignored=[False, True]), found([*inside, box], [0.9, 0.8, 0.7])
    assert scored((truth, all_found)).values["box_ap"] == pytest.approx(1)
    counted = objects([box, crowd])
    assert scored((counted, all_found)).values["box_ap"] < 0.3
    assert math.isnan(scored((objects([crowd], ignored=[True]), found([], []))).values["box_ap"])


def test_sets_without_detections_or_without_objects():
    box = [0, 0, 50, 50]
    none = found([], [])
    assert scored((objects([box]), none), (objects([box]), none)).values["box_ap"] == 0
    assert all(math.isnan(v) for v in scored((objects([]), none)).values.values())
    assert math.isnan(scored((objects([]), found([box], [0.9]))).values["box_ap"])
    assert math.isnan(average_precision([], 2, True).values["mask_ap"])
    assert tuple(average_precision([], 2, True).values) == names_of(True)
    empty = torch.zeros(0, 200, 200, dtype=torch.bool)
    whole = objects([box], masks=(square(50),))
    assert scored((whole, found([], [], masks=empty)), masks=True).values["mask_ap"] == 0


def test_the_first_object_and_the_first_detection_count():
    """COCOeval takes an object or a detection with id 0 for one that has no partner."""
    box = [0, 0, 50, 50]
    for n in (1, 2, 3):
        pairs = [(objects([box]), found([box], [0.9 - i / 10])) for i in range(n)]
        assert scored(*pairs).values["box_ap"] == pytest.approx(1)


def test_masks_are_judged_by_their_own_overlap_and_size():
    box = [0.0, 0.0, 100.0, 100.0]
    left = torch.zeros(1, 200, 200, dtype=torch.bool)
    left[:, :100, :70] = True  # IoU 0.7
    scores = scored((objects([box], masks=(square(100),)), found([box], [0.9], masks=left)), masks=True)
    assert scores.values["box_ap"] == pytest.approx(1)
    assert scores.values["mask_ap"] == pytest.approx(0.5)
    assert scores.classes["mask_ap50"] == [pytest.approx(1)]
    thin = torch.zeros(1, 200, 200, dtype=torch.bool)  # a small mask in a large box that meets no object
    thin[:, 150:160, 150:160] = True
    small = objects([[0, 0, 20, 20]], masks=(square(20),))
    first = scored((small, found([[100, 100, 200, 200]], [0.9], masks=thin)), masks=True)
    second = torch.zeros(2, 200, 200, dtype=torch.bool)
    second[0], second[1, :20, :20] = thin[0], True
    both = found([[100, 100, 200, 200], [0, 0, 20, 20]], [0.9, 0.8], masks=second)
    assert first.values["mask_ap_small"] == 0
    values = scored((small, both), masks=True).values
    assert values["mask_ap_small"] == pytest.approx(0.5)  # it counts as small, by its mask
    assert values["box_ap_small"] == pytest.approx(1)  # and as large, by its box


def test_the_order_of_records_does_not_count():
    pairs = random_pairs(7, 2)
    records = [record(i, (200, 200), t, f) for i, (t, f) in enumerate(pairs)]
    one, other = (average_precision(each, 2, False) for each in (records, records[::-1]))
    assert repr(one) == repr(other)  # of which some are not a number


def test_nothing_is_printed(capsys):
    scored((objects([[0, 0, 9, 9]]), found([[0, 0, 9, 9]], [0.5])))
    assert capsys.readouterr() == ("", "")


def test_run_lengths_are_of_columns():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 7, 5)) < 0.4
    assert encode(masks[:0]) == []
    for mask, encoded in zip(masks, encode(masks), strict=True):
        columns = mask.T.ravel()
        edges = [0, *(np.flatnonzero(np.diff(columns)) + 1), columns.size]
        runs = [0] * int(columns[0]) + np.diff(edges).tolist()  # they begin with what is not of the mask
        assert encoded == rle({"size": [7, 5], "counts": runs}, 7, 5)
        held = json.loads(json.dumps(as_json(encoded)))
        assert held["counts"].encode() == encoded["counts"]
        assert held["size"] == [7, 5]
