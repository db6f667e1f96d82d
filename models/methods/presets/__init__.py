"""Which settings do recipes of several methods share? Each number has its origin beside it.

May import `config` and `masked`. Read `small.py` first.
"""
