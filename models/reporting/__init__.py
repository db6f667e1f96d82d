"""What does a run tell? A journal while it trains, figures and a page at its end, and the recipe and machine that its
folder was begun with.

May import `records`, `distributed`, `checkpoint` and `optim`. Read `journal.py` first.
"""
