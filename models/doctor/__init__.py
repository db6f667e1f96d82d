"""Is this machine ready for a run, and what would go wrong on it? One command checks it in a few minutes and prints one
table: what was checked, the result, a figure, and what to do.

    python -m models.doctor

One file of `stages/` is one stage. Each runs in a process of its own with a deadline, so that a hang or a crash is a
row of the table, and what was found so far is on disk. Without a GPU the rows that need one say so.

May import `pipeline` and every other room of `models`. Read `stage.py` first, then `stages/machine.py`.
"""
