"""Which predictions on unlabelled images become labels, and how much does each count? Thresholds, distribution
alignment, soft labels and mixup.

May import `encoder`, `losses`, `method` and `running_stats`. Read `pseudo_label.py` first.
"""
