"""How much does each pseudo-label count? One threshold of a paper is one file.

May import `running_stats`. Read `threshold.py` first.
"""
