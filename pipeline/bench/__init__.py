"""How fast is the data path, and against whom? Images that a CPU-second prepares, of each stage and of the peers.
`python -m pipeline.bench DATA`

May import every other room of `pipeline`. Read `cases.py` first.
"""
