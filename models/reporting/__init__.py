"""How does a run report itself? The journal and its timing while it trains; the counts of pseudo-labels; figures and a
page at the end; the machine that it ran on.

May import `pipeline`, `config`, `method`, `records`, `distributed` and `optim`. Read `journal.py` first.
"""
