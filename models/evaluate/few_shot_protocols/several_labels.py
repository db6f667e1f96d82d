"""Which images are shots, and which of those are held out, where an image may have several labels.

The rules are those of ELEVATER: of the library that draws its shots (vision-datasets 0.2.17, sample_few_shot_subset),
and of its toolkit, which holds a fifth of them out (feature.py, get_dataloader).
"""

import numpy as np


def few_of(labels: np.ndarray, k: int) -> np.ndarray:
    """Return the rows, i64, of about k images of each class, of labels [n, C] that are 1 or 0, in their order.

    An image is taken while one of its classes has fewer than k images, unless that one has more than half of k and
    another of its classes more than 1.5 k already; of images without a label the first k are taken. It ends when every
    class has k, or with the images: a rare class may have fewer than it could.
    """
    taken, images, without = [], np.zeros(labels.shape[1], np.int64), 0
    for row, each in enumerate(labels):
        of = images[each > 0]
        if not len(of):
            without += 1
            taken += [row] if without <= k else []
            continue
        if of.min() < k and (of.min() <= k / 2 or of.max() <= 1.5 * k):
            taken.append(row)
            images += each > 0
        if images.min() >= k:
            break
    return np.array(taken, np.int64)


def held_out(labels: np.ndarray, parts: int, number: int) -> np.ndarray:
    """Return the rows, i64, of part `number` of `parts` that are held out in turn, of labels [n, C] that are 1 or 0.

    Part 0 is ELEVATER's: for each class in turn the first images with it, until the held-out ones have a fifth (1 of
    `parts`) of its images, rounded up. Each further part is made so of the images that are in none before; a class of
    which none is left is passed over.
    """
    aim = np.ceil(labels.sum(0) / parts)
    left, rows = labels > 0, []
    for _ in range(number + 1):
        rows, wanted = [], aim.copy()
        for each in range(labels.shape[1]):
            for row in np.flatnonzero(left[:, each]):
                if wanted[each] <= 0:
                    break
                rows.append(row)
                wanted -= labels[row]
                left[row] = False
    return np.array(sorted(rows), np.int64)
