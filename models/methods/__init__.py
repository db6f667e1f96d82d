"""What is learned from? One paper is one file: the objective on top, its recipes underneath.

May import `encoder`, `masked`, `pseudo_labels`, `config` and `method`. Read `fixmatch.py` first.
"""
