"""What is the objective, and with which settings? One paper is one file: the objective on top, its recipes below.

May import `config`, `encoder`, `masked`, `method`, `pseudo_labels` and `semiformer`. Read `fixmatch.py` first.
"""
