"""How does a run survive a kill? Checkpoints with a checksum, written beside training, in one file or one a rank.

May import `distributed`. Read `checkpoint.py` first.
"""
