"""How does a run survive a kill? Checkpoints with a checksum, saved on a thread beside training, in one file or one a
rank.

May import `pipeline`, `records` and `distributed`. Read `save_load.py` first.
"""
