"""Which process is this, on which device, in which precision, and what do all processes agree on? Also how a method is
compiled, and averaged or sharded over the processes.

May import `pipeline`, `config`, `records`, `encoder`, `masked` and `method`. Read `process_group.py` first.
"""
