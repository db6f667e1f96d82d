"""Which labels may be seen? A split lists the samples whose labels training may read; every other label stays hidden.

May import `store`. Read `splits.py` first.
"""
