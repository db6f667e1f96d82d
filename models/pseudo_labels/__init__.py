"""Which guesses about unlabelled images are learned from, and how much does each count? Thresholds, distribution
alignment, soft labels and mixup.

May import `encoder`, `method`, `losses` and `running_stats`. Read `pseudo_label.py` first.
"""
