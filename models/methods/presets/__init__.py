"""Settings that recipes of several methods share, each number with its origin.

May import `config` and `masked`. Read `shared.py` first.
"""
